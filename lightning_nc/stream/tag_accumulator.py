"""Features by their sets of tags: a class for each tag and each pair of tags, co-moments beyond."""

from collections.abc import Callable, Mapping
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from lightning_nc.stream.accumulator import Encoded, Labels
from lightning_nc.stream.backlog import Rows
from lightning_nc.stream.class_moments import ClassMoments
from lightning_nc.stream.co_moments import CoMoments
from lightning_nc.stream.row_accumulator import RowAccumulator, finite_rows
from lightning_nc.stream.some_rows import some_rows
from lightning_nc.values.classifier import LinearClassifier
from lightning_nc.values.tag_evidence import TagEvidence
from lightning_nc.values.tags import (
    MOST_TAGS,
    TagDecisions,
    TagMoments,
    TagStatistics,
    TagTallies,
    num_pairs,
)

_PAIR = "pair_"  # what the states of pairs are named by
MOST_SLOTS = 4096
"""With more tags and pairs of tags together, pairs have no mean of their own."""


class EncodedTags(NamedTuple):
    """What multi-hot labels mean.

    Attributes:
        tags: Which tags a row has, none where it does not count.
        multiplicity: How many.
        of_row: By slot: the tag of a row that has one, K and the number of its pair where it has two;
            0 where there is no slot. What counts is what has one.
    """

    tags: Bool[Tensor, "B K"]
    multiplicity: Int[Tensor, " B"]
    of_row: Encoded


@runtime_checkable
class TagLabels(Labels, Protocol):
    """A task of tags, as far as an accumulator needs it."""

    def encode_tags(self, target: Shaped[Tensor, "B K"]) -> EncodedTags:
        """What labels mean, without waiting for the device."""

    def judge(
        self, scores: Float[Tensor, "B K"], tags: Bool[Tensor, "B K"]
    ) -> tuple[Bool[Tensor, " B"], Float[Tensor, " B"]]:
        """Whether the network decides for just the tags of a row, and its softmax mass on them."""


