"""All that a stage leaves behind, of all ranks together: what measures and pictures are given."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_nc.values.classifier import LinearClassifier
from lightning_nc.values.frame import Frame
from lightning_nc.values.linear_head import LinearHead
from lightning_nc.values.penalties import NOT_STATED, Penalties
from lightning_nc.values.recalls import Recalls
from lightning_nc.values.sample import Decisions, FeatureSample, ProbeDecisions, Tallies
from lightning_nc.values.statistics import ClassStatistics
from lightning_nc.values.training import Training


@dataclass(frozen=True, eq=False, kw_only=True)
class Evidence(ABC):
    """What every kind of task leaves.

    Attributes:
        counts: What was counted over each rank's own rows once the moments of all were known, added up.
        references: The evidence of other stages, by their names.
        occasions: Those in which further measures join the default ones, which only the data tell.
        training: What is known of the data that the network is trained on. None: they are these.
        penalties: What the user has stated of the objective.
        parts: What a measure or a picture may ask for by the name of a parameter.
    """

    counts: Mapping[str, Float[Tensor, " k"]] = field(default_factory=dict)
    references: "Mapping[str, Evidence]" = field(default_factory=dict)
    occasions: frozenset[str] = frozenset()
    training: Training | None = None
    penalties: Penalties = NOT_STATED
    parts: ClassVar[tuple[str, ...]] = ("references",)

    @property
    @abstractmethod
    def num_samples(self) -> int:
        """How many rows it rests on; with none, nothing is measured."""

    @property
    def num_classes(self) -> int | None:
        """C, the classes seen, or None where there are no classes."""
        return None

    @property
    def size(self) -> str:
        """What the rows are of, in words: "10 classes, 512 features"; "" where there is no saying."""
        return ""

    @property
    def lost(self) -> Mapping[str, int]:
        """How many rows were left out for what."""
        return {}

    @property
    def rows_by_kind(self) -> Int[Tensor, " C"] | None:
        """Rows as :attr:`training` counts them, if these are of training; None where it does not."""
        return None

    @property
    def row_penalty(self) -> float | None:
        r""":math:`\kappa = N \lambda_H`, as in :math:`\frac{\kappa}{2}` times the mean of ``|h|^2``.

        None where the penalty of the features is not stated, or the rows of training are not known.
        """
        training, penalty = self.training, self.penalties.features
        if penalty is None or training is None or training.counts is None or not training.is_whole:
            return None
        return int(training.counts.sum()) * penalty

    @property
    def zero(self) -> Float[Tensor, ""]:
        """A zero with the dtype and the device of the values."""
        return torch.zeros((), dtype=torch.float64)

    def part(self, name: str) -> Any:
        """What goes by this name, or None if it is not known."""
        return getattr(self, name, None)

    def to(self, device: torch.device | str) -> "Evidence":
        """The same on another device, less the stages that it refers to."""
        return self


@dataclass(frozen=True, eq=False)
class ClassEvidence(Evidence):
    """What a classification task leaves.

    Attributes:
        all_classes: Statistics of every class, seen or not.
        head: The classifier with all its rows, or None if it is not known.
        sample: A sample of this rank's rows, or None.
        tallies: Counts of rows, or None.
        by_head: Whether decisions that nobody saw are those of ``head``, which has not moved.
        counts_before: Rows of each class before those with few rows were left out, of which the
            tallies tell as well; None: none were.
        input_weight: Weight of the map that the features enter, where they are a layer's input.
        head_product: Of a layer in a stack of linear ones that ends in the classifier, what becomes of
            its input by all of them: W_M ... W_j, with the classifier's bias. None elsewhere.
        lacks_scatter: Whether the pooled scatter is left out with them, whose rows it holds.
        place: The layer of a linear head that the features enter, from 1, and how many it has.
        doubt: Why it is not certain what the head is, a clause; empty where it is.
        shots: Classes with fewer rows in training than the first are few-shot, with more than the
            second many-shot.
    """

    all_classes: ClassStatistics
    head: LinearClassifier | None = None
    sample: FeatureSample | None = None
    tallies: Tallies | None = None
    by_head: bool = False
    counts_before: Int[Tensor, " C"] | None = None
    input_weight: Float[Tensor, "out in"] | None = None
    head_product: LinearClassifier | None = None
    lacks_scatter: bool = False
    place: tuple[int, int] = (1, 1)
    doubt: str = ""
    shots: tuple[int, int] = (20, 100)
    parts: ClassVar[tuple[str, ...]] = (
        "statistics", "classifier", "decisions", "network_decisions", "means_frame", "weights_frame",
        "weight", "product", "all_counts", "sample", "tallies", "references", "penalties",
        "linear_head", "recalls", "probe_decisions", "graphs",
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.head is not None and self.head.num_classes != self.all_classes.num_classes:
            raise ValueError(
                f"Expected a classifier with num_classes = {self.all_classes.num_classes} rows, but "
                f"got {self.head.num_classes}. Is num_classes what the last layer puts out?"
            )

    @classmethod
    def of(
        cls,
        statistics: ClassStatistics,
        classifier: LinearClassifier | None = None,
        decisions: Decisions | None = None,
    ) -> "ClassEvidence":
        """Evidence from what a user has at hand.

        Args:
            statistics: Statistics of all classes.
            classifier: The classifier of all classes, if it is known.
            decisions: Counted decisions, if there are any.

        Returns:
            The evidence.

        Raises:
            ValueError: If classifier and statistics differ in their number of classes.
        """
        counts = {} if decisions is None else {"decisions": decisions.as_vector()}
        return cls(statistics, classifier, counts=counts)

    @property
    def num_samples(self) -> int:
        """N."""
        return int(self.all_classes.num_samples)

    @property
    def num_classes(self) -> int:
        """C, the classes seen."""
        return self.statistics.num_classes

    @property
    def size(self) -> str:
        """Classes and features."""
        return f"{self.num_classes:,} classes, {self.all_classes.num_features:,} features"

    @property
    def lost(self) -> Mapping[str, int]:
        """How many rows were left out for what."""
        return {} if self.tallies is None else self.tallies.lost()

    @property
    def rows_by_kind(self) -> Int[Tensor, " C"]:
        """Rows of each class, whether it is left out or not."""
        return self.all_counts

    @property
    def zero(self) -> Float[Tensor, ""]:
        """A zero with the dtype and the device of the means."""
        return self.all_classes.means.new_zeros(())

    @cached_property
    def statistics(self) -> ClassStatistics:
        """Of the classes seen."""
        return self.all_classes.of_seen_classes

    @property
    def is_restricted(self) -> bool:
        """Whether classes with few rows are left out."""
        return self.counts_before is not None

    @property
    def all_counts(self) -> Int[Tensor, " C"]:
        """Rows of each class, whether it is left out or not."""
        return self.all_classes.counts if self.counts_before is None else self.counts_before

    @cached_property
    def classifier(self) -> LinearClassifier | None:
        """The rows of the classes seen."""
        return None if self.head is None else self._of_seen(self.head)

    @property
    def weight(self) -> Float[Tensor, "out in"] | None:
        """Of the map that the features enter: the classifier, or the layer whose input they are."""
        if self.input_weight is not None or self.head is None:
            return self.input_weight
        return self.head.weight

    @cached_property
    def product(self) -> LinearClassifier | None:
        """What a linear head makes of the features, for the classes seen; the classifier at its end."""
        return self.classifier if self.head_product is None else self._of_seen(self.head_product)

    @property
    def training_counts(self) -> Int[Tensor, " C"] | None:
        """Rows of each class in training; None where they are not known."""
        return self.all_counts if self.training is None else self.training.counts

    @cached_property
    def linear_head(self) -> LinearHead | None:
        """The class means, and what a linear head makes of them; None where that is not known."""
        if self.product is None:
            return None
        lacks = self.doubt or self._lacks_counts()
        counts = None if lacks else self._of_classes_seen(self.training_counts)
        doubtful = bool(self.doubt) and self.doubt == lacks
        return LinearHead(self.statistics, self.product, counts, *self.place, lacks, doubtful)

    def _lacks_counts(self) -> str:
        """Why the counts of training do not set the geometry of these class means, a clause."""
        counts = self.training_counts
        if counts is None:
            return "the counts of the classes in training are not known yet"
        if len(counts) != self.all_classes.num_classes:
            return f"training had {len(counts)} classes, and these are {self.all_classes.num_classes}"
        if self.is_restricted:
            return "min_count leaves classes out, on which the geometry of the others depends"
        trained, seen = counts > 0, self.all_classes.seen.to(counts.device)
        absent = int((trained & ~seen).sum())
        if absent:
            return f"{absent} of the classes of training have no rows here"
        return "" if torch.equal(trained, seen) else "a class had no row in training"

    def _of_classes_seen(self, by_class: Tensor | None) -> Tensor | None:
        return None if by_class is None else by_class.to(self.all_classes.counts)[self.all_classes.seen]

    @property
    def graphs(self) -> None:
        """Averages over several graphs: other evidence has them."""

    @cached_property
    def recalls(self) -> Recalls | None:
        """How the nearest class center does by class, where that was counted."""
        if "recalls" not in self.counts:
            return None
        sampled, correct = self.counts["recalls"].reshape(2, -1)
        whole = self.training is None or self.training.is_whole
        return Recalls(sampled, correct, self.training_counts, self.shots, whole)

    def _of_seen(self, rows: LinearClassifier) -> LinearClassifier:
        seen_all = self.statistics is self.all_classes
        return rows if seen_all else rows.restrict(self.all_classes.seen)

    @cached_property
    def decisions(self) -> Decisions | None:
        """How network and nearest class center decided, where that was counted."""
        return Decisions(*self.counts["decisions"]) if "decisions" in self.counts else None

    @cached_property
    def probe_decisions(self) -> ProbeDecisions | None:
        """How the closed-form probe decided, where that was counted."""
        counted = self.counts.get("probe_decisions")
        return None if counted is None else ProbeDecisions(*counted)

    @property
    def network_decisions(self) -> Decisions | None:
        """The counted decisions, where the network's own are known."""
        known = self.decisions is not None and bool(self.decisions.predicted != 0)
        return self.decisions if known else None

    @property
    def means_frame(self) -> Frame:
        """The centered class means."""
        return self.statistics.frame

    @cached_property
    def weights_frame(self) -> Frame | None:
        """The rows of the classifier."""
        return None if self.classifier is None else self.classifier.frame

    def to(self, device: torch.device | str) -> "ClassEvidence":
        """The same on another device, less the stages that it refers to."""
        return replace(
            self,
            all_classes=self.all_classes.to(device),
            head=self.head and self.head.to(device),
            sample=self.sample and self.sample.to(device),
            tallies=self.tallies and Tallies(*torch.stack(self.tallies).to(device)),
            counts={name: count.to(device) for name, count in self.counts.items()},
            counts_before=_there(self.counts_before, device),
            input_weight=_there(self.input_weight, device),
            head_product=self.head_product and self.head_product.to(device),
            training=self.training and self.training.to(device),
            references={},
        )


def _there(value: Tensor | None, device: torch.device | str) -> Tensor | None:
    return None if value is None else value.to(device)
