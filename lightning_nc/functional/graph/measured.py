"""The formulas of several graphs as the table of measures asks for them.

Each of the first part gives a value for each graph, NaN where it has none; the table has their averages
over graphs. Nodes of different graphs are never pooled: class means differ by graph, and a loss that
does not mind the order of the classes may swap them between graphs.

Conventions: C is the number of classes that a graph has, and a graph of one class has no value of any
kind. Averages of the first two are those of their log10, as in Kothapalli, Tirer and Bruna (2023).
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_nc.values.errors import NothingToCompare, UndefinedMeasure
from lightning_nc.values.graphs import QUANTITIES, GraphAverages, GraphMoments
from lightning_nc.values.precision import FLOAT32_EPS

_OfGraphs = Callable[[GraphAverages], Tensor]

_MEANS = "no graph has two classes whose means differ and whose nodes do not coincide"
_WITHOUT = {
    "within_between_ratio_log10": _MEANS,
    "within_between_pinv_log10": _MEANS,
    "snr": "no weight that these features meet is known",
    "overlap": "the network's decisions are not known, or no graph has nodes of two classes",
    "condition_gap": "no graph has edges, labels of all its nodes, and two classes",
}
"""Why no graph has a value."""


def within_between_ratio(moments: GraphMoments) -> Float[Tensor, " G"]:
    r"""Of each graph, NC1 as a ratio of traces: :math:`\operatorname{tr} S_W / \operatorname{tr} S_B`.

    With :math:`S_W = \frac1N \sum x x^\top` and :math:`S_B = \frac1C \sum_c m_c m_c^\top` of that
    graph's nodes. Range ``[0, inf)``, 0 at collapse, invariant under rotation, translation and scaling
    of the features.

    Args:
        moments: Of G graphs.

    Returns:
        The ratios, float64; NaN where the class means coincide, or there is a single class.

    Example:
        >>> opposite = torch.tensor([[[16.0, -16.0], [-16.0, 16.0]]])
        >>> counts, four = torch.tensor([[2, 2]]), torch.tensor([4.0])  # of 1, 3 and 9, 11
        >>> moments = GraphMoments(counts, four, opposite, 4 * opposite, 52 * four, four)
        >>> within_between_ratio(moments)  # a variance of 1, and means 4 to both sides
        tensor([0.0625])
    """
    between = _traces(moments.gram)
    within = moments.within / moments.counts.sum(1)
    ratio = within / (between / _num_classes(moments))
    return ratio.masked_fill(_single(moments) | ~(between > 0), torch.nan)


def within_between_pinv(moments: GraphMoments) -> Float[Tensor, " G"]:
    r"""Of each graph, NC1: :math:`\operatorname{tr}(S_W S_B^+) / C`.

    By the Gram matrix :math:`M M^\top = \sum_j s_j^2 u_j u_j^\top` of the centered class means:

    .. math:: \sum_j \frac{u_j^\top P u_j}{N s_j^4}, \qquad P = \sum (M x)(M x)^\top

    over the directions that count: :math:`s_j > \epsilon_{32} \|M\|_F`, what float32 makes of means of
    that size, and above the rounding of the decomposition. With features far off the origin,
    where means are rounded more than that, a direction counts here that
    :func:`~lightning_nc.functional.between_class_directions` leaves out.

    Conventions: divided by C. Two classes differ along one direction, of which alone it tells, and it
    is far smaller than :func:`within_between_ratio`. The Gram matrix squares the condition number: the
    relative error is about :math:`10^{-16} (s_1 / s_j)^2`, measured below 1e-11 for
    :math:`s_j / s_1` = 1e-2, 1e-9 for 1e-3, 1e-7 for 1e-4, 1e-5 for 1e-5.

    Range ``[0, inf)``, 0 at collapse; invariant under rotation, translation and scaling of the
    features.

    Args:
        moments: Of G graphs.

    Returns:
        The measures, float64; NaN where the class means coincide, or there is a single class.

    Example:
        >>> opposite = torch.tensor([[[16.0, -16.0], [-16.0, 16.0]]])
        >>> counts, four = torch.tensor([[2, 2]]), torch.tensor([4.0])  # of 1, 3 and 9, 11
        >>> moments = GraphMoments(counts, four, opposite, 4 * opposite, 52 * four, four)
        >>> within_between_pinv(moments)
        tensor([0.0312])
    """
    trace = _traces(moments.gram)
    known = (trace > 0) & trace.isfinite() & moments.projected.isfinite().all(2).all(1)
    scale = torch.where(known, trace, 1)[:, None, None]
    gram = torch.where(known[:, None, None], moments.gram, 0) / scale
    projected = torch.where(known[:, None, None], moments.projected, 0) / scale / scale
    squares, vectors = torch.linalg.eigh(gram)
    of_eigh = 4 * gram.shape[1] * torch.finfo(gram.dtype).eps * squares.amax(1, keepdim=True)
    counted = squares > of_eigh.clamp(min=FLOAT32_EPS**2)
    along = (vectors * (projected @ vectors)).sum(1).clamp(min=0)
    shares = torch.where(counted, along / torch.where(counted, squares, 1).square(), 0)
    value = shares.sum(1) / moments.counts.sum(1)
    return value.masked_fill(_single(moments) | ~known, torch.nan)


def signal_to_noise(moments: GraphMoments) -> Float[Tensor, " G"]:
    r"""Of each graph, :math:`\|W \bar H\|_F / \|W (H - \bar H)\|_F`: what W sees of means and spread.

    :math:`\bar H` has the mean of its class in place of each node. Conventions: means as they are, not
    centered; no logarithm. Range ``[0, inf)``, infinite at collapse; invariant under scaling of the
    features or of W.

    Args:
        moments: Of G graphs.

    Returns:
        The ratios, float64; NaN where W is not known, or there is a single class.

    Example:
        >>> opposite = torch.tensor([[[16.0, -16.0], [-16.0, 16.0]]])
        >>> counts, four = torch.tensor([[2, 2]]), torch.tensor([4.0])  # of 1, 3 and 9, 11
        >>> moments = GraphMoments(counts, four, opposite, 4 * opposite, 52 * four, four)
        >>> signal_to_noise(moments).square()  # with W = 1: (2 * 4 + 2 * 100) / 4
        tensor([52.])
    """
    return (moments.signal / moments.noise).sqrt().masked_fill(_single(moments), torch.nan)


def condition_gaps(variances: Float[Tensor, "G C C"]) -> Float[Tensor, " G"]:
    r"""Of each graph, how far it is from admitting exact collapse: a property of the data.

    The largest population standard deviation, over the nodes of a class, of the share of a node's
    neighbors in some class; see :func:`~lightning_nc.functional.graph.condition_gap`. 0 where the graph
    admits exact collapse.

    Args:
        variances: Of G graphs, by the class of the nodes and that of their neighbors.

    Returns:
        The gaps; NaN where one of the variances is.

    Example:
        >>> condition_gaps(torch.tensor([[[0.0, 0.0], [0.25, 0.25]]]))
        tensor([0.5000])
    """
    return variances.flatten(1).amax(1).sqrt()


def values_of_features(moments: GraphMoments) -> Float[Tensor, "3 G"]:
    """Of each graph, the first three of :data:`~lightning_nc.values.graphs.QUANTITIES`.

    Args:
        moments: Of G graphs; none is fine.

    Returns:
        Log10 of both forms of NC1, and the ratio of signal to noise; not finite where there is none.

    Example:
        >>> values_of_features(GraphMoments.empty(num_classes=2)).shape
        torch.Size([3, 0])
    """
    ratio, pinv = within_between_ratio(moments), within_between_pinv(moments)
    return torch.stack([ratio.log10(), pinv.log10(), signal_to_noise(moments)])


def mean_over_graphs(quantity: str) -> _OfGraphs:
    """The function that tells a quantity's average over graphs, and raises where no graph has it.

    Args:
        quantity: One of :data:`~lightning_nc.values.graphs.QUANTITIES`.

    Returns:
        A function of :class:`GraphAverages`, which raises UndefinedMeasure if no graph has a value,
        and NothingToCompare where the ratio of signal to noise is not known.

    Example:
        >>> averages = GraphAverages(torch.tensor([[2.0, 4.0, 10.0]] * 5))
        >>> mean_over_graphs("snr")(averages)
        tensor(2.)
    """
    _check(quantity)

    def mean(averages: GraphAverages) -> Float[Tensor, ""]:
        if not bool(averages.count(quantity) > 0):
            quiet = quantity == "snr"  # of layers it is rarely known
            raise (NothingToCompare if quiet else UndefinedMeasure)(_WITHOUT[quantity])
        return averages.mean(quantity)

    return mean


def standard_error_over_graphs(quantity: str) -> _OfGraphs:
    r"""The function that tells the standard error of that average: :math:`s / \sqrt G`.

    With :math:`s^2` the variance over the G graphs that have a value, by :math:`G - 1`.

    Args:
        quantity: One of :data:`~lightning_nc.values.graphs.QUANTITIES`.

    Returns:
        A function of :class:`GraphAverages`, which raises NothingToCompare if fewer than two graphs
        have a value.

    Example:
        >>> averages = GraphAverages(torch.tensor([[2.0, 4.0, 10.0]] * 5))  # of 1 and 3
        >>> standard_error_over_graphs("snr")(averages)
        tensor(1.)
    """
    _check(quantity)

    def standard_error(averages: GraphAverages) -> Float[Tensor, ""]:
        count = int(averages.count(quantity))
        if count < 2:
            having = "one graph has" if count else "no graph has"
            raise NothingToCompare(f"{having} a value, and it takes two to tell how far they vary")
        return averages.standard_error(quantity)

    return standard_error


def graphs_with(quantity: str) -> _OfGraphs:
    """The function that tells how many graphs have a value of a quantity.

    Args:
        quantity: One of :data:`~lightning_nc.values.graphs.QUANTITIES`.

    Returns:
        A function of :class:`GraphAverages`.

    Example:
        >>> averages = GraphAverages(torch.tensor([[2.0, 4.0, 10.0]] * 5))
        >>> graphs_with("snr")(averages)
        tensor(2)
    """
    _check(quantity)

    def count(averages: GraphAverages) -> Int[Tensor, ""]:
        return averages.count(quantity)

    return count


def _check(quantity: str) -> None:
    if quantity not in QUANTITIES:
        listed = ", ".join(QUANTITIES)
        raise ValueError(f"Expected one of {listed}, but got {quantity!r}. Is it a key of the log?")


def _traces(gram: Float[Tensor, "G C C"]) -> Float[Tensor, " G"]:
    return gram.diagonal(dim1=1, dim2=2).sum(1)


def _num_classes(moments: GraphMoments) -> Int[Tensor, " G"]:
    """How many classes each graph has."""
    return (moments.counts > 0).sum(1)


def _single(moments: GraphMoments) -> Bool[Tensor, " G"]:
    """Graphs with fewer than two classes."""
    return _num_classes(moments) < 2
