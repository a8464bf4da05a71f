"""The house, read from its source: ``python tests/house.py`` prints what breaks its rules.

Who may import what, by folder; files of at most 320 lines; functions of at most 30 lines of code; at
most five attributes that change after a class was made. It exits with 1 if anything does.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "lightning_nc"
OURS = "lightning_nc"
LIBRARIES = ("lightning", "pytorch_lightning", "torchmetrics", "matplotlib", "tensorboard")
LONGEST_FILE, LONGEST_FUNCTION, MOST_CHANGING = 320, 30, 5

ALLOWED = {
    "values": set(),
    "dotted_path": set(),
    "unchanged": set(),
    "nn": set(),
    "functional": {"values", "dotted_path"},
    "stream": {"values"},
    "tasks": {"values", "functional", "stream"},
    "watch": {"values", "tasks", "stream", "dotted_path"},
    "figures": {"values", "functional", "matplotlib"},
    "run": {"lightning", "pytorch_lightning", "dotted_path", "unchanged", "torchmetrics"},
    "report": {
        "values", "functional", "figures", "tasks", "lightning", "pytorch_lightning", "matplotlib",
        "tensorboard",
    },
    "metric": {"values", "tasks", "stream", "functional", "torchmetrics", "figures", "matplotlib"},
    "plan": {"watch", "run", "report", "tasks", "values"},
    "session": {"plan", "watch", "run", "report", "tasks", "values", "lightning"},
    "callback": {"plan", "session", "watch", "run", "report", "tasks", "values"},
    "measure": {
        "values", "tasks", "stream", "functional", "watch", "dotted_path", "unchanged", "measurement",
    },
    "measurement": {"values", "functional", "tasks", "figures", "matplotlib"},
    "__init__": {
        "functional", "measure", "measurement", "metric", "values", "figures", "callback", "nn",
    },
}  # fmt: skip
"""What a folder, or a file at the top, may import besides itself, of ours and of some libraries."""

# its arguments are the settings, one line each
MAY_BE_LONG = {("callback.py", "__init__")}
# they are what changes
MAY_CHANGE = {
    "ClassAccumulator",
    "ClassMoments",
    "GraphTotals",
    "NeuralCollapse",
    "NeuralCollapseCallback",
}


def room(path: Path) -> str:
    """The folder of a file, or its own name at the top."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(source: str) -> set[str]:
    """The imported names that matter, those inside functions and under TYPE_CHECKING too."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            names = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
        for name in names:
            top, *rest = name.split(".")
            if top == OURS and rest:
                found.add(rest[0])
            elif top in LIBRARIES:
                found.add(top)
    return found


def forbidden(name: str, source: str) -> list[str]:
    """What a room imports and may not."""
    return sorted(imports(source) - ALLOWED.get(name, set()) - {name})


def functions(tree: ast.AST) -> Iterator[tuple[str, int, int]]:
    """Name, line and lines of code of each function, its docstring left out."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[ast.get_docstring(node) is not None :]
            length = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
            yield node.name, node.lineno, length


def changing(tree: ast.AST) -> Iterator[tuple[str, set[str]]]:
    """The attributes of each class that its methods assign after it was made."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            methods = [m for m in node.body if isinstance(m, ast.FunctionDef) and m.name != "__init__"]
            yield node.name, {name for method in methods for name in _assigned(method)}


def _assigned(method: ast.FunctionDef) -> Iterator[str]:
    for node in ast.walk(method):
        is_store = isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
        if is_store and isinstance(node.value, ast.Name) and node.value.id == "self":
            yield node.attr


def findings(path: Path, source: str) -> Iterator[str]:
    """What breaks a rule in one file."""
    where, tree = path.relative_to(PACKAGE.parent), ast.parse(source)
    for name in forbidden(room(path), source):
        yield f"{where}: may not import {name}"
    if source.count("\n") > LONGEST_FILE:
        yield f"{where}: {source.count(chr(10))} lines"
    for name, line, length in functions(tree):
        if length > LONGEST_FUNCTION and (path.name, name) not in MAY_BE_LONG:
            yield f"{where}:{line}: {name} has {length} lines of code"
    for name, attributes in changing(tree):
        if len(attributes) > MOST_CHANGING and name not in MAY_CHANGE:
            listed = ", ".join(sorted(attributes))
            yield f"{where}: {name} changes {len(attributes)} attributes: {listed}"


def main() -> int:
    """Print all that breaks a rule."""
    found = [
        line for path in sorted(PACKAGE.rglob("*.py")) for line in findings(path, path.read_text())
    ]
    print("\n".join(found) or "Nothing breaks the rules of the house.")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
