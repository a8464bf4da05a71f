"""Several tags for each row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from operator import index
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from lightning_nc.stream.accumulator import Encoded
from lightning_nc.stream.co_moments import CoMoments
from lightning_nc.stream.tag_accumulator import (
    EncodedTags,
    TagAccumulator,
    multiplicities,
    pairs_have_means,
)
from lightning_nc.tasks.notices import about_rows_of_training
from lightning_nc.tasks.tag_notices import tag_notices
from lightning_nc.tasks.task import Around, Task
from lightning_nc.values.covariance import AUTO_BYTES
from lightning_nc.values.evidence import Evidence
from lightning_nc.values.outcome import Outcome
from lightning_nc.values.small_classes import without_small_classes
from lightning_nc.values.tag_evidence import TagEvidence
from lightning_nc.values.tags import pair_slot


@dataclass(frozen=True)
class Multilabel(Task):
    """Multi-hot labels: for each row K zeros and ones.

    Example:
        >>> encoded = Multilabel().encode_tags(torch.tensor([[0, 1, 0], [1, 0, 1], [0, 0, 0]]))
        >>> encoded.multiplicity.tolist(), encoded.of_row.label.tolist()
        ([1, 2, 0], [1, 4, 0])
    """

    evidence: ClassVar = TagEvidence
    label_dims: ClassVar[int] = 1
    names_classes: ClassVar[bool] = False
    unused: ClassVar[tuple[str, ...]] = ("predicted", "target_shift", "class_counts", "shots")

    def read(self, found: Any) -> Shaped[Tensor, "... K"] | None:
        """Multi-hot labels as they are, or lists of the tags of each row.

        Args:
            found: A tensor of at least two dimensions, the last one of tags; or a list or a tuple of
                lists.

        Returns:
            Multi-hot labels; None where these are no labels.

        Raises:
            ValueError: If they are those of another task, a list needs num_classes, or one does not
                hold the numbers of tags.
        """
        if isinstance(found, Tensor):
            if found.ndim < 2:
                raise ValueError(_one_number(found))
            return found
        if not isinstance(found, list | tuple):
            return None
        if any(isinstance(tags, Tensor) for tags in found):
            raise ValueError(_tensors(len(found)))
        lists = all(isinstance(tags, list | tuple) for tags in found)
        return self._multi_hot(found) if lists else None

    def rows_of(self, target: Shaped[Tensor, "... K"]) -> int:
        """K."""
        return target.shape[-1]

    def sizes(self, num_features: int, num_rows: int) -> tuple[int, int]:
        """K and d.

        Args:
            num_features: d.
            num_rows: The rows of the classifier, one for each tag.

        Returns:
            The sizes of an accumulator.

        Raises:
            ValueError: If the settings do not go with these.
        """
        given = self.settings.num_classes
        if given not in (None, num_rows):
            raise ValueError(
                f"Expected a classifier with num_classes = {given} rows, one for each tag, but got "
                f"{num_rows}. Leave num_classes out, or name another layer as `classifier`."
            )
        if num_rows < 2:
            raise ValueError(
                "Expected at least two tags, but got one column of labels. A single tag that is there "
                "or not is task='binary'."
            )
        several = multiplicities(num_rows)
        needed = CoMoments.num_bytes(num_rows, num_features, several)
        if needed > AUTO_BYTES:
            raise ValueError(
                f"Expected co-moments of tags and features that take at most {AUTO_BYTES:,} bytes, but "
                f"of {num_rows:,} tags and {num_features:,} features they take {needed:,}. Measure "
                "fewer tags by a `target` function, and name the rows of W that are theirs as "
                "`classifier`, or leave it out with classifier=False."
            )
        return num_rows, num_features

    def accumulator(self, sizes: tuple[int, ...], device: torch.device | str) -> TagAccumulator:
        """A blank accumulator of tags."""
        num_tags, num_features = sizes[:2]
        s = self.settings
        if s.covariance == "per_class":
            raise ValueError(
                "Expected covariance to be 'auto', 'pooled' or 'none' with task='multilabel', but got "
                "'per_class'. All logged keys are computed from the pooled one."
            )
        return TagAccumulator(num_tags, num_features, self, s.covariance, s.sample_rows, s.seed, device)

    def complete(self, evidence: Evidence, around: Around | None = None) -> Evidence:
        """With the tags that count, and what the user has stated.

        Args:
            evidence: Of all ranks.
            around: What else is known where the stage ends.

        Returns:
            The evidence.
        """
        assert isinstance(evidence, TagEvidence)
        given = evidence.all_classes
        kept = without_small_classes(given, self.settings.min_count)
        return replace(
            evidence,
            all_classes=kept,
            tags=replace(evidence.tags, singles=kept),
            counts_before=None if kept is given else given.counts,
            lacks_scatter=given.scatter is not None and kept.scatter is None,
            training=(around or Around()).training,
            penalties=self.settings.penalties,
        )

    def require(self, target: Shaped[Tensor, "B K"]) -> None:
        """Raise a ValueError unless all labels are 0 or 1.

        Args:
            target: Labels, one row each.

        Raises:
            ValueError: If they are something else.
        """
        labels = target if self.ignored is None else target[(target != self.ignored).any(-1)]
        if bool(((labels == 0) | (labels == 1)).all()):  # sync ok: the first batch only
            return
        others = labels[(labels != 0) & (labels != 1)]
        if self.ignored is not None and bool((others == self.ignored).any()):
            raise ValueError(
                "Expected multi-hot labels, of zeros and ones, but some rows are partly unknown, with "
                f"ignore_index = {self.ignored} in some places. Leave such rows out: set it in all "
                "places of the row by a `target` function, or say which rows count by `mask`."
            )
        found = others[0].item()
        raise ValueError(
            "Expected multi-hot labels, of zeros and ones, but they hold "
            f"{found:g}. Are these soft labels (mixup, smoothing), counts, lists of class numbers "
            "(pass them as Python lists), or numbers to be predicted (task='regression')? Pass zeros "
            "and ones, in the callback by a `target` function."
        )

    def encode(self, target: Shaped[Tensor, "B K"]) -> Encoded:
        """Labels to slots, see :meth:`encode_tags`."""
        return self.encode_tags(target).of_row

    def encode_tags(self, target: Shaped[Tensor, "B K"]) -> EncodedTags:
        """Labels to sets of tags; left out are rows without a tag, and those that are not binary.

        A row counts where it has a slot, which goes by one tag or, where there are few, by two.

        Args:
            target: Multi-hot labels of any dtype.

        Returns:
            What they mean.
        """
        num_tags, is_one = target.shape[1], target == 1
        wanted = target.new_ones(len(target), dtype=torch.bool)
        if self.ignored is not None:
            wanted = (target == self.ignored).sum(1) < num_tags
        # sums of truth values are several times faster than all() on a CPU
        is_binary = is_one.sum(1) + (target == 0).sum(1) == num_tags
        tags = is_one & (wanted & is_binary)[:, None]
        multiplicity = tags.sum(1)
        first, last = _ends(tags)
        pair = num_tags + pair_slot(first, last, num_tags)
        has_slot = multiplicity == 1
        if pairs_have_means(num_tags):
            has_slot = has_slot | (multiplicity == 2)
        slot = torch.where(has_slot, torch.where(multiplicity == 1, first, pair), 0)
        left_out = (wanted & is_binary & (multiplicity == 0), wanted & ~is_binary)
        return EncodedTags(tags, multiplicity, Encoded(slot, has_slot, wanted, left_out))

    def decide(self, output: Float[Tensor, "... K"]) -> Float[Tensor, "B K"]:
        """The scores of a row as they are: what it decides for depends on how many tags it has.

        Args:
            output: The network's, tags last.

        Returns:
            A copy, one row for each label.
        """
        return output.detach().reshape(-1, output.shape[-1]).clone()

    def judge(
        self, scores: Float[Tensor, "B K"], tags: Bool[Tensor, "B K"]
    ) -> tuple[Bool[Tensor, " B"], Float[Tensor, " B"]]:
        r"""Whether the network decides for just the tags S of a row, and its softmax mass on them.

        It decides for the :math:`|S|` largest scores, or with a threshold for those whose sigmoid is
        above it.

        Args:
            scores: z.
            tags: Multi-hot.

        Returns:
            Both; the mass is NaN where the scores are not finite.

        Example:
            >>> z, t = torch.tensor([[3.0, 1.0, -1.0]]), torch.tensor([[True, True, False]])
            >>> Multilabel().judge(z, t)[0], round(Multilabel().judge(z, t)[1].item(), 3)
            (tensor([True]), 0.984)
        """
        z = scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores
        overlap = torch.where(tags, z.softmax(1), 0).sum(1)
        if self.settings.threshold is not None:
            return ((z.sigmoid() > self.settings.threshold) == tags).all(1), overlap
        least = torch.where(tags, z, torch.inf).amin(1)
        return least > torch.where(tags, -torch.inf, z).amax(1), overlap

    def notices(self, evidence: Evidence, outcomes: Mapping[str, Outcome]) -> dict[str, str]:
        """Rows and tags that are missing, and keys that have no value."""
        assert isinstance(evidence, TagEvidence)
        texts = tag_notices(evidence, outcomes, self.settings)
        return texts | about_rows_of_training(evidence, self.measures)

    def _multi_hot(self, lists: Sequence[Sequence[Any]]) -> Shaped[Tensor, "B K"]:
        """From the tags of each row."""
        num_tags = self.settings.num_classes
        if num_tags is None:
            raise ValueError(
                "Expected num_classes with labels that are lists of tags, but got none: the lists of a "
                "batch do not tell how many tags there are. Set num_classes."
            )
        labels = torch.zeros(len(lists), num_tags, dtype=torch.uint8)
        for row, tags in enumerate(lists):
            labels[row, _checked(tags, row, num_tags)] = 1
        return labels


def _checked(tags: Sequence[Any], row: int, num_tags: int) -> list[int]:
    """The numbers of a row's tags."""
    try:
        numbers = [index(tag) for tag in tags]
    except TypeError:
        raise ValueError(
            f"Expected lists of tags to hold whole numbers, but row {row} of a batch is "
            f"{list(tags)[:8]}. Numbers to be predicted are task='regression', soft or multi-hot "
            "labels tensors; names of tags need numbers."
        ) from None
    wrong = [tag for tag in numbers if not 0 <= tag < num_tags]
    if wrong:
        raise ValueError(
            f"Expected tags from 0 to {num_tags - 1}, but row {row} of a batch has {wrong[0]}. "
            "Is num_classes too small, or do the tags start at 1?"
        )
    twice = [tag for tag in numbers if numbers.count(tag) > 1]
    if twice:
        raise ValueError(
            f"Expected each tag of a row once, but row {row} of a batch has tag {twice[0]} twice. Is "
            "this a multi-hot row? Then pass a tensor of shape (B, K)."
        )
    return numbers


def _tensors(count: int) -> str:
    return (
        "Expected multi-hot labels as one tensor of shape (B, K), or lists of tags as Python lists "
        f"with num_classes, but got {count} tensors. Did the default collate function make them of "
        "lists of tags? Give the loader a collate_fn that keeps the lists, or that makes multi-hot "
        "labels. Are they several kinds of labels? Set `target` to one of them."
    )


def _ends(tags: Bool[Tensor, "B K"]) -> tuple[Tensor, Tensor]:
    """The first and the last tag of each row; of one without tags, the first and the last there are."""
    whole = tags.to(torch.uint8)
    return whole.argmax(1), tags.shape[1] - 1 - whole.flip(1).argmax(1)


def _one_number(found: Tensor) -> str:
    kind = "floats" if found.is_floating_point() else "class numbers"
    right = "'regression'" if found.is_floating_point() else "'multiclass'"
    return (
        f"Expected multi-hot labels of shape (B, K) with task='multilabel', but got shape "
        f"{tuple(found.shape)}. One {kind[:-1]} per row is task={right}; lists of tags are given as "
        "Python lists of lists, with num_classes."
    )
