"""The name of a logged value is joined and split in one place, and what is split comes back."""

import pytest

from lightning_nc.functional import MEASURES
from lightning_nc.values import STAGES, Key
from lightning_nc.values.key import keys_in


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (Key("nc1/cdnv", "val"), "nc1/cdnv/val"),
        (Key("nc1/cdnv", "val", "body.0"), "nc1/cdnv/val/body.0"),
        (Key("nc1/cdnv", "val", "body.0", "mine/"), "mine/nc1/cdnv/val/body.0"),
        (Key("nc1/cdnv", "val", prefix="teacher_"), "teacher_nc1/cdnv/val"),
        (Key("neural_collapse/cosines", "train"), "neural_collapse/cosines/train"),
        (Key("neural_collapse/summary"), "neural_collapse/summary"),
    ],
)
def test_a_key_is_joined_by_slashes_behind_its_prefix(key, text):
    assert str(key) == text


@pytest.mark.parametrize("prefix", ["", "mine/", "teacher_", "a/b/"])
@pytest.mark.parametrize("layer", ["", "body.0", "blocks/3", "backbone.layer4.1"])
def test_every_key_of_the_table_comes_back_from_its_text(layer, prefix):
    for measure in MEASURES:
        for stage in STAGES:
            key = Key(measure, stage.name, layer, prefix)
            assert Key.parse(str(key), prefix) == key


@pytest.mark.parametrize(
    ("text", "prefix"),
    [
        ("loss", ""),
        ("", ""),
        ("nc1/cdnv", ""),
        ("nc1/cdnv/val", "mine/"),
        ("other/nc1/cdnv/val", "mine/"),
        ("mine/loss", "mine/"),
    ],
)
def test_what_is_none_of_ours_is_no_key(text, prefix):
    assert Key.parse(text, prefix) is None


def test_a_key_tells_group_and_name_of_its_measure():
    key = Key("nc2/means_equinorm", "val")
    assert (key.group, key.name) == ("nc2", "means_equinorm")


def test_keys_are_found_among_other_texts_in_their_order():
    texts = ["mine/nc1/cdnv/val", "loss", "nc1/cdnv/val", "mine/nc1/rank/test/neck"]
    found = list(keys_in(texts, prefix="mine/"))
    assert [text for text, _ in found] == [texts[0], texts[3]]
    assert [(key.measure, key.stage, key.layer) for _, key in found] == [
        ("nc1/cdnv", "val", ""),
        ("nc1/rank", "test", "neck"),
    ]
