"""Nothing on the path of an update makes the host wait for the device: by its source."""

import ast
import inspect
import textwrap

import pytest

from lightning_nc import NeuralCollapse
from lightning_nc.stream import backlog, class_accumulator, moments, products, row_sample
from lightning_nc.stream.class_accumulator import ClassAccumulator
from lightning_nc.stream.class_moments import ClassMoments
from lightning_nc.stream.kept_classifier import KeptClassifier
from lightning_nc.stream.reservoir import to_device
from lightning_nc.stream.row_sample import RowSample
from lightning_nc.tasks import Multiclass, multiclass
from lightning_nc.tasks.multiclass import decide
from lightning_nc.values import symmetric
from lightning_nc.watch.recorder import Recorder

WAITING_METHODS = {
    "item", "cpu", "tolist", "numpy", "nonzero", "argwhere", "unique", "unique_consecutive",
    "masked_select", "is_nonzero", "equal", "allclose", "synchronize",
}  # fmt: skip


WAITING_BUILTINS = {"bool", "int", "float"}


MASKS = {"isfinite", "isnan", "isinf", "ones_like_bool", "logical_and", "logical_or", "logical_not"}


UPDATE_PATH = (
    ClassAccumulator.check,
    ClassAccumulator.add,
    ClassAccumulator._catch_up,
    ClassAccumulator._add,
    ClassMoments.add,
    ClassMoments._needs_products,
    ClassMoments._fold,
    RowSample.add,
    RowSample.knows_decisions,
    RowSample._make_room,
    Multiclass.encode,
    Multiclass.decide,
    Recorder.add,
    Recorder._subset,
    KeptClassifier.keep,
    NeuralCollapse.update,
    decide,
    multiclass._whole,
    row_sample._grown,
    class_accumulator.own_mode,
    symmetric.panels,
    to_device,
)


def waits(source: str) -> list[str]:
    """Lines that make the host wait for the device, less those that say ``sync ok``.

    A name is a mask if it is annotated with Bool, or assigned from a comparison, from ``~`` or from
    ``isfinite`` and its like.
    """
    source = textwrap.dedent(source)
    tree, lines = ast.parse(source), source.splitlines()
    masks: set[str] = set()

    def is_mask(node: ast.AST) -> bool:
        match node:
            case ast.Name(id=name):
                return name in masks
            case ast.Compare() | ast.UnaryOp(op=ast.Invert()):
                return True
            case ast.BinOp(op=ast.BitAnd() | ast.BitOr(), left=left, right=right):
                return is_mask(left) or is_mask(right)
            case ast.Call(func=ast.Attribute(attr=attr)):
                return attr in MASKS
            case ast.Tuple(elts=elements):
                return any(is_mask(element) for element in elements)
        return False

    for node in ast.walk(tree):
        if isinstance(node, ast.arg) and node.annotation and "Bool[" in ast.unparse(node.annotation):
            masks.add(node.arg)
        elif isinstance(node, ast.Assign) and is_mask(node.value):
            masks |= {target.id for target in node.targets if isinstance(target, ast.Name)}

    found = []
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(attr=name)) if name in WAITING_METHODS:
                pass
            case ast.Call(func=ast.Name(id=name)) if name in WAITING_BUILTINS:
                pass
            case ast.Call(func=ast.Attribute(attr="where"), args=[_], keywords=[]):
                pass
            case ast.Subscript(slice=index) if is_mask(index):
                pass
            case _:
                continue
        line = lines[node.lineno - 1]
        if "sync ok" not in line:
            found.append(line.strip())
    return found


def name_of(part):
    return getattr(part, "__qualname__", part.__name__)


@pytest.mark.parametrize("part", [moments, products, backlog, *UPDATE_PATH], ids=name_of)
def test_nothing_on_the_update_path_waits_for_the_device(part):
    assert waits(inspect.getsource(inspect.unwrap(part))) == []


@pytest.mark.parametrize(
    "line",
    [
        "n = x.sum().item()",
        "if bool((x > 0).all()): pass",
        "n = int(x.max())",
        "n = float(x.max())",
        "y = x.cpu()",
        "y = x.tolist()",
        "rows = x.nonzero()",
        "rows = torch.nonzero(x)",
        "seen = torch.unique(x)",
        "rows = torch.where(x > 0)",
        "kept = x[x > 0]",
        "kept = x[~valid]",
        "kept = x[valid]",
        "kept = x[(x > 0) & valid, 0]",
        "x[valid] = 0",
        "kept = x[x.isfinite()]",
        "good = x > 0; kept = x[good]",
        "both = valid & (x > 0)\n    kept = x[both]",
    ],
)
def test_the_check_sees_what_waits(line):
    assert waits(f"def f(x, valid: Bool[Tensor, ' B']):\n    {line}\n")


@pytest.mark.parametrize(
    "line",
    [
        "n = x.sum().item()  # sync ok: once",
        "y = torch.where(valid, x, 0)",
        "y = x[index]",
        "y = x[1:n, None]",
        "y = x.to(torch.float64)",
        "n = len(x) + x.numel()",
        "if x.dtype == torch.float64: y = x[0]",
    ],
)
def test_the_check_lets_pass_what_does_not_wait(line):
    assert waits(f"def f(x, index, n, valid: Bool[Tensor, ' B']):\n    {line}\n") == []
