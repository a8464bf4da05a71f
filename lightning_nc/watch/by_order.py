"""The classifier where no loss can be looked into: the linear map that ran last, if it has no rival."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from lightning_nc.watch.heads import Matrix, is_whole, makes_weight
from lightning_nc.watch.sight import Sight, refused

# inside a network; what ends one is told by its rows alone
_SEEN_INSIDE = (nn.modules.conv._ConvNd, nn.EmbeddingBag, nn.Bilinear)


def by_order(sight: Sight, is_trained: bool) -> str:
    """The path of the linear layer that ran last.

    Args:
        sight: Of a batch.
        is_trained: Whether a loss has to have given it a gradient.

    Returns:
        The path.

    Raises:
        ValueError: If another matrix could be it as well: of as many rows, or closer to the labels'
            number, or one that nobody saw run.
    """
    ran: dict[str, Any] = {f.name: sight.modules[f.name] for f in sight.batch.forwards}
    could = [name for name, module in ran.items() if sight.rows.fit(module.out_features)]
    if is_trained:
        could = [name for name in could if _has_gradient(ran[name])]
    if not could:
        trained = " and that this loss has given a gradient" if is_trained else ""
        seen = [f"{name!r} ({m.out_features} rows)" for name, m in ran.items()]
        raise refused(f"no nn.Linear ran that {sight.wanted}{trained}", seen)
    name = next(f.name for f in reversed(sight.batch.forwards) if f.name in could)
    own = list(makes_weight(ran[name]))
    others = [m for m in sight.matrices if not m.is_spread]
    others = [m for m in others if not any(m.parameter is w for w in own)]
    if is_trained and any(w.grad is not None for w in own):  # else, gradients are gone already
        others = [m for m in others if not _is_unused(m)]
    doubtful = [m for m in others if _is_rival(sight, m, ran[name].out_features, ran)]
    if doubtful:
        raise refused(
            f"{name!r} ({ran[name].out_features} rows) ran last, and others could be it", doubtful
        )
    return name


def _is_rival(sight: Sight, matrix: Matrix, num_rows: int, ran: Mapping[str, Any]) -> bool:
    """Whether a matrix could be W as well as one of so many rows that ran last."""
    if sight.rows.closer(matrix.sides, num_rows):
        return matrix.is_pointwise or num_rows in matrix.sides
    if not sight.fits(matrix) or not matrix.is_pointwise:
        return False
    # farther from the number of labels: a wide layer inside, unless nobody saw it run as one
    if isinstance(matrix.module, nn.Embedding):
        return len(sight.batch.label_shape) > 1
    return matrix.owner not in ran and not isinstance(matrix.module, _SEEN_INSIDE)


def _has_gradient(module: nn.Linear) -> bool:
    if not is_whole(module):  # a rank's share of it, which may be empty
        return True
    return any(w.requires_grad and (w.grad is None or bool(w.grad.any())) for w in makes_weight(module))


def _is_unused(matrix: Matrix) -> bool:
    return matrix.parameter.requires_grad and matrix.parameter.grad is None
