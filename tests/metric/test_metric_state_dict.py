"""A metric in a checkpoint."""

import copy
from dataclasses import replace

import pytest
import torch
from support.metrics import add, blank
from support.problems import (
    assert_measures,
    assert_statistics,
    gaussian_classes,
    problem,
    streamed,
    two_passes,
)
from torch import nn

from lightning_nc import NeuralCollapse

pytestmark = pytest.mark.usefixtures("small_backlog")


def test_the_state_dict_is_empty():
    metric = streamed(problem("random"))
    assert metric.state_dict() == {}
    assert nn.ModuleDict({"metric": metric}).state_dict() == {}
    assert list(metric.parameters()) == list(metric.buffers()) == []


def test_a_state_that_was_made_persistent_survives_a_checkpoint():
    given = problem("random")
    metric, loaded = streamed(given), blank(given)
    for each in (metric, loaded):
        each.persistent(True)
    loaded.load_state_dict(metric.state_dict())
    assert_statistics(loaded.statistics(), metric.statistics(), relative=1e-12)
    assert torch.equal(loaded.sample().target, metric.sample().target)


def test_a_loaded_metric_goes_on_and_leaves_the_checkpoint_as_it_is():
    given = problem("random")
    metric, loaded = blank(given), blank(given)
    metric.persistent(True)
    add(metric, given, slice(300))
    saved = metric.state_dict()
    before = copy.deepcopy(saved)
    loaded.load_state_dict(saved)
    add(loaded, given, slice(300, None))
    assert_measures(loaded.compute(), given.reference)
    assert all(torch.equal(saved[name], t) for name, t in before.items() if name != "unshared")


def persistent(width=256, **settings):
    """A metric whose state is saved, and the problem that it has seen in part."""
    given = gaussian_classes([40] * 3, width, offset=2.0)
    metric = blank(given, **settings)
    metric.persistent(True)
    add(metric, given, slice(70))
    add(metric, given, slice(70, None))
    return metric, given


def test_the_scatter_that_is_saved_is_whole():
    metric, given = persistent()
    expected = two_passes(given).scatter
    largest = float(expected.abs().max())
    for scatter in (metric.state_dict()["scatter"], metric.scatter):
        assert torch.equal(scatter, scatter.T)
        torch.testing.assert_close(scatter, expected, rtol=0, atol=1e-6 * largest)


def test_the_scatter_is_whole_after_every_batch():
    given = gaussian_classes([40] * 3, 256, offset=2.0)
    metric = blank(given)
    for stop, (h, y, _) in zip(range(17, 200, 17), given.batches((17,)), strict=False):
        metric.update(h, y)
        assert torch.equal(metric.scatter, metric.scatter.T)
        rows = replace(given, features=given.features[:stop], target=given.target[:stop])
        expected = two_passes(rows).scatter
        largest = float(expected.abs().max())
        torch.testing.assert_close(metric.scatter, expected, rtol=0, atol=1e-6 * largest)


def as_older_versions_saved(metric):
    """The scatter above the diagonal alone, and empty tensors for what is not kept."""
    state, width = metric.state_dict(), metric.num_features
    scatter = state.get("scatter", torch.zeros(0, 0, dtype=torch.float64))
    return {
        **state,
        "unshared": torch.tensor(torch.nan, dtype=torch.float64),
        "scatter": scatter.triu() + torch.full_like(scatter, 7.0).tril(-1),
        # all that was in it was moved into the other one whenever a state was saved
        "scatter_float32": torch.zeros_like(scatter, dtype=torch.float32),
        "class_scatter": state.get("class_scatter", torch.zeros(0, width, width, dtype=torch.float64)),
    }


@pytest.mark.parametrize("covariance", ["pooled", "per_class", "none"])
def test_a_state_dict_of_an_older_version_loads_and_goes_on(covariance):
    settings = {"covariance": covariance, "measures": ["default"]}
    metric, given = persistent(width=96, **settings)
    saved = as_older_versions_saved(metric)
    loaded = blank(given, **settings)
    loaded.persistent(True)
    loaded.load_state_dict(saved)
    assert_statistics(loaded.statistics(), metric.statistics(), relative=1e-12)
    for each in (metric, loaded):
        add(each, given, slice(30))
    assert_statistics(loaded.statistics(), metric.statistics(), relative=1e-12)
    assert int(loaded.evidence().tallies.predicted) == 150


@pytest.mark.parametrize(
    ("other", "text"),
    [
        (
            NeuralCollapse(10, 31),
            r"a state 'means' of shape \(10, 32\), but got \(10, 31\)\. Was it saved",
        ),
        (NeuralCollapse(10, 32, covariance="none"), "a state 'scatter' of shape .* but got none"),
    ],
)
def test_a_state_of_other_settings_is_refused_and_changes_nothing(other, text):
    given = problem("random")
    metric = streamed(given)
    other.persistent(True)
    with pytest.raises(ValueError, match=text):
        metric.load_state_dict(other.state_dict())
    assert int(metric.statistics().num_samples) == 600


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"tallies": ...}, "a state 'tallies' of shape .* but got none"),
        ({"rows_seen": ...}, "the states of a sample, but got no 'rows_seen'"),
        ({"sample_target": ...}, "the states of a sample, but got no 'sample_target'"),
        ({"sample_features": torch.zeros(600, 3)}, r"'sample_features' of .* but got \(600, 3\)"),
        ({"sample_target": torch.zeros(5)}, r"'sample_target' of at least 600 rows .* but got \(5,\)"),
    ],
)
def test_states_that_are_not_whole_are_refused_and_change_nothing(changed, text):
    saved, metric = (streamed(problem("random")) for _ in range(2))
    saved.persistent(True)
    state = {n: v for n, v in {**saved.state_dict(), **changed}.items() if v is not ...}
    with pytest.raises(ValueError, match=text):
        metric.load_state_dict(state)
    assert int(metric.statistics().num_samples) == 600
    assert len(metric.sample().target) == 600


def test_a_smaller_sample_does_not_go_on_as_a_larger_one_with_rows_of_zeros():
    given = problem("random")
    few, many = (streamed(given, sample_rows=rows) for rows in (40, 500))
    for metric in (few, many):
        metric.persistent(True)
    with pytest.raises(ValueError, match=r"at least 500 rows .* Was it saved with fewer sample_rows"):
        many.load_state_dict(few.state_dict())
    few.load_state_dict(many.state_dict())
    few.update(given.features[:50], given.target[:50])
    sample = few.sample()
    assert len(sample.target) == 40
    assert bool((sample.features != 0).any(1).all())


def test_a_checkpoint_from_before_the_states_were_persistent_loads():
    metric = NeuralCollapse(3, 4)
    metric.persistent(True)
    metric.load_state_dict({})
