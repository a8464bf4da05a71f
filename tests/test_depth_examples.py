"""The examples on depth and on words, short and whole: what they print, draw and claim."""

import importlib.util

import pytest
from support.examples import numbers, require_picture, run, started, verdicts


@pytest.fixture(scope="module")
def layers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("layers")
    return folder, run("intermediate_layers", folder, "--quick")


@pytest.mark.full
def test_the_share_within_classes_falls_with_depth(layers):
    perceptron = numbers(layers[1].split("\nconvolutions")[0], r"(?:layer \d|classifier)")
    assert len(perceptron) == 8
    _, shares, _, aligned, chance, *_ = map(list, zip(*perceptron, strict=True))
    assert shares == sorted(shares, reverse=True)
    assert 0.5 < shares[0] < 0.65
    assert shares[-1] < 0.05
    assert all(0.15 < value < 0.4 for value in chance)
    assert min(a - c for a, c in zip(aligned[-3:], chance[-3:], strict=True)) > 0.3


@pytest.mark.full
def test_the_table_of_layers_says_what_shows_and_what_does_not(layers):
    found = verdicts(layers[1])
    assert len(found) == 12
    assert found["perceptron: the within-class share of the variance falls from layer to layer"]
    vanishes = {text: shows for text, shows in found.items() if "vanishes" in text}
    assert len(vanishes) == 2
    assert not any(vanishes.values())  # this few epochs do not get there
    require_picture(layers[0] / "intermediate_layers.png")


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    folder = tmp_path_factory.mktemp("heads")
    return folder, run("deep_linear", folder, "--quick")


@pytest.mark.full
def test_deep_linear_heads_come_near_their_frames(heads):
    rows = numbers(heads[1], r"(?:(?:MSE|CE), M = \d)?")
    assert [int(row[0]) for row in rows] == [1, 1, 2, 3, 1, 2, 3, 4, 5, 6, 1, 1, 2, 3]
    squared, simplex, deep_entropy = rows[:10], rows[10], rows[11:]
    assert max(max(row[1:4]) for row in squared) < 0.6  # of 1.41, with a fifth of the steps
    assert max(row[3] for row in squared) < 0.02
    for three_or_six in (squared[1:4], squared[4:]):
        distances = [row[1] for row in three_or_six]
        assert distances == sorted(distances, reverse=True)  # the last layers are there first
    assert max(simplex[1:4]) < 0.02
    assert min(min(row[1:4]) for row in deep_entropy) > 0.5


@pytest.mark.full
def test_the_table_of_heads_says_that_deep_cross_entropy_forms_no_simplex(heads):
    found = verdicts(heads[1])
    assert len(found) == 11
    assert not found["CE, M = 3: a simplex as well (all three distances below 0.02)"]
    assert found["CE, M = 3: the logits have a lower rank than the simplex, C - 1 = 9"]
    require_picture(heads[0] / "deep_linear.png")


needs_transformers = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="needs transformers"
)


@pytest.mark.slow
@needs_transformers
def test_the_geometry_of_words_follows_the_loss(tmp_path):
    out = run("language_model", tmp_path, "--quick")
    rows = numbers(out, " +(?:16|32)")
    assert len(rows) == 8
    losses, agreements, cdnv = ([row[i] for row in rows] for i in (1, 2, 3))
    assert losses[0] > losses[3]
    assert agreements[0] < agreements[3]
    assert cdnv[0] > cdnv[3]
    assert all(100 < row[-1] < 300 for row in rows)
    found = verdicts(out)
    assert len(found) == 8
    assert [text for text in found if "correlation" in text] == [*found][:4]
    agrees, spreads, *_ = found.values()
    assert agrees
    assert spreads
    require_picture(tmp_path / "language_model.png")


def test_language_model_says_what_it_lacks(tmp_path):
    absent = "import claims; sys.modules['transformers'] = None; import language_model"
    process = started(absent, tmp_path)
    assert process.returncode == 1
    assert "needs transformers" in process.stderr
    assert "pip install transformers" in process.stderr


MUST_SHOW = {
    "intermediate_layers": (
        "perceptron: the within-class share of the variance falls from layer to layer",
        "perceptron: and all but vanishes at the top",
        "perceptron: the top three weights act on the span of the class means",
    ),
    "deep_linear": tuple(f"MSE, M = {depth}: orthogonal frames" for depth in (1, 3, 6)),
    "language_model": ("NC4 agreement (", "CDNV ("),
}
"""How the claims begin that a whole run has to show; of others, it says whether they do."""


@pytest.mark.full
@pytest.mark.parametrize(
    "name", [*[*MUST_SHOW][:2], pytest.param("language_model", marks=needs_transformers)]
)
def test_a_whole_run_shows_what_it_must(name, tmp_path):
    out = run(name, tmp_path)
    print(out)
    found = verdicts(out)
    for beginning in MUST_SHOW[name]:
        claims = {text: shows for text, shows in found.items() if text.startswith(beginning)}
        assert claims, beginning
        assert all(claims.values()), claims
    require_picture(tmp_path / f"{name}.png")
