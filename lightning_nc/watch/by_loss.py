"""The classifier as a training loss tells it: the one matrix that could be W which it applies last."""

from collections.abc import Sequence

from torch import nn

from lightning_nc.watch.graph import Applied, Cover
from lightning_nc.watch.heads import Matrix, makes_weight
from lightning_nc.watch.sight import Sight, refused


def applied_last(sight: Sight) -> list[Applied]:
    """Where the losses apply what could be W, less what lies below another one of these."""
    fitting = {id(m.parameter) for m in sight.matrices if sight.fits(m)}
    places = [p for loss in sight.batch.losses for p in loss.applied if id(p.matrix) in fitting]
    below: dict[int, set[int]] = {}
    for place in places:
        below.setdefault(id(place.matrix), set()).update(place.below)

    def lies_below(place: Applied) -> bool:
        mine = id(place.matrix)
        return any(mine in rest for other, rest in below.items() if other != mine)

    return [place for place in places if not lies_below(place)]


def require_some(sight: Sight) -> None:
    """Where the losses can be looked into, and apply nothing last that could be W, there is none.

    Args:
        sight: Of a batch of which :func:`applied_last` gives nothing.

    Raises:
        ValueError: If they can.
    """
    ours = {id(m.parameter) for m in sight.matrices}
    met = [p for loss in sight.batch.losses for p in loss.applied if id(p.matrix) in ours]
    if any(place.cover is not Cover.HIDDEN for place in met):
        raise refused(f"nothing that the loss applies last {sight.wanted}", sight.applied(met))


def by_loss(sight: Sight, last: Sequence[Applied], is_partial: bool) -> str:
    """The path of the layer that the losses apply last.

    Args:
        sight: Of a batch.
        last: Where they apply what could be W.
        is_partial: Whether further losses may come.

    Returns:
        The path.

    Raises:
        ValueError: If it is not certain.
    """
    found = sight.applied(last)
    ran = {f.product: f.name for f in sight.batch.forwards if f.product is not None}
    names = {ran.get(place.node) for place in last}
    if len({m.owner for m in found}) > 1 or len(names) > 1:
        raise refused("several could be it", found)
    [name] = names
    module = sight.modules.get(name or "")
    if name is None or not isinstance(module, nn.Linear) or not _is_weight_of(module, found):
        raise refused(
            "it is applied as a function, or by something else than an nn.Linear, where no hook sees "
            "its input: call an nn.Linear as a module, self.head(h)",
            found,
        )
    if any(place.cover is not Cover.NOTHING for place in last):
        raise refused("something else is applied after it", found)
    _require_nothing_after(sight, module, last)
    doubtful = [m for m in sight.matrices if _could_be_it_too(sight, m, module, is_partial)]
    if doubtful:
        raise refused(
            f"{name!r} could be it, and so could others: a teacher, the base of an adapter, the head "
            "of another loss",
            doubtful,
        )
    if any(place.is_joined for place in last):
        raise refused(
            "what it puts out is combined with something else, as in an adapter or an ensemble", found
        )
    return name


def _is_weight_of(module: nn.Linear, found: Sequence[Matrix]) -> bool:
    own = {id(w) for w in makes_weight(module)}
    return all(id(matrix.parameter) in own for matrix in found)


def _require_nothing_after(sight: Sight, module: nn.Linear, last: Sequence[Applied]) -> None:
    """A vector with an entry for each class would change the decisions of W h + b."""
    below = {i for place in last for i in place.below}
    loose = {
        id(v)
        for loss in sight.batch.losses
        for v in loss.loose
        if v.shape == (module.out_features,) and v is not module.bias and id(v) not in below
    }
    after = [
        repr(f"{path}.{name}".lstrip("."))
        for path, m in sight.modules.items()
        for name, parameter in m._parameters.items()
        if id(parameter) in loose
    ]
    if after:
        raise refused("something else is applied after the last one", after)


def _could_be_it_too(sight: Sight, matrix: Matrix, module: nn.Linear, is_partial: bool) -> bool:
    """One without gradient, or that enters a loss in a way that does not tell, or may enter one yet."""
    mine, losses = matrix.parameter, sight.batch.losses
    if any(mine is w for w in makes_weight(module)):
        return False
    places = [place for loss in losses for place in loss.applied]
    if any(id(mine) in place.below for place in places):
        return False
    is_loose = any(mine is other for loss in losses for other in loss.loose)
    if is_loose or (is_partial and (mine.requires_grad or id(mine) in sight.trained)):
        return sight.fits(matrix)
    hides, is_applied = any(loss.hides for loss in losses), any(mine is p.matrix for p in places)
    as_many = max(2, module.out_features) in {max(2, side) for side in matrix.sides}
    return as_many and not is_applied and (hides or not mine.requires_grad)
