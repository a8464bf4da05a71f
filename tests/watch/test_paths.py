"""Submodules by their dotted paths."""

import pytest
import torch
from torch import nn

from lightning_nc.watch.paths import matching, modules_by_path, require_path, without_wrappers


def test_of_a_wrapper_and_what_it_wraps_the_latter_has_the_path():
    inner = nn.Sequential(nn.Linear(2, 2))
    root = nn.ModuleDict({"body": torch.compile(inner, backend="eager"), "head": nn.Linear(2, 2)})
    found = modules_by_path(root)
    assert list(found) == ["", "body", "body.0", "head"]
    assert found["body"] is inner
    assert found["body.0"] is inner[0]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("body.0", "body.0"),
        ("_orig_mod", ""),
        ("net._orig_mod.fc", "net.fc"),
        ("_fsdp_wrapped_module.net._checkpoint_wrapped_module.fc", "net.fc"),
    ],
)
def test_paths_leave_wrappers_out(path, expected):
    assert without_wrappers(path) == expected


MODULES = {"": nn.Identity(), "body": nn.ReLU(), "body.norm": nn.ReLU(), "head": nn.Linear(2, 2)}


@pytest.mark.parametrize(
    ("path", "argument", "text"),
    [
        ("haed", "classifier", r"no 'haed'\. Did you mean 'head'\?"),
        ("qqq", "classifier", r"no 'qqq'\. There are 'head', \.\.\."),
        ("qqq", "layers", r"no 'qqq'\. There are 'body', 'body\.norm', 'head', \.\.\."),
        ("", "layers", r"there is no ''"),
    ],
)
def test_a_path_to_nowhere_is_refused_with_what_is_there(path, argument, text):
    with pytest.raises(ValueError, match=f"Expected {argument} to be the dotted path .*{text}"):
        require_path(MODULES, path, argument)


def test_a_path_that_is_there_is_no_error():
    require_path(MODULES, "body.norm", "layers")


NAMES = ["", "mlp", "blocks", "blocks.0", "blocks.0.mlp", "blocks.1", "blocks.10.mlp.fc", "xmlp"]


@pytest.mark.parametrize(
    ("glob", "expected"),
    [
        ("*", ["mlp", "blocks", "xmlp"]),
        ("blocks.*", ["blocks.0", "blocks.1"]),
        ("blocks.?.mlp", ["blocks.0.mlp"]),
        ("blocks.[!0]", ["blocks.1"]),
        ("blocks[.]0", []),
        ("blocks.[01]", ["blocks.0", "blocks.1"]),
        ("blocks.**", ["blocks.0", "blocks.0.mlp", "blocks.1", "blocks.10.mlp.fc"]),
        ("**.mlp", ["mlp", "blocks.0.mlp"]),
        ("**mlp", ["mlp", "blocks.0.mlp", "xmlp"]),
        ("blocks.**.fc", ["blocks.10.mlp.fc"]),
        ("blocks.**.0", ["blocks.0"]),
        ("**", NAMES[1:]),
        ("bl*.1*", ["blocks.1"]),
        ("block.s", []),
    ],
)
def test_a_star_stops_at_dots_and_two_cross_them(glob, expected):
    assert matching(NAMES, glob) == expected
