"""One class for each row; with a binary head, two."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from lightning_nc.functional.graph import condition_gaps, overlaps, values_of_features
from lightning_nc.functional.select import select
from lightning_nc.stream.accumulator import Encoded
from lightning_nc.stream.class_accumulator import ClassAccumulator
from lightning_nc.stream.graph_totals import Formulas, GraphTotals
from lightning_nc.tasks.graph_notices import about_graphs
from lightning_nc.tasks.notices import about_covariance, about_small_classes, notices, without_lost
from lightning_nc.tasks.task import Around, Task
from lightning_nc.values.evidence import ClassEvidence, Evidence
from lightning_nc.values.graphs import GraphEvidence
from lightning_nc.values.outcome import Fate, Outcome
from lightning_nc.values.small_classes import without_small_classes

_OF_GRAPHS = Formulas(values_of_features, overlaps, condition_gaps)


@dataclass(frozen=True)
class Multiclass(Task):
    """Whole numbers in [0, C).

    Example:
        >>> encoded = Multiclass().of(num_classes=3).encode(torch.tensor([2, -100, 7]))
        >>> encoded.label.tolist(), encoded.counts.tolist()
        ([2, 0, 0], [True, False, False])
    """

    evidence: ClassVar = ClassEvidence
    tells_graphs_apart: ClassVar[bool] = True

    def of(self, num_classes: int) -> "Multiclass":
        """The same task, for so many classes."""
        return replace(self, settings=replace(self.settings, num_classes=num_classes))

    def sizes(self, num_features: int, num_rows: int) -> tuple[int, int]:
        """C and d.

        Args:
            num_features: d.
            num_rows: The rows of the classifier; a single one stands for two classes.

        Returns:
            The sizes of an accumulator.

        Raises:
            ValueError: If the classifier has other rows than the settings have classes, or counts.
        """
        rows = max(2, num_rows)
        num_classes = self.settings.num_classes or rows
        if num_classes != rows:
            raise ValueError(
                f"Expected a classifier with num_classes = {num_classes} rows, but got "
                f"{num_rows}. Leave num_classes out to take the classifier's rows, or name "
                "another layer as `classifier`."
            )
        given = self.settings.class_counts
        if given is not None and len(given) != num_classes:
            raise ValueError(
                f"Expected class_counts to have a number for each of {num_classes} classes, but got "
                f"{len(given)}. A class without rows has a 0."
            )
        return num_classes, num_features

    def accumulator(self, sizes: tuple[int, ...], device: torch.device | str) -> ClassAccumulator:
        """A blank accumulator of classes."""
        num_classes, num_features = sizes[:2]
        s, of = self.settings, self.of(num_classes)
        return ClassAccumulator(
            num_classes, num_features, of, s.covariance, s.sample_rows, s.seed, device
        )

    @property
    def tells(self) -> frozenset[str]:
        """That classes have unequal counts, and that rows are the nodes of several graphs."""
        return frozenset({"unequal_counts", "graphs"})

    def graph_totals(
        self, num_classes: int, modules: Sequence[str], device: torch.device | str
    ) -> GraphTotals:
        """Blank sums over graphs."""
        of, least = self.of(num_classes), self.settings.min_count
        return GraphTotals(num_classes, modules, of, _OF_GRAPHS, least, device)

    def complete(self, evidence: Evidence, around: Around | None = None) -> Evidence:
        """With the classes that count, whose decisions count, and what training has.

        Args:
            evidence: Of all ranks, before anything is counted.
            around: What else is known where the stage ends.

        Returns:
            The evidence.
        """
        assert isinstance(evidence, ClassEvidence)
        around, s = around or Around(), self.settings
        given = evidence.all_classes
        kept = without_small_classes(given, self.settings.min_count)
        return replace(
            evidence,
            all_classes=kept,
            counts_before=None if kept is given else given.counts,
            lacks_scatter=given.scatter is not None and kept.scatter is None,
            by_head=around.by_head,
            training=around.training,
            occasions=frozenset({"unequal_counts"} if around.is_unequal else ()),
            penalties=s.penalties,
            shots=s.shots,
        )

    def least_rows(self, target: Shaped[Tensor, "..."]) -> int:
        """One more than the largest label.

        Args:
            target: Labels of any shape and dtype.

        Returns:
            Rows that the classifier has at least; 1 where no label counts.

        Example:
            >>> Multiclass().least_rows(torch.tensor([[3, -100], [0, 1]]))
            4
        """
        labels = target[target.isfinite() & (target != self.settings.ignore_index)]
        return max(1, int(labels.max()) + 1) if labels.numel() else 1  # sync ok: the first batch only

    def require(self, target: Shaped[Tensor, " B"]) -> None:
        """Raise a ValueError for floats that are not whole numbers.

        Args:
            target: Labels, one per row.

        Raises:
            ValueError: If there are any.
        """
        if target.is_floating_point() and not _whole(target):
            raise ValueError(
                "Expected integer class labels, but got floats that are not whole numbers, such as "
                f"{_first_fraction(target)}. Are these soft labels (mixup?)? Pass hard ones, in the "
                "callback by a `target` function. Numbers to be predicted are task='regression'."
            )

    def encode(self, target: Shaped[Tensor, " B"]) -> Encoded:
        """Labels to class numbers; left out are labels out of range, and those that are not whole.

        Args:
            target: Labels of any dtype.

        Returns:
            What they mean.
        """
        ignored = self.settings.ignore_index
        label = target.long()
        whole = label == target
        in_range = (label >= 0) & (label < (self.settings.num_classes or 0))
        wanted = torch.ones_like(whole) if ignored is None else label != ignored
        counts = wanted & whole & in_range
        left_out = (wanted & whole & ~in_range, wanted & ~whole)
        return Encoded(torch.where(counts, label, 0), counts, wanted, left_out)

    def decide(self, output: Float[Tensor, "..."]) -> Int[Tensor, " B"]:
        """The largest logit, or the sign of a single one."""
        return decide(output)

    def notices(self, evidence: Evidence, outcomes: Mapping[str, Outcome]) -> dict[str, str]:
        """Rows and classes that are missing, and keys that have no value."""
        asked = {measure.key for measure in self.measures}
        outcomes = {
            key: outcome
            for key, outcome in outcomes.items()
            if key in asked or outcome.fate is not Fate.NOT_HERE
        }
        if isinstance(evidence, GraphEvidence):
            named = [name for name in self.settings.measures if name != "default"]
            given = select(named, self.evidence) if named else ()
            missing = [m.key for m in given if "graphs" not in m.needs]
            return about_graphs(evidence, outcomes, missing)
        assert isinstance(evidence, ClassEvidence)
        texts = notices(evidence, without_lost(evidence, outcomes))
        if evidence.is_restricted:
            del texts["absent"]
            texts["min_count"] = about_small_classes(evidence, self.settings.min_count, outcomes)
        if self.settings.covariance == "auto" and not evidence.lacks_scatter:
            texts |= about_covariance(evidence.all_classes, outcomes)
        return texts


@dataclass(frozen=True)
class Binary(Multiclass):
    """Multiclass with two classes, whatever the head."""

    def __post_init__(self) -> None:
        given = self.settings.num_classes
        if given not in (None, 2):
            raise ValueError(f"Expected num_classes to be 2 for task='binary', but got {given}.")
        object.__setattr__(self, "settings", replace(self.settings, num_classes=2))


def decide(logits: Float[Tensor, "..."]) -> Int[Tensor, " B"]:
    """The network's decision per row: argmax, or the sign where there is a single column.

    Args:
        logits: The classifier's output, classes last.

    Returns:
        The index of a class for each row.

    Example:
        >>> decide(torch.tensor([[0.1, 2.0, 0.3]])), decide(torch.tensor([[-1.0], [1.0]]))
        (tensor([1]), tensor([0, 1]))
    """
    if logits.ndim == 1 or logits.shape[-1] == 1:
        return (logits > 0).reshape(-1).long()
    return logits.argmax(-1).reshape(-1)


def _whole(y: Float[Tensor, " B"]) -> bool:
    return bool((y == y.round()).all())  # sync ok: the first batch of float labels only


def _first_fraction(y: Float[Tensor, " B"]) -> float:
    return float(y[y != y.round()][0])
