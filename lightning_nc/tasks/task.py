"""What a kind of label means: the one place that knows."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, get_args

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from lightning_nc.functional.counts import Count, counts_for
from lightning_nc.functional.evaluate import evaluate
from lightning_nc.functional.measure import Measure
from lightning_nc.functional.select import select
from lightning_nc.stream.accumulator import Accumulator, Encoded
from lightning_nc.stream.graph_totals import GraphTotals
from lightning_nc.tasks.notices import about_outcomes
from lightning_nc.values.covariance import CovarianceSetting, check_covariance
from lightning_nc.values.evidence import Evidence
from lightning_nc.values.outcome import Outcome
from lightning_nc.values.penalties import NOT_STATED, Penalties
from lightning_nc.values.training import UNKNOWN, Training


@dataclass(frozen=True)
class Settings:
    """What a user chooses of a task.

    Attributes:
        num_classes: C; None: the classifier's rows.
        covariance: "auto", "pooled", "per_class" or "none".
        ignore_index: Label of rows to leave out, or None.
        measures: Keys, globs, "default" or functions by dotted path.
        sample_rows: Rows kept for NC4 and the pictures.
        seed: For the sample.
        min_count: Classes with fewer rows are left out of every formula.
        measures_layers: Whether layers are measured besides the classifier's features.
        own_covariances: That of some modules, where it is another one.
        penalties: Those of the objective, as far as they are stated.
        shots: Classes with fewer rows than the first are few-shot, with more than the second many-shot.
        class_counts: Rows of each class in training; None: as they are counted.
        keeps_all_rows: Whether all rows of a batch enter, so that counts are those of the data.
        threshold: Above which the sigmoid of a score is a decision for a tag; None: the highest scores
            are, as many as a row has tags.
    """

    num_classes: int | None = None
    covariance: CovarianceSetting = "auto"
    ignore_index: int | None = -100
    measures: tuple[str, ...] = ("default",)
    sample_rows: int = 8192
    seed: int = 0
    min_count: int = 1
    measures_layers: bool = False
    own_covariances: Mapping[str, CovarianceSetting] = field(default_factory=dict)
    penalties: Penalties = NOT_STATED
    shots: tuple[int, int] = (20, 100)
    class_counts: tuple[int, ...] | None = None
    keeps_all_rows: bool = True
    threshold: float | None = None

    def __post_init__(self) -> None:
        for each in (self.covariance, *self.own_covariances.values()):
            check_covariance(each, get_args(CovarianceSetting))

    @property
    def occasions(self) -> list[str]:
        """In which further measures join the default ones."""
        given = {"layers": self.measures_layers, "min_count": self.min_count > 1}
        return [name for name, is_given in given.items() if is_given]


@dataclass(frozen=True, eq=False)
class Around:
    """What is known besides the rows of a stage where it ends, the same on all ranks.

    Attributes:
        references: The evidence of other stages, by stage and module.
        by_head: Whether decisions that nobody saw are those of the classifier.
        training: What is known of the rows of each class in training.
        trains: Whether the rows of the stage are of training.
        is_whole: Whether they are a whole epoch.
        joins: Whether keys for unequal counts are logged in this stage; None: it is not decided yet.
    """

    references: Mapping[str, Mapping[str, Evidence]] = field(default_factory=dict)
    by_head: bool = False
    training: Training = UNKNOWN
    trains: bool = True
    is_whole: bool = True
    joins: bool | None = None

    @property
    def is_unequal(self) -> bool:
        """Whether keys for unequal counts are logged."""
        return self.training.is_unequal if self.joins is None else self.joins


@dataclass(frozen=True)
class Task(ABC):
    """One kind of label.

    Attributes:
        settings: What the user has chosen.
        evidence: The kind of evidence that a stage leaves.
    """

    settings: Settings = Settings()
    evidence: ClassVar[type[Evidence]]
    label_dims: ClassVar[int] = 0
    """How many dimensions a label has: 0 for a number, 1 for a vector."""
    names_classes: ClassVar[bool] = True
    """Whether a label is the number of a class, as a cross-entropy's is."""
    predicts_labels: ClassVar[bool] = False
    """Whether the classifier's output is to be the label itself, not scores for it."""
    tells_graphs_apart: ClassVar[bool] = False
    """Whether nodes of several graphs have statistics by graph, and are not pooled."""
    unused: ClassVar[tuple[str, ...]] = ("threshold",)
    """Arguments without a meaning here, which have to stay at their defaults."""

    def __getstate__(self) -> dict[str, Any]:
        # a measure may hold a function that cannot be pickled; its name is in the settings
        return {"settings": self.settings}

    @cached_property
    def measures(self) -> tuple[Measure, ...]:
        """The measures that were asked for, less those that only the data tell of."""
        return self.measures_on(frozenset())

    @cached_property
    def may_join(self) -> tuple[Measure, ...]:
        """Those, and all that may join them on the data."""
        return self.measures_on(self.tells)

    @property
    def tells(self) -> frozenset[str]:
        """The occasions of which its evidence may tell."""
        return frozenset()

    def measures_on(self, occasions: Collection[str]) -> tuple[Measure, ...]:
        """The measures that were asked for.

        Args:
            occasions: What the data tell, see :data:`~lightning_nc.functional.measure.OCCASIONS`.

        Returns:
            The measures.
        """
        asked = [*self.settings.occasions, *occasions]
        return select(self.settings.measures, self.evidence, asked)

    @property
    def needs(self) -> frozenset[str]:
        """The parts of the evidence that the measures rest on, whatever the data tell."""
        return _parts_of(self.measures)

    def of_module(self, covariance: CovarianceSetting, sample_rows: int) -> "Task":
        """The same task, for one module.

        Args:
            covariance: What is kept of its scatter.
            sample_rows: How many of its rows are kept.

        Returns:
            The task.
        """
        settings = replace(self.settings, covariance=covariance, sample_rows=sample_rows)
        return replace(self, settings=settings)

    def counts_on(self, occasions: Collection[str]) -> dict[str, Count]:
        """What has to be counted for the measures once the moments of all ranks are known."""
        return counts_for(_parts_of(self.measures_on(occasions)))

    def evaluate(self, evidence: Evidence, of_layer: bool = False) -> dict[str, Outcome]:
        """Outcomes by key.

        Args:
            evidence: What a stage has left.
            of_layer: Leave out what says something of the network as a whole.

        Returns:
            The outcomes.
        """
        asked = self.measures_on(evidence.occasions)
        chosen = [m for m in asked if m.of_layers or not of_layer]
        return evaluate(chosen, evidence)

    @abstractmethod
    def sizes(self, num_features: int, num_rows: int) -> tuple[int, ...]:
        """Of the accumulator of a module.

        Args:
            num_features: The width of its features.
            num_rows: The rows of the classifier.

        Returns:
            At most four numbers.

        Raises:
            ValueError: If the settings do not go with these.
        """

    @abstractmethod
    def accumulator(self, sizes: tuple[int, ...], device: torch.device | str) -> Accumulator:
        """A blank accumulator.

        Args:
            sizes: As :meth:`sizes` gives them; zeros may follow.
            device: Where it is.

        Returns:
            The accumulator.
        """

    def graph_totals(
        self, num_classes: int, modules: Sequence[str], device: torch.device | str
    ) -> GraphTotals | None:
        """Blank sums over graphs, where each graph has statistics of its own; None: rows are rows.

        Args:
            num_classes: C.
            modules: What is measured, by name.
            device: Where they are.

        Returns:
            The sums.
        """
        return None

    def complete(self, evidence: Evidence, around: Around | None = None) -> Evidence:
        """The evidence of a stage, with what the user has asked for.

        Args:
            evidence: Of all ranks, before anything is counted.
            around: What else is known where the stage ends.

        Returns:
            The evidence.
        """
        return evidence

    @property
    def ignored(self) -> int | float | None:
        """What stands for the label of a row that does not count; None: nothing does."""
        return self.settings.ignore_index

    def read(self, found: Any) -> Shaped[Tensor, "..."] | None:
        """Labels as a batch holds them to a tensor of labels; None where this cannot be labels."""
        return found if isinstance(found, Tensor) else None

    def rows_of(self, target: Shaped[Tensor, "..."]) -> int | None:
        """Rows that the classifier of these labels has; None: the settings tell, or the classifier."""
        return None

    def least_rows(self, target: Shaped[Tensor, "..."]) -> int:
        """Rows that the classifier of these labels has at least; waits for the device."""
        return 1

    def require(self, target: Shaped[Tensor, "B ..."]) -> None:  # noqa: B027 - all may be labels
        """Raise a ValueError if these cannot be labels; asked once, and may wait for the device."""

    @abstractmethod
    def encode(self, target: Shaped[Tensor, "B ..."]) -> Encoded:
        """Labels to class numbers, which rows count, and why others do not; never waits."""

    @abstractmethod
    def decide(self, output: Float[Tensor, "..."]) -> Shaped[Tensor, "B ..."]:
        """The network's output to what the accumulator takes for its decision per row."""

    def notices(self, evidence: Evidence, outcomes: Mapping[str, Outcome]) -> dict[str, str]:
        """What to tell the user about the data, by kind."""
        return about_outcomes(outcomes)


def _parts_of(measures: Iterable[Measure]) -> frozenset[str]:
    return frozenset(name for measure in measures for name in measure.needs)
