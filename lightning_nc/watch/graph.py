"""What a loss is made of, as autograd has noted it: the matrices it applies last, and what lies below.

Read before the backward, and never changed. A matrix is a parameter of at least two dimensions.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

from torch import Tensor, nn

# what multiplies its input by a matrix, or mixes or scales its rows or entries in another way
_PRODUCTS = re.compile(
    r"(Addmm|Mm|Bmm|Baddbmm|Addbmm|Mv|Addmv|Linear|MkldnnLinear|Trilinear|Convolution\w*|MkldnnConvolution"
    r"|CudnnConvolution\w*|Cdist|EuclideanDist|MkldnnRnnLayer|CudnnRnn|MiopenRnn|ThnnFusedLstmCell"
    r"|ThnnFusedGruCell|SparseAddmm|SparseMm|IndexAdd|ScatterAdd|ScatterReduce|SegmentReduce|Native\w+Norm"
    r"|CudnnBatchNorm)Backward\d+"
)
_PICKS = re.compile(r"(Embedding|EmbeddingBag|Index|IndexSelect|Gather)Backward\d+")  # rows of one
_BUILT_IN = re.compile(r"\w+Backward\d+|AccumulateGrad|CppFunction|_DDPSinkBackward|ErrorBackward")
# which compare each entry of their input with one of their target, and keep both
_OF_ENTRIES = re.compile(r"(MseLoss|SmoothL1Loss|HuberLoss|BinaryCrossEntropy(WithLogits)?)Backward\d+")
_WITHOUT_INSIDE = ("CompiledFunctionBackward", "CheckpointFunctionBackward")


class Cover(IntEnum):
    """What lies between a matrix and the loss, besides sums and functions of single entries.

    Attributes:
        NOTHING: The matrix is applied last.
        HIDDEN: Something that does not tell what it does: compiled, checkpointed, or a custom function.
        PRODUCT: A product with something else, such as a matrix without gradient.
    """

    NOTHING = 0
    HIDDEN = 1
    PRODUCT = 2


@dataclass(frozen=True, eq=False)
class Applied:
    """A matrix where a path from the loss first meets one.

    Attributes:
        matrix: The parameter.
        node: The product, a node of autograd's graph.
        cover: What lies between it and the loss.
        below: Ids of the parameters that enter it or the other factor besides.
        is_joined: Whether what it puts out is combined with anything else that rests on the data, as in
            an adapter, an ensemble or a gate, while it still has an entry for each row of the matrix.
    """

    matrix: Tensor
    node: Any
    cover: Cover
    below: frozenset[int]
    is_joined: bool = False


@dataclass(frozen=True, eq=False)
class HardLabels:
    """The labels of a cross-entropy.

    Attributes:
        products: The nodes of the products that its logits come from.
        target: Class numbers, as the loss was given them.
        ignored: The one that it leaves out.
    """

    products: frozenset[Any]
    target: Tensor
    ignored: int


@dataclass(frozen=True, eq=False)
class VectorLabels:
    """The labels of a loss that compares entry by entry: squared errors, binary cross-entropies.

    Attributes:
        products: The nodes of the products that its input comes from.
        target: As the loss was given it.
        given: Its input.
    """

    products: frozenset[Any]
    target: Tensor
    given: Tensor


@dataclass(frozen=True, eq=False)
class LastMaps:
    """What a loss applies last.

    Attributes:
        applied: Each place where it does.
        labels: Those of its cross-entropies.
        vectors: Those of its losses of entries.
        loose: Parameters that enter it otherwise, such as in a penalty, or after the last matrix.
        hides: Whether some of it cannot be looked into.
    """

    applied: tuple[Applied, ...] = ()
    labels: tuple[HardLabels, ...] = ()
    vectors: tuple[VectorLabels, ...] = ()
    loose: tuple[Tensor, ...] = ()
    hides: bool = False


def last_maps(loss: Tensor) -> LastMaps:
    """The matrices that a loss applies last, on each path from it to the data.

    Args:
        loss: Before its backward.

    Returns:
        Where they are applied. With none of them, the loss rests on no parameter that is known.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> [place] = last_maps(net(torch.ones(5, 3)).sum()).applied
        >>> place.matrix is net[2].weight, id(net[0].weight) in place.below
        (True, True)
    """
    applied: list[Applied] = []
    loose: dict[int, Tensor] = {}
    covers: dict[Any, Cover] = {}
    open_nodes = [(loss.grad_fn, Cover.NOTHING)]
    while open_nodes:
        node, cover = open_nodes.pop()
        if node is None or covers.get(node, -1) >= cover:
            continue
        covers[node] = cover
        parameter = _parameter(node)
        if parameter is not None:
            loose[id(parameter)] = parameter
            continue
        kind, is_closed = _kind(node), _is_closed(node)
        met = _met(node) if kind is not Cover.NOTHING or _picks(node) else []
        own = max(cover, Cover.HIDDEN) if is_closed else cover
        applied += [Applied(matrix, node, own, _below(node, met)) for matrix in met]
        if is_closed or not met:
            below = max(cover, kind) if not _is_of_rows(node) else cover
            open_nodes += [(child, below) for child in _children(node)]
    hides = any(_is_closed(node) for node in covers)
    above = [n for n, cover in covers.items() if cover is Cover.NOTHING and _kind(n) is cover]
    labels = tuple(_labels_of(node) for node in above if _holds_labels(node))
    vectors = tuple(_vectors_of(node) for node in above if _holds_vectors(node))
    joined = _with_joins(_each_once(applied), above)
    return LastMaps(joined, labels, vectors, tuple(loose.values()), hides)


def product_of(output: Tensor) -> Any:
    """The product that an output comes from, up to sums with vectors; None where there are several.

    Example:
        >>> import torch
        >>> head = nn.Linear(3, 2)
        >>> y = head(torch.ones(4, 5, 3))
        >>> product_of(y) is last_maps(y.sum()).applied[0].node
        True
    """
    found = set() if output.grad_fn is None else _first_products(output.grad_fn)
    return next(iter(found)) if len(found) == 1 else None


def _each_once(applied: Iterable[Applied]) -> tuple[Applied, ...]:
    """Of what was met twice, the way on which more lies above it."""
    places: dict[tuple[Any, int], Applied] = {}
    for place in applied:
        key = place.node, id(place.matrix)
        if key not in places or places[key].cover < place.cover:
            places[key] = place
    return tuple(places.values())


def _holds_labels(node: Any) -> bool:
    """Whether it is a cross-entropy with labels at hand; unpacking them may run a forward again."""
    if not type(node).__name__.startswith("NllLoss"):
        return False
    return getattr(node._raw_saved_target, "unpack_hook", None) is None


def _holds_vectors(node: Any) -> bool:
    """Whether it is a loss of entries with its labels at hand."""
    if not _OF_ENTRIES.fullmatch(type(node).__name__):
        return False
    saved = (node._raw_saved_target, node._raw_saved_self)
    return all(getattr(each, "unpack_hook", None) is None for each in saved)


def _vectors_of(node: Any) -> VectorLabels:
    given, target = node._saved_self.detach(), node._saved_target.detach()
    if node.next_functions[0][0] is None:  # squared errors are the same the other way round
        given, target = target, given
    return VectorLabels(_products_below(node), target, given)


def _products_below(node: Any) -> frozenset[Any]:
    return frozenset(p for child in _children(node) for p in _first_products(child))


def _labels_of(node: Any) -> HardLabels:
    ignored = int(node._saved_ignore_index)  # an unsigned number, as the graph shows it
    ignored -= 2**64 * (ignored >= 2**63)
    return HardLabels(_products_below(node), node._saved_target.detach(), ignored)


def _is_of_rows(node: Any) -> bool:
    """Whether it has put out one number for each row, as a loss does that is written as a product."""
    shape = _shape(node)
    return len(shape) == 3 and shape[-2:] == (1, 1)


def _with_joins(applied: Sequence[Applied], above: Sequence[Any]) -> tuple[Applied, ...]:
    """Look at the nodes between the loss and its last products for what joins one with others."""
    own: dict[int, set[Any]] = {}
    for place in applied:
        own.setdefault(id(place.matrix), set()).add(place.node)
    inputs = [(node, [_first_products(child) for child in _children(node)]) for node in above]

    def joins(node: Any, products: Sequence[set[Any]], place: Applied) -> bool:
        mine = own[id(place.matrix)]
        is_wide = _width(node) >= place.matrix.shape[0]
        return is_wide and any(p & mine for p in products) and any(p - mine for p in products)

    several = [(node, products) for node, products in inputs if len(products) > 1]
    return tuple(
        replace(place, is_joined=any(joins(*each, place) for each in several)) for place in applied
    )


def _first_products(node: Any) -> set[Any]:
    """The node, if it is a product, or those that one meets first below."""
    if _kind(node) is not Cover.NOTHING:
        return {node}
    below = _walk(node, through=lambda n: _kind(n) is Cover.NOTHING)
    return {each for each in below if _kind(each) is not Cover.NOTHING}


def _width(node: Any) -> int:
    """The last dimension of what a node has put out; 0 of what has but one, as losses have."""
    shape = _shape(node)
    return shape[-1] if len(shape) > 1 else 0


def _shape(node: Any) -> tuple[int, ...]:
    """That of what a node has put out; empty where it is not told."""
    return next((tuple(each.shape) for each in getattr(node, "_input_metadata", ())), ())


def _kind(node: Any) -> Cover:
    name = type(node).__name__
    if _PRODUCTS.fullmatch(name):
        return Cover.PRODUCT
    return Cover.NOTHING if _BUILT_IN.fullmatch(name) else Cover.HIDDEN


def _picks(node: Any) -> bool:
    return _PICKS.fullmatch(type(node).__name__) is not None


def _is_closed(node: Any) -> bool:
    return type(node).__name__ in _WITHOUT_INSIDE


def _parameter(node: Any) -> Tensor | None:
    """That of a leaf, if it is one."""
    variable = getattr(node, "variable", None)
    return variable if isinstance(variable, nn.Parameter) else None


def _children(node: Any) -> list[Any]:
    return [child for child, _ in node.next_functions if child is not None]


def _met(node: Any) -> list[Tensor]:
    """The matrices that are a factor of a product with something else than parameters.

    Of parameters alone it is a penalty, such as that on W W'.
    """
    factors = [_factor(child) for child in _children(node)]
    is_penalty = len(factors) > 1 and len(factors) == len(node.next_functions) and all(factors)
    return [] if is_penalty else [matrix for factor in factors for matrix in factor]


def _factor(child: Any) -> list[Tensor]:
    """Those that one input of a product is made of; none of an input that rests on others as well.

    The input of a layer may rest on a matrix without a product, as on the positions of a transformer.
    """

    def passes(node: Any) -> bool:
        return _kind(node) is Cover.NOTHING and not _picks(node)

    around = [child, *(_walk(child, through=passes) if passes(child) else ())]
    found = [p for p in map(_parameter, around) if p is not None and p.ndim > 1]
    own = {id(matrix) for matrix in found}
    beyond = (p for node in around if not passes(node) for p in map(_parameter, _walk(node)))
    return found if all(id(p) in own for p in beyond if p is not None and p.ndim > 1) else []


def _below(node: Any, met: list[Tensor]) -> frozenset[int]:
    found = (_parameter(each) for each in _walk(node))
    return frozenset(id(p) for p in found if p is not None) - {id(m) for m in met}


def _walk(start: Any, through: Callable[[Any], bool] | None = None) -> Iterator[Any]:
    """The nodes below one, each once, as far as it goes through."""
    seen, open_nodes = {start}, _children(start)
    while open_nodes:
        node = open_nodes.pop()
        if node in seen:
            continue
        seen.add(node)
        yield node
        if through is None or through(node):
            open_nodes += _children(node)
