r"""The pick-all-label loss: cross-entropy with each of a row's tags.

There are two forms in use, with **different optima**. With :math:`S` the tags of a row and z its
logits:

- :class:`PickAllLabelLoss`, the sum :math:`\sum_{k \in S} \operatorname{CE}(z, k)`: a row counts as
  often as it has tags. The form of the theory.
- :class:`NormalizedPickAllLabelLoss`, that sum over :math:`|S|`: every row counts alike. It is
  ``nn.CrossEntropyLoss`` with the soft targets :math:`1 / |S|`, and what the authors' code trains.

At the optimum of both the features of several tags point along the sum of the means of their tags, but
their lengths differ: see :mod:`lightning_nc.functional.tags.pick_all_labels`.

Rows without a tag have a loss of 0, an empty sum, and do not count in the mean: it is that of the rows
with tags, however many others a batch has. ``nn.CrossEntropyLoss`` with soft targets of 0 would divide
by these rows as well. In a batch without any tag the mean is 0, not NaN.

References:
    Li, Li, Wang & Qu (2024), "Neural collapse in multi-label learning with pick-all-label loss".
    Menon, Rawat, Reddi & Kumar (2019), "Multilabel reductions: what is my loss optimising?", for the
    name and both forms.
"""

from typing import Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

Reduction = Literal["mean", "sum", "none"]
_REDUCTIONS = ("mean", "sum", "none")


def pick_all_label_loss(
    logits: Float[Tensor, "*batch K"],
    tags: Shaped[Tensor, "*batch K"],
    normalized: bool = False,
    reduction: Reduction = "mean",
) -> Float[Tensor, "*reduced"]:
    r"""Cross-entropy with each tag of a row, summed over its tags or averaged over them.

    .. math:: \ell(z, S) = \sum_{k \in S} \Big( \log \sum_j e^{z_j} - z_k \Big)

    Range ``[0, inf)``. With more than one tag the least value of a row is not 0: :math:`|S| \log |S|`,
    or :math:`\log |S|` if normalized. Logits of float16 and bfloat16 are taken in float32, as autocast
    does. Tags that are not 0 or 1 are weights of the cross-entropies.

    Args:
        logits: z, the tags in the last dimension.
        tags: Multi-hot, of the same shape; bool, integer or float.
        normalized: Whether the sum of a row is divided by the number of its tags.
        reduction: "mean" over the rows that have a tag, "sum" or "none".

    Returns:
        A scalar, or one value per row.

    Raises:
        ValueError: If the shapes differ, or the reduction is another one.

    Example:
        >>> z, tags = torch.zeros(2, 4), torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0]])
        >>> pick_all_label_loss(z, tags, reduction="none")  # log 4, and twice that
        tensor([1.3863, 2.7726])
        >>> pick_all_label_loss(z, tags), pick_all_label_loss(z, tags, normalized=True)
        (tensor(2.0794), tensor(1.3863))
    """
    _require_reduction(reduction)
    if tags.shape != logits.shape:
        raise ValueError(
            f"Expected multi-hot tags of the shape of the logits, {tuple(logits.shape)}, but got "
            f"{tuple(tags.shape)}. Are they class indices? One label per row is "
            "torch.nn.CrossEntropyLoss."
        )
    z = logits.to(torch.promote_types(logits.dtype, torch.float32))
    t = tags.to(z.dtype)
    # where a tag is 0 its term is 0, also for a logit of -inf
    of_rows = -torch.where(t == 0, 0.0, t * z.log_softmax(-1)).sum(-1)
    num_tags = t.sum(-1)
    if normalized:
        of_rows = of_rows / torch.where(num_tags == 0, 1.0, num_tags)
    if reduction == "none":
        return of_rows
    total = of_rows.sum()
    return total / (num_tags != 0).sum().clamp(min=1) if reduction == "mean" else total


class PickAllLabelLoss(nn.Module):
    r"""Cross-entropy summed over the tags of a row: :math:`\sum_{k \in S} \operatorname{CE}(z, k)`.

    See :func:`pick_all_label_loss`, and :class:`NormalizedPickAllLabelLoss` for the other form, which
    has another optimum.

    Args:
        reduction: "mean" over the rows that have a tag, "sum" or "none".

    Raises:
        ValueError: If the reduction is another one.

    Example:
        >>> loss = PickAllLabelLoss()
        >>> loss(torch.zeros(1, 4), torch.tensor([[1, 1, 0, 0]]))  # 2 log 4
        tensor(2.7726)
    """

    normalized = False

    def __init__(self, reduction: Reduction = "mean") -> None:
        super().__init__()
        _require_reduction(reduction)
        self.reduction: Reduction = reduction

    def forward(
        self, logits: Float[Tensor, "*batch K"], tags: Shaped[Tensor, "*batch K"]
    ) -> Float[Tensor, "*reduced"]:
        """The loss of a batch.

        Args:
            logits: z, the tags in the last dimension.
            tags: Multi-hot, of the same shape.

        Returns:
            A scalar, or one value per row.
        """
        return pick_all_label_loss(logits, tags, self.normalized, self.reduction)

    def extra_repr(self) -> str:
        """What is not the default."""
        return "" if self.reduction == "mean" else f"reduction={self.reduction!r}"


class NormalizedPickAllLabelLoss(PickAllLabelLoss):
    r"""Cross-entropy averaged over the tags of a row: :math:`\frac{1}{|S|} \sum_{k \in S} \operatorname{CE}(z, k)`.

    The same as ``nn.CrossEntropyLoss`` with the soft targets :math:`1 / |S|`, where all rows have a
    tag. See :func:`pick_all_label_loss`, and :class:`PickAllLabelLoss` for the other form, which has
    another optimum.

    Args:
        reduction: "mean" over the rows that have a tag, "sum" or "none".

    Raises:
        ValueError: If the reduction is another one.

    Example:
        >>> loss = NormalizedPickAllLabelLoss()
        >>> loss(torch.zeros(1, 4), torch.tensor([[1, 1, 0, 0]]))  # log 4
        tensor(1.3863)
    """  # noqa: E501

    normalized = True


def _require_reduction(reduction: str) -> None:
    if reduction not in _REDUCTIONS:
        raise ValueError(f"Expected reduction to be one of {_REDUCTIONS}, but got {reduction!r}.")