class TagAccumulator(RowAccumulator):
    """Streams the statistics of tags in one exact pass.

    Args:
        num_tags: K.
        num_features: d.
        labels: What a label means.
        covariance: "auto", "pooled" or "none", of the rows with a single tag.
        sample_rows: Rows of the sample, at most what 64 MiB hold.
        seed: Of the sample.
        device: Where everything is.

    Raises:
        ValueError: If scatters that were asked for by name do not fit into memory.
    """

    size_names: ClassVar[tuple[str, ...]] = ("tags", "features")

    def __init__(
        self,
        num_tags: int,
        num_features: int,
        labels: TagLabels,
        covariance: str = "auto",
        sample_rows: int = 8192,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(num_features, labels, len(TagTallies._fields), sample_rows, seed, device)
        self._tag_labels, self._num_tags = labels, num_tags
        slots = num_slots(num_tags) - num_tags
        with torch.inference_mode(False):
            self.moments = ClassMoments(num_tags, num_features, covariance, self.device)
            self.of_pairs = ClassMoments(slots, num_features, "none", self.device)
            several = multiplicities(num_tags)
            self.co_moments = CoMoments(num_tags, num_features, several, self.device)
            dtype = self.moments.running.means.dtype
            self.decisions = torch.zeros(len(TagDecisions._fields), dtype=dtype, device=self.device)

    @property
    def sizes(self) -> tuple[int, int]:
        """K and d."""
        return self._num_tags, self._width

    def check(
        self, features: Float[Tensor, "*rows d"], target: Shaped[Tensor, "... K"]
    ) -> tuple[Float[Tensor, "B d"], Shaped[Tensor, "B K"]]:
        """Features and labels as rows, after a check that they fit; nothing is added."""
        if target.shape[-1] != self._num_tags:
            raise ValueError(
                f"Expected labels of {self._num_tags} tags, as many as the classifier has rows, but "
                f"got shape {tuple(target.shape)}. Is another layer the classifier, or does the "
                "network score other tags than the batch has labels for? Set `classifier`, or `target`."
            )
        return super().check(features, target)

    def add(
        self,
        features: Float[Tensor, "B d"],
        target: Shaped[Tensor, "B K"],
        predicted: Float[Tensor, "B K"] | None = None,
    ) -> None:
        """Add rows that were checked.

        Args:
            features: One feature per label.
            target: Multi-hot labels.
            predicted: The network's scores; None: they are not known.
        """
        if predicted is None:
            predicted = features.new_empty(len(features), 0)
        self._take_in(Rows(features.detach(), target, predicted.detach()))

    def sums(self) -> list[Tensor]:
        """What adds up over ranks as it is."""
        self.settle()
        moments = (self.moments, self.of_pairs, self.co_moments)
        return [*(t for each in moments for t in each.sums()), self.decisions, self.tallies]

    def rest(self) -> list[Tensor]:
        """What holds around this rank's means only."""
        return [*self.co_moments.rest(), *self.of_pairs.rest(), *self.moments.rest()]

    def around(self, sums: list[Tensor]) -> list[Tensor]:
        """That, around the means of all ranks.

        Args:
            sums: Those of all ranks.

        Returns:
            What adds up to that of all rows.
        """
        singles, pairs, several, _ = _by_kind(sums)
        parts = (self.co_moments.around(several), self.of_pairs.around(pairs))
        return [*(t for part in parts for t in part), *self.moments.around(singles)]

    def merged(
        self, sums: list[Tensor], rest: list[Tensor], classifier: LinearClassifier | None = None
    ) -> TagEvidence:
        """What all ranks have accumulated.

        Args:
            sums: Those of all ranks.
            rest: What holds around their means, of all ranks.
            classifier: W, if it is known.

        Returns:
            The evidence; its sample is this rank's own, of rows with a single tag.
        """
        of_singles, of_pairs, of_several, (decisions, tallies) = _by_kind(sums)
        singles = self.moments.merged(of_singles, rest[3:])
        pairs = self.of_pairs.merged(of_pairs, rest[2:3])
        several = self.co_moments.merged(of_several, rest[:2])
        if bool(pairs.seen.any()):
            several[2] = TagMoments.of_pairs(pairs, singles.means.mean(0))
        means = pairs if pairs.num_classes else None
        return TagEvidence(
            singles,
            classifier,
            self.sample.value(),
            tags=TagStatistics(singles, means, dict(sorted(several.items()))),
            tag_tallies=TagTallies(*tallies.round().to(torch.int64)),
            tag_decisions=TagDecisions(*decisions.clone()),
        )

    def _moments(self) -> dict[str, Tensor]:
        pairs = {_PAIR + name: state for name, state in self.of_pairs.kept().items()}
        return {
            **self.moments.kept(), **pairs, **self.co_moments.kept(), "decisions": self.decisions,
        }  # fmt: skip

    def _copy_from(self, states: Mapping[str, Tensor]) -> None:
        self.moments.copy_from(states)
        self.of_pairs.copy_from({n: states[_PAIR + n] for n in self.of_pairs.kept()})
        self.co_moments.copy_from(states)
        self.decisions.copy_(states["decisions"])

    def _forget(self) -> None:
        self.moments.reset()
        self.of_pairs.reset()
        self.co_moments.reset()
        self.decisions.zero_()

    def _settle(self) -> None:
        self.moments.settle()
        self.of_pairs.settle()

    def _change(self, change: Callable[[Tensor], Tensor]) -> None:
        self.moments.change(change)
        self.of_pairs.change(change)
        self.co_moments.change(change)
        self.decisions = change(self.decisions)

    @property
    def _is_settled(self) -> bool:
        return self.moments.is_settled and self.of_pairs.is_settled

    def _add(self, rows: Rows) -> None:
        h, scores = rows.features, rows.predicted
        tags, multiplicity, encoded = self._tag_labels.encode_tags(rows.target)
        finite = finite_rows(h)
        some = (multiplicity > 0) & finite
        valid = encoded.counts & finite
        single = valid & (multiplicity == 1)
        before, num_tags = self.sample.seen, self._num_tags
        these, (x, tag) = some_rows(single, h, encoded.label)
        self.moments.add(x, torch.where(these, tag, 0), these, before)
        if len(self.of_pairs.running.counts):
            these, (x, slot) = some_rows(valid & ~single, h, encoded.label)
            self.of_pairs.add(x, torch.where(these, slot - num_tags, 0), these, before)
        self.co_moments.add(h, tags, multiplicity, some)
        too_many = some & (multiplicity > MOST_TAGS)
        left_out = [encoded.wanted & ~finite, *encoded.left_out, too_many]
        self.tallies += torch.stack(left_out).sum(1)
        if scores.shape[1]:
            self._judge(scores, tags, some)
        alone = torch.where(single, encoded.label, -1)
        self.sample.add(h, alone, torch.full_like(alone, -1))

    def _judge(
        self, scores: Float[Tensor, "B K"], tags: Bool[Tensor, "B K"], some: Bool[Tensor, " B"]
    ) -> None:
        correct, overlap = self._tag_labels.judge(scores, tags)
        known = some & overlap.isfinite()
        counted = [known, known & correct, torch.where(known, overlap, 0)]
        self.decisions += torch.stack([each.to(self.decisions.dtype) for each in counted]).sum(1)


def _by_kind(sums: list[Tensor]) -> tuple[list[Tensor], ...]:
    """Sums over single tags, over pairs, over more tags, and counts."""
    return sums[:2], sums[2:4], sums[4:8], sums[8:]


def num_slots(num_tags: int) -> int:
    """How many classes hold rows with one tag or two.

    Example:
        >>> num_slots(80), num_slots(100)
        (3240, 100)
    """
    whole = num_tags + num_pairs(num_tags)
    return whole if whole <= MOST_SLOTS else num_tags


def pairs_have_means(num_tags: int) -> bool:
    """Whether there are few enough pairs of tags for a mean of each."""
    return num_slots(num_tags) > num_tags


def multiplicities(num_tags: int) -> range:
    """The numbers of tags that no class stands for.

    Example:
        >>> multiplicities(80), multiplicities(100)
        (range(3, 9), range(2, 9))
    """
    return range(3 if pairs_have_means(num_tags) else 2, min(MOST_TAGS, num_tags) + 1)
