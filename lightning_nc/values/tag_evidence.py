"""What a stage with several labels per row leaves behind."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from lightning_nc.values.evidence import ClassEvidence
from lightning_nc.values.tags import TagDecisions, TagStatistics, TagTallies


@dataclass(frozen=True, eq=False, kw_only=True)
class TagEvidence(ClassEvidence):
    """The classes are those of the rows with a single tag; beside them, all sets of tags.

    Attributes:
        tags: By their sets of tags.
        tag_tallies: Counts of rows.
        tag_decisions: How the network decides, or None.
    """

    tags: TagStatistics
    tag_tallies: TagTallies | None = None
    tag_decisions: TagDecisions | None = None
    parts: ClassVar[tuple[str, ...]] = (
        "statistics", "classifier", "means_frame", "weights_frame", "weight", "all_counts", "sample",
        "references", "penalties", "tags", "tag_tallies", "tag_decisions", "row_penalty",
    )  # fmt: skip

    @property
    def num_samples(self) -> int:
        """Rows with at least one tag."""
        too_many = 0 if self.tag_tallies is None else int(self.tag_tallies.too_many)
        several = sum(int(each.count) for each in self.tags.moments.values())
        return int(self.tags.singles.num_samples) + several + too_many

    @property
    def size(self) -> str:
        """Tags and features."""
        return f"{self.tags.num_tags:,} tags, {self.all_classes.num_features:,} features"

    @property
    def lost(self) -> Mapping[str, int]:
        """How many rows were left out for what."""
        return {} if self.tag_tallies is None else self.tag_tallies.lost()

    @property
    def rows_by_kind(self) -> Int[Tensor, " C"]:
        """All of these rows."""
        return torch.tensor([self.num_samples])

    @property
    def linear_head(self) -> None:
        """Unequal counts of tags have no theory yet."""
        return None

    def to(self, device: torch.device | str) -> "TagEvidence":
        """The same on another device, less the stages that it refers to."""
        moved = super().to(device)
        assert isinstance(moved, TagEvidence)
        tallies, decisions = self.tag_tallies, self.tag_decisions
        return replace(
            moved,
            tags=self.tags.to(device),
            tag_tallies=tallies and TagTallies(*torch.stack(tallies).to(device)),
            tag_decisions=decisions and TagDecisions(*torch.stack(decisions).to(device)),
        )
