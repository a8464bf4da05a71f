"""Functions of one's own that `configs/functions.yaml` names by dotted path."""

import torch

from lightning_nc import ClassStatistics


def labels_of_bold_digits(batch: list[torch.Tensor]) -> torch.Tensor:
    """The labels, but for images with little ink the `ignore_index`: they are not measured."""
    pixels, labels = batch
    return torch.where(pixels.mean(dim=1) > 0.3, labels, -100)


def widest_class(statistics: ClassStatistics) -> torch.Tensor:
    """Spread of the widest class over the mean squared norm of the centered class means."""
    spreads = statistics.sums_of_squares / statistics.counts
    return spreads.max() / statistics.frame.norms.square().mean()
