"""The places where features are measured, as a config names them."""

import pytest
from torch import nn

from lightning_nc.watch.layers import Layer, find_layers, place_of

ANY = nn.ReLU()
MODULES = dict.fromkeys(
    ("", "stem", "blocks", "blocks.0", "blocks.0.mlp", "blocks.1", "blocks.1.mlp", "in", "head"), ANY
)


def keys_of(layers, pool="auto", modules=MODULES):
    """The key of each layer, and its pool."""
    return {layer.name: layer.pool for layer in find_layers(modules, layers, pool)}


def test_globs_name_layers_in_the_order_of_the_setting_and_of_the_network():
    assert list(keys_of(["blocks.*", "stem"])) == ["blocks.0", "blocks.1", "stem"]
    assert list(keys_of(["**.mlp", "blocks.1"])) == ["blocks.0.mlp", "blocks.1.mlp", "blocks.1"]


def test_paths_leave_wrappers_out():
    assert keys_of(["_orig_mod.stem", "_orig_mod.blocks.*"]) == dict.fromkeys(
        ("stem", "blocks.0", "blocks.1"), "auto"
    )


def test_the_input_of_a_module_has_a_key_of_its_own():
    assert find_layers(MODULES, ["blocks.*:in", "blocks.0"], "first") == [
        Layer("blocks.0.in", "blocks.0", "first", of_input=True),
        Layer("blocks.1.in", "blocks.1", "first", of_input=True),
        Layer("blocks.0", "blocks.0", "first"),
    ]


def test_each_of_several_pools_has_a_key_of_its_own_and_one_alone_has_none():
    pools = {"stem": ["first", "support.training.take_middle"], "head:in": ["auto"], "blocks.0": "last"}
    assert keys_of(pools) == {
        "stem.first": "first",
        "stem.take_middle": "support.training.take_middle",
        "head.in.auto": "auto",
        "blocks.0": "last",
    }


def test_what_is_named_twice_counts_once():
    assert keys_of(["blocks.*", "blocks.0", "blocks.0"]) == {"blocks.0": "auto", "blocks.1": "auto"}
    assert keys_of({"blocks.?": "first", "blocks.*": "first"}) == {
        "blocks.0": "first",
        "blocks.1": "first",
    }


@pytest.mark.parametrize("turn", [1, -1])
@pytest.mark.parametrize(
    "layers",
    [
        {"blocks.*": "flatten", "blocks.1": "first"},  # a path says more than a glob
        {"blocks.*": "flatten", "blocks.1": "first", "**.1": "auto"},
        {"blocks.*": "auto", "blocks.0": "flatten", "blocks.[1]": "first"},  # and a pool more than auto
    ],
)
def test_a_layer_has_the_pool_that_says_most_about_it(layers, turn):
    given = dict(list(layers.items())[::turn])
    assert keys_of(given) == {"blocks.0": "flatten", "blocks.1": "first"}


@pytest.mark.parametrize(
    ("layers", "text"),
    [
        (
            {"blocks.*": "first", "blocks.?": "last"},
            r"one layer for the key 'blocks\.0', but 'blocks\.\*' gives 'blocks\.0' with pool 'first', "
            r"and 'blocks\.\?' gives 'blocks\.0' with pool 'last'\. Leave one of them out",
        ),
        ({"head": ["flatten", "torch.flatten"]}, r"one layer for the key 'head\.flatten'"),
        ({"head": "support.no.pool"}, r"pool to name a function that can be imported"),
        ({"head": []}, r"a pool or a list of pools for layer 'head', but got \[\]"),
        ({"head": ["avg"]}, r"pool to be 'auto', one of .*last_token.*, but got 'avg'"),
        (["head:out"], r"puts out \('head'\) or what goes into it \('head:in'\), but got 'head:out'"),
        (["head:"], r"but got 'head:'"),
        ("head", r"a list of layers, but got the string 'head': \['head'\]\?"),
        (["haed:in"], r"dotted path of a submodule, but there is no 'haed'\. Did you mean 'head'\?"),
        (["b*.nothing"], r"dotted path of a submodule, but there is no 'b\*\.nothing'"),
        (["*mlp"], r"'\*mlp' names none: '\*' and '\?' stop at dots\. Did you mean '\*\*mlp'\?"),
        ([""], r"there is no ''"),
        ([":in"], r"there is no ''"),
    ],
)
def test_what_names_no_layer_is_refused(layers, text):
    with pytest.raises(ValueError, match=f"Expected .*{text}"):
        find_layers(MODULES, layers, "auto")


def test_two_modules_of_one_key_are_refused():
    modules = dict.fromkeys(("", "a", "a.in", "a.first"), ANY)
    with pytest.raises(
        ValueError, match=r"key 'a\.in', but 'a:in' gives 'a' .* gives 'a\.in' with pool"
    ):
        find_layers(modules, ["a:in", "a.in"], "auto")
    with pytest.raises(ValueError, match=r"one layer for the key 'a\.first'"):
        find_layers(modules, {"a": ["first"], "a.*": "first"}, "auto")


def test_a_place_is_one_path():
    assert place_of(MODULES, "_orig_mod.head:in", "features", "last") == Layer(
        "head.in", "head", "last", of_input=True
    )
    assert place_of(MODULES, "head", "features", "auto") == Layer("head", "head", "auto")


@pytest.mark.parametrize(
    ("path", "pool", "text"),
    [
        ("haed:in", "auto", r"Expected features to be the dotted path .*Did you mean 'head'"),
        ("head:out", "auto", r"Expected features to name what a module puts out"),
        ("blocks.*", "auto", r"Expected features to be the dotted path"),
        ("head", "avg", r"Expected pool to be 'auto'"),
    ],
)
def test_a_place_that_is_none_is_refused(path, pool, text):
    with pytest.raises(ValueError, match=text):
        place_of(MODULES, path, "features", pool)
