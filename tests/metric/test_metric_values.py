"""The streaming metric: right, exact near collapse, mergeable, and unmoved by precision and modes."""

import copy
import pickle
from dataclasses import replace

import numpy as np
import oracles
import pytest
import torch
import torchmetrics
from problems import (
    NAMES,
    Problem,
    as_numpy,
    assert_measures,
    assert_statistics,
    gaussian_classes,
    near_collapse,
    problem,
    streamed,
    unchecked_shapes,
)
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lightning_nc import (
    ClassStatistics,
    LinearClassifier,
    NeuralCollapse,
    NeuralCollapseWarning,
)
from lightning_nc import metric as metric_module
from lightning_nc.stream import backlog
from lightning_nc.stream.moments import add_rows_

quiet = pytest.mark.filterwarnings("ignore::lightning_nc.tasks.notices.NeuralCollapseWarning")
EVERYTHING = {"measures": ["*"]}


@pytest.fixture(autouse=True)
def small_backlog(monkeypatch):
    """Some batches of these small problems wait for others, and some are too large for that."""
    monkeypatch.setattr(backlog, "_MOST_ROWS", 100)


def blank(given, **settings):
    return NeuralCollapse(given.num_classes, given.num_features, **{**EVERYTHING, **settings})


def add(metric, given, rows):
    """Some rows of a problem as a batch."""
    h, y, logits = given.features[rows], given.target[rows], given.logits[rows]
    metric.update(h, y, logits, given.classifier)


def assert_identical(metric, other):
    """The same values, statistics and sample to the last bit."""
    mine, theirs = metric.compute(), other.compute()
    assert set(mine) == set(theirs)
    assert all(torch.equal(value, theirs[key]) for key, value in mine.items())
    assert_statistics(metric.statistics(), other.statistics(), relative=0, absolute=0)
    for name in ("features", "target", "predicted"):
        assert torch.equal(getattr(metric.sample(), name), getattr(other.sample(), name))


# ---------------------------------------------------------------------------------- right values


@quiet
@pytest.mark.parametrize("name", NAMES)
def test_every_measure_equals_the_reference_over_uneven_batches(name):
    assert_measures(streamed(problem(name)).compute(), problem(name).reference)


@quiet
@pytest.mark.parametrize("sizes", [(1,), (10_000,), (16, 0)])
def test_every_measure_equals_the_reference_whatever_the_batches(sizes):
    given = problem("imbalanced")
    assert_measures(streamed(given, sizes).compute(), given.reference)


@quiet
def test_data_sorted_by_class_give_the_same_values():
    given = problem("far from the origin")
    order = given.target.argsort(stable=True)
    ordered = replace(given, features=given.features[order], target=given.target[order])
    assert_measures(streamed(ordered).compute(), given.reference)


@pytest.mark.parametrize("nc1", [1e-2, 1e-4, 1e-6, 1e-8, 1e-10, 1e-12, 1e-13])
@pytest.mark.parametrize(
    ("width", "size"), [(64, 1.0), (512, 1.0), (64, 1e3)], ids=["d=64", "d=512", "d=64, means of 1e3"]
)
def test_nc1_is_exact_near_collapse(width, size, nc1):
    given = near_collapse(nc1, width, size)
    h, y = as_numpy(given)
    _, means, scatter, sums = oracles.two_pass_statistics(h, y, 10)
    expected = {
        "nc1/within_between_pinv": oracles.within_between_pinv(means, scatter, len(y)),
        "nc1/within_between_ratio": oracles.within_between_ratio(means, sums, len(y)),
    }
    assert 0.3 * nc1 < expected["nc1/within_between_ratio"] < 3 * nc1
    metric = streamed(given, (60, 1, 32), measures=list(expected))
    assert_measures(metric.compute(), expected, relative=1e-4, absolute=0)


@pytest.mark.slow
def test_many_tiny_batches_do_not_drift():
    given = gaussian_classes([5000] * 4, 6, offset=3.0)
    metric = blank(given, sample_rows=1)
    with unchecked_shapes():
        for h, y in zip(given.features.split(1), given.target.split(1), strict=True):
            metric.update(h, y)
    counts, means, scatter, sums = oracles.two_pass_statistics(*as_numpy(given), 4)
    statistics = metric.statistics()
    assert statistics.counts.tolist() == counts.tolist()
    np.testing.assert_allclose(statistics.means, means, rtol=0, atol=1e-6)
    np.testing.assert_allclose(statistics.sums_of_squares, sums, rtol=1e-6)
    np.testing.assert_allclose(statistics.scatter, scatter, rtol=0, atol=1e-6 * scatter.max())


# ----------------------------------------------------------------------------------- covariances


NEED_COVARIANCE = {"nc1/within_between_pinv", "nc1/variability_collapse_index"}


def test_without_a_covariance_only_its_keys_are_left_out_with_a_reason():
    given = problem("random")
    metric = streamed(given, covariance="none")
    text = (
        "nc1/within_between_pinv, nc1/variability_collapse_index left out: the within-class "
        r"covariance was not kept \(covariance='none'\); use 'pooled'."
    )
    with pytest.warns(NeuralCollapseWarning, match=text):
        values = metric.compute()
    rest = {key: value for key, value in given.reference.items() if key not in NEED_COVARIANCE}
    assert_measures(values, rest)
    assert metric.statistics().scatter is None
    assert metric.scatter.numel() == metric.scatter_float32.numel() == 0


@quiet
@pytest.mark.parametrize("name", ["imbalanced", "missing classes", "float64"])
def test_the_scatter_of_each_class_adds_up_and_equals_the_reference(name):
    given = problem(name)
    h, y = as_numpy(given)
    metric = streamed(given, covariance="per_class")
    assert_measures(metric.compute(), given.reference)
    statistics = metric.statistics()
    largest = float(statistics.scatter.abs().max())
    torch.testing.assert_close(
        statistics.class_scatter.sum(0), statistics.scatter, rtol=0, atol=1e-6 * largest
    )
    for c, scatter in enumerate(statistics.class_scatter):
        _, _, expected, _ = oracles.two_pass_statistics(h[y == c], y[y == c], given.num_classes)
        np.testing.assert_allclose(scatter, expected, rtol=0, atol=1e-6 * largest)


def test_a_per_class_covariance_that_does_not_fit_is_refused_with_its_bytes(monkeypatch):
    monkeypatch.setattr(metric_module, "_free_bytes", lambda device: 1_000_000)
    message = (
        r"covariance='per_class' to fit into memory, but 100 matrices of 64 x 64 need 3,276,800 bytes "
        r"and 1,000,000 are free on cpu. Use covariance='pooled'"
    )
    with pytest.raises(ValueError, match=message):
        NeuralCollapse(100, 64, covariance="per_class")
    NeuralCollapse(10, 64, covariance="per_class")
    NeuralCollapse(100, 64)


def test_free_memory_that_is_not_known_refuses_nothing(monkeypatch):
    monkeypatch.setattr(metric_module, "_free_bytes", lambda device: None)
    NeuralCollapse(100, 64, covariance="per_class")
    monkeypatch.undo()
    assert metric_module._free_bytes(torch.device("cpu")) > 2**20


# ------------------------------------------------------------------------------------- precision


CASTS = {
    "half": lambda m: m.half(),
    "bfloat16": lambda m: m.bfloat16(),
    "float": lambda m: m.float(),
    "double": lambda m: m.double(),
    "to bfloat16": lambda m: m.to(torch.bfloat16),
    "to float64": lambda m: m.to(torch.float64),
    "to cpu and float16": lambda m: m.to("cpu", torch.float16),
    "set_dtype": lambda m: m.set_dtype(torch.float16),
    "type": lambda m: m.type(torch.bfloat16),
    "parent to bfloat16": lambda m: nn.ModuleList([m, nn.Linear(2, 2)]).to(torch.bfloat16),
    "parent half": lambda m: nn.ModuleList([m]).half(),
    "parent double": lambda m: nn.ModuleList([m]).double(),
}


@pytest.mark.parametrize("cast", CASTS)
def test_casts_do_not_touch_the_state(cast):
    given = problem("random")
    plain, casted = blank(given), blank(given)
    for i, rows in enumerate(torch.arange(600).split(97)):
        if i in (0, 3):
            CASTS[cast](casted)
        add(plain, given, rows)
        add(casted, given, rows)
    CASTS[cast](casted)
    assert casted.means.dtype == casted.scatter.dtype == torch.float64
    assert casted.counts.dtype == torch.int64
    assert_identical(casted, plain)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", ["random", "no bias"])
def test_features_of_any_float_dtype_are_measured_as_they_are(dtype, name):
    given = replace(problem(name), features=problem(name).features.to(dtype))
    assert_measures(streamed(given).compute(), given.reference)


@pytest.mark.parametrize("reset", [False, True])
def test_the_sample_keeps_the_digits_of_features_that_come_after_coarser_ones(reset):
    given = gaussian_classes([40] * 10, 32, spread=3.0, offset=100.0)
    given.features[:1] = given.features[:1].bfloat16().float()
    metric = blank(given)
    metric.update(given.features[:1].bfloat16(), given.target[:1], given.logits[:1], given.classifier)
    if reset:
        metric.reset()
        add(metric, given, slice(1))
    add(metric, given, slice(1, None))
    assert_measures(metric.compute(), given.reference)


def test_float64_features_keep_their_digits_in_the_scatter():
    given = problem("float64")
    statistics = streamed(given).statistics()
    whole = ClassStatistics.from_batch(given.features, given.target, 10)
    assert_statistics(statistics, whole, relative=1e-12)


def test_float32_batches_between_float64_ones_are_all_counted():
    given = problem("float64")
    rounded = given.features.clone()
    rounded[100:300] = rounded[100:300].float().double()
    given = replace(given, features=rounded)
    metric = blank(given)
    for rows in torch.arange(400).split(20):
        h = given.features[rows]
        h = h.float() if 100 <= rows[0] < 300 else h
        metric.update(h, given.target[rows], given.logits[rows], given.classifier)
    assert_measures(metric.compute(), given.reference)


def test_an_update_runs_outside_autocast(monkeypatch):
    seen = []

    def watched(*args, **kwargs):
        seen.append(torch.is_autocast_enabled("cpu"))
        return add_rows_(*args, **kwargs)

    monkeypatch.setattr(metric_module, "add_rows_", watched)
    given = problem("random")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.is_autocast_enabled("cpu")
        streamed(given)
    assert seen
    assert not any(seen)


@pytest.mark.parametrize("name", ["random", "far from the origin"])
def test_autocast_changes_nothing(name):
    given = problem(name)
    metric, plain = blank(given), blank(given)
    for rows in torch.arange(len(given.target)).split(97):
        add(plain, given, rows)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            add(metric, given, rows)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        metric.compute()
        assert_identical(metric, plain)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_default_dtype_changes_nothing(dtype):
    given = problem("random")
    plain = streamed(given)
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)
        metric = streamed(given)
        metric.to("cpu")
        metric.compute()
    finally:
        torch.set_default_dtype(before)
    assert_identical(metric, plain)


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_the_precision_of_products_changes_nothing(precision):
    given = problem("far from the origin")
    plain = streamed(given).compute()
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(precision)
        values = streamed(given).compute()
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)
    assert_measures(values, {k: float(v) for k, v in plain.items()}, relative=1e-6, absolute=1e-12)


@quiet
@pytest.mark.parametrize("covariance", ["pooled", "per_class"])
@pytest.mark.parametrize("name", ["random", "imbalanced", "bottleneck off the origin", "binary head"])
def test_a_device_without_float64_is_served_in_float32(name, covariance, monkeypatch):
    for module in ("values.statistics", "metric", "stream.sync"):
        path = f"lightning_nc.{module}.accumulator_dtype"
        monkeypatch.setattr(path, lambda device: torch.float32)
    given = problem(name)
    metric = streamed(given, covariance=covariance)
    assert metric.means.dtype == metric.scatter.dtype == torch.float32
    values = metric.compute()
    assert {value.dtype for value in values.values()} == {torch.float32}
    vci = "nc1/variability_collapse_index"
    assert float(values[vci]) == pytest.approx(given.reference[vci], abs=1e-4)
    close = {vci: float(values[vci])}
    assert_measures(values, {**given.reference, **close}, relative=1e-4, absolute=1e-5)


# ------------------------------------------------------------------------------------ modes and copies


def inference_updates(given):
    metric = blank(given)
    with torch.inference_mode():
        add(metric, given, slice(300))
    add(metric, given, slice(300, None))
    return metric


def inference_features(given):
    metric = blank(given)
    with torch.inference_mode():
        h, y, logits = given.features.clone(), given.target.clone(), given.logits.clone()
    for rows in (slice(300), slice(300, None)):
        metric.update(h[rows], y[rows], logits[rows], given.classifier)
    return metric


def inference_reset(given):
    metric = blank(given)
    add(metric, given, slice(100))
    with torch.inference_mode():
        metric.compute()
        metric.reset()
    add(metric, given, slice(300))
    add(metric, given, slice(300, None))
    return metric


def inference_fold(given):
    metric = blank(given)
    add(metric, given, slice(300))
    with torch.inference_mode():
        metric.compute()
        metric.statistics()
        metric.sample()
    add(metric, given, slice(300, None))
    return metric


def inference_merge(given):
    metric, other = blank(given), blank(given)
    add(other, given, slice(300))
    with torch.inference_mode():
        metric.merge_state(other)
    add(metric, given, slice(300, None))
    return metric


def inference_whole(given):
    with torch.inference_mode():
        metric = blank(given)
        add(metric, given, slice(300))
        add(metric, given, slice(300, None))
        metric.compute()
    return metric


def inference_construction(given):
    with torch.inference_mode():
        metric = blank(given)
    add(metric, given, slice(300))
    add(metric, given, slice(300, None))
    return metric


def inference_forward(given):
    metric = blank(given)
    with torch.inference_mode():
        for rows in (slice(300), slice(300, None)):
            metric(given.features[rows], given.target[rows], given.logits[rows], given.classifier)
    return metric


def inference_copy(given):
    metric = blank(given)
    add(metric, given, slice(300))
    with torch.inference_mode():
        metric = metric.clone()
    add(metric, given, slice(300, None))
    return metric


def inference_copy_computed(given):
    metric = streamed(given)
    with torch.inference_mode():
        return metric.clone()


def inference_copy_merged(given):
    first, second = blank(given), blank(given)
    add(first, given, slice(300))
    add(second, given, slice(300, None))
    with torch.inference_mode():
        first, second = first.clone(), second.clone()
    first.merge_state(second)
    return first


def inference_copy_whole(given):
    with torch.inference_mode():
        metric = streamed(given).clone()
        metric.compute()
    return metric


def inference_copy_saved(given):
    metric, loaded = streamed(given), blank(given)
    with torch.inference_mode():
        metric = metric.clone()
    metric.persistent(True)
    loaded.load_state_dict(metric.state_dict())
    loaded.update(given.features[:0], given.target[:0], None, given.classifier)
    return loaded


@pytest.mark.parametrize(
    "used",
    [
        inference_updates,
        inference_features,
        inference_reset,
        inference_fold,
        inference_merge,
        inference_whole,
        inference_construction,
        inference_forward,
        inference_copy,
        inference_copy_computed,
        inference_copy_merged,
        inference_copy_whole,
        inference_copy_saved,
    ],
)
def test_inference_mode_changes_nothing(used):
    given = problem("random")
    assert_measures(used(given).compute(), given.reference)


def test_features_that_require_a_gradient_keep_no_graph():
    given = problem("random")
    h = given.features.clone().requires_grad_()
    head = nn.Linear(32, 10)
    metric = blank(given)
    metric.update(h, given.target, head(h), LinearClassifier(head.weight, head.bias))
    assert not any(value.requires_grad for value in metric.compute().values())
    assert not metric.sample().features.requires_grad


COPIES = {
    "pickle": lambda m: pickle.loads(pickle.dumps(m)),
    "deepcopy": copy.deepcopy,
    "clone": lambda m: m.clone(),
}


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_continues_as_the_original_and_apart_from_it(how):
    given = problem("random")
    original = blank(given, sample_rows=50)
    add(original, given, slice(200))
    copied = COPIES[how](original)
    assert_identical(copied, original)
    add(copied, given, slice(200, 400))
    assert original.compute()["nc0/num_samples"] == 200
    add(original, given, slice(200, 400))
    assert_identical(copied, original)


def test_a_metric_is_hashable_and_each_is_its_own():
    given = problem("random")
    first, second = blank(given), blank(given)
    assert len({first, second, first}) == 2
    add(first, given, slice(10))
    assert hash(first) == hash(first)
    assert sum(isinstance(m, NeuralCollapse) for m in nn.ModuleList([first, second]).modules()) == 2


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


def test_features_on_another_device_are_refused_at_once():
    metric = NeuralCollapse(3, 4)
    with pytest.raises(ValueError, match=r"on cpu, where the metric is, but got them on meta\. Move"):
        metric.update(torch.zeros(2, 4, device="meta"), torch.zeros(2, dtype=torch.long))


def test_a_move_between_devices_keeps_the_dtypes():
    metric = streamed(problem("random"), covariance="per_class")
    before = {name: getattr(metric, name).dtype for name in metric._defaults}
    for moved in (metric.to("meta"), nn.ModuleList([metric]).to("meta", torch.bfloat16)[0]):
        assert moved is metric
        assert {getattr(moved, name).device.type for name in before} == {"meta"}
        assert {name: getattr(moved, name).dtype for name in before} == before
    assert metric.device.type == "meta"


def test_a_move_to_a_device_without_float64_turns_to_float32(monkeypatch):
    metric = streamed(problem("random"))
    monkeypatch.setattr("lightning_nc.metric.accumulator_dtype", lambda device: torch.float32)
    metric.to("meta")
    assert metric.means.dtype == metric.scatter.dtype == metric.sums_of_squares.dtype == torch.float32
    assert metric.counts.dtype == metric.tallies.dtype == torch.int64


def test_the_global_random_states_are_not_touched():
    given = problem("random")
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    streamed(given, sample_rows=20).compute()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002


# ---------------------------------------------------------------------- forward, compute, reset, plot


def test_forward_returns_the_measures_of_its_batch_and_accumulates():
    given = problem("random")
    metric = blank(given)
    for rows in (slice(200), slice(200, 350), slice(350, None)):
        h, y, logits = given.features[rows], given.target[rows], given.logits[rows]
        values = metric(h, y, logits, given.classifier)
        assert_measures(values, Problem(h, y, 10, given.weight, given.bias).reference)
    assert_measures(metric.compute(), given.reference)


def test_forward_accepts_a_batch_without_samples_as_update_does():
    given = problem("random")
    metric = streamed(given)
    metric(given.features[:0], given.target[:0], given.logits[:0])
    metric(given.features[:3], torch.full((3,), -100), given.logits[:3])
    assert_measures(metric.compute(), given.reference)


def test_compute_is_cached_until_the_state_changes():
    given = problem("random")
    metric = blank(given)
    add(metric, given, slice(300))
    first = metric.compute()
    assert metric.compute() is first
    add(metric, given, slice(300, None))
    assert_measures(metric.compute(), given.reference)
    other = blank(given)
    add(other, given, slice(100))
    metric.merge_state(other)
    assert metric.compute()["nc0/num_samples"] == 700


def test_a_reset_metric_is_as_new():
    given = problem("random")
    used, new = blank(given, sample_rows=50), blank(given, sample_rows=50)
    add(used, problem("far from the origin"), slice(None))
    used.compute()
    used.reset()
    for metric in (used, new):
        add(metric, given, slice(200))
        add(metric, given, slice(200, None))
    assert_identical(used, new)


def test_after_a_reset_nothing_is_known_of_classifier_and_decisions():
    given = problem("random")
    metric = streamed(given)
    metric.reset()
    metric.update(given.features, given.target)
    assert metric.sample().predicted is None
    values = metric.compute()
    unknown = ("nc3/", "nc2/weights", "nc0/accuracy", "nc4/ncc_mismatch")
    assert not any(key.startswith(unknown) for key in values)


def test_without_logits_and_classifier_their_keys_are_left_out_silently():
    given = problem("random")
    metric = blank(given)
    metric.update(given.features, given.target)
    needed = ("nc3/", "nc2/weights", "nc0/accuracy", "nc4/ncc_mismatch")
    rest = {key: value for key, value in given.reference.items() if not key.startswith(needed)}
    assert_measures(metric.compute(), rest)


def test_decisions_may_be_given_in_the_place_of_logits():
    given = problem("random")
    metric = blank(given)
    metric.update(given.features, given.target, classifier=given.classifier, predicted=given.predicted)
    assert_measures(metric.compute(), given.reference)


def test_decisions_of_a_part_of_the_batches_count_for_that_part():
    given = problem("random")
    metric = blank(given)
    metric.update(given.features[:300], given.target[:300])
    metric.update(given.features[300:], given.target[300:], given.logits[300:])
    values = metric.compute()
    right = (given.predicted == given.target)[300:].double().mean()
    assert float(values["nc0/accuracy"]) == pytest.approx(float(right))
    h, y = as_numpy(given)
    _, means, _, _ = oracles.two_pass_statistics(h, y, 10)
    center = oracles.nearest_class_center(h, means, np.arange(10))
    wrong = np.mean(center[300:] != given.predicted.numpy()[300:])
    assert float(values["nc4/ncc_mismatch"]) == pytest.approx(wrong)


def test_the_classifier_is_read_when_the_values_are_computed():
    given = problem("random")
    head = nn.Linear(32, 10)
    metric = blank(given)
    metric.update(given.features, given.target, given.logits, LinearClassifier(head.weight, head.bias))
    with torch.no_grad():
        head.weight.copy_(given.weight)
        head.bias.copy_(given.bias)
    accumulated = metric.accumulated()
    assert_measures(metric.compute(), given.reference)
    with torch.no_grad():
        head.weight.zero_()
    assert torch.equal(accumulated.classifier.weight, given.weight)


def test_what_the_metric_hands_out_does_not_change_with_later_batches():
    given = problem("random")
    metric = blank(given, covariance="per_class")
    add(metric, given, slice(300))
    statistics, sample, state = metric.statistics(), metric.sample(), metric.accumulated()
    before = copy.deepcopy((statistics, sample, state))
    metric.reset()
    add(metric, given, slice(300, None))
    assert_statistics(statistics, before[0], relative=0, absolute=0)
    assert_statistics(state.statistics, before[2].statistics, relative=0, absolute=0)
    for name in ("features", "target", "predicted"):
        assert torch.equal(getattr(sample, name), getattr(before[1], name))
        assert torch.equal(getattr(state.sample, name), getattr(before[2].sample, name))
    assert state.tallies == before[2].tallies


@quiet
def test_metrics_in_a_collection_that_share_a_state_are_all_right():
    given = problem("random")
    first, second = blank(given, measures=["nc1/cdnv"]), blank(given, measures=["nc4/*"])
    collection = torchmetrics.MetricCollection({"first": first, "second": second})
    for h, y, logits in given.batches((50,)):
        collection.update(h, y, logits=logits, classifier=given.classifier)
    keys = ("nc1/cdnv", "nc4/ncc_mismatch", "nc4/ncc_accuracy")
    assert_measures(collection.compute(), {key: given.reference[key] for key in keys})


# ----------------------------------------------------------------------------------------- merging


@quiet
@pytest.mark.parametrize("covariance", ["pooled", "per_class", "none"])
@pytest.mark.parametrize("name", ["random", "missing classes", "float64"])
def test_merged_metrics_equal_one_metric_over_all_data(name, covariance):
    given = problem(name)
    parts = [blank(given, covariance=covariance) for _ in range(4)]
    order = given.target.argsort(stable=True)  # no part sees all classes
    for part, rows in zip(parts[:3], order.chunk(3), strict=True):
        for few in rows.split(17):
            add(part, given, few)
    whole = streamed(given, covariance=covariance)
    before = [copy.deepcopy(part) for part in parts]
    merged = parts[3]  # without a batch of its own
    for part in parts[:3]:
        merged.merge_state(part)
    assert_statistics(merged.statistics(), whole.statistics(), relative=1e-6)
    reference = dict(given.reference)
    if covariance == "none":
        reference = {key: value for key, value in reference.items() if key not in NEED_COVARIANCE}
    assert_measures(merged.compute(), reference)
    for part, kept in zip(parts[:3], before, strict=False):
        assert_identical(part, kept)


def test_a_merged_metric_goes_on():
    given = problem("random")
    a, b = blank(given), blank(given)
    add(a, given, slice(100))
    add(b, given, slice(100, 300))
    a.merge_state(b)
    add(b, given, slice(50))
    add(a, given, slice(300, None))
    assert_measures(a.compute(), given.reference)


def test_merged_metrics_whose_samples_overflow_keep_the_statistics_and_a_sample_of_all():
    given = problem("random")
    a, b = blank(given, sample_rows=40), blank(given, sample_rows=40, seed=1)
    for metric, part in ((a, torch.arange(400)), (b, torch.arange(400, 600))):
        for rows in part.split(60):
            add(metric, given, rows)
    a.merge_state(b)
    assert_statistics(a.statistics(), streamed(given).statistics(), relative=1e-6)
    values = a.compute()
    exact = {key: v for key, v in given.reference.items() if not key.startswith("nc4")}
    assert_measures({key: values[key] for key in exact}, exact)
    sample = a.sample()
    assert (len(sample.target), sample.seen) == (40, 600)
    rows = (sample.features[:, None] == given.features).all(2).int().argmax(1)
    assert len(set(rows.tolist())) == 40
    assert torch.equal(sample.target, given.target[rows])
    assert torch.equal(sample.predicted, given.predicted[rows])
    assert 0 < (rows >= 400).sum() < 40


def test_shares_of_merged_samples_follow_the_rows_that_they_stand_for():
    given = problem("random")
    from_second = []
    with unchecked_shapes():
        for seed in range(40):
            a = blank(given, sample_rows=30, seed=2 * seed)
            b = blank(given, sample_rows=30, seed=2 * seed + 1)
            a.update(given.features[:450], given.target[:450])
            b.update(given.features[450:], given.target[450:])
            a.merge_state(b)
            rows = (a.sample().features[:, None] == given.features).all(2).int().argmax(1)
            from_second.append(int((rows >= 450).sum()))
    assert abs(np.mean(from_second) - 7.5) < 4 * np.sqrt(30 * 0.25 * 0.75 / 40)


@quiet
def test_what_was_left_out_adds_up_in_a_merge():
    given = problem("random")
    a, b = blank(given), blank(given)
    add(a, given, slice(300))
    b.update(given.features[300:], given.target[300:] + 5, given.logits[300:], given.classifier)
    a.merge_state(b)
    beyond = int((given.target[300:] + 5 >= 10).sum())
    assert int(a.accumulated().tallies.out_of_range) == beyond
    assert int(a.statistics().num_samples) == 600 - beyond


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (torchmetrics.MeanMetric(), "Expected a NeuralCollapse to merge, but got MeanMetric. Pass the"),
        (
            {"counts": torch.zeros(10)},
            "Expected a NeuralCollapse to merge, but got dict. Pass the other",
        ),
        (NeuralCollapse(10, 31), "Expected statistics of the same shape to merge, but got"),
        (NeuralCollapse(9, 32), "Expected statistics of the same shape to merge, but got"),
        (NeuralCollapse(10, 32, covariance="none"), "Do they come from different layers or settings?"),
    ],
)
def test_only_metrics_of_the_same_settings_are_merged(other, message):
    with pytest.raises(ValueError, match=message):
        NeuralCollapse(10, 32).merge_state(other)


# ------------------------------------------------------------------------------------ labels and rows


def test_tokens_are_rows():
    given = problem("random")
    metric = blank(given)
    h, y = given.features.view(20, 30, 32), given.target.view(20, 30)
    metric.update(h, y, given.logits.view(20, 30, 10), given.classifier)
    assert_measures(metric.compute(), given.reference)


def labeled(given, y, **settings):
    metric = blank(given, **settings)
    for rows in torch.arange(len(y)).split(97):
        metric.update(given.features[rows], y[rows], given.logits[rows], given.classifier)
    return metric


@pytest.mark.parametrize(
    ("dtype", "ignored"),
    [
        (torch.int64, -100),
        (torch.int64, 7),
        (torch.int32, -1),
        (torch.int16, -100),
        (torch.uint8, 255),
        (torch.float32, -100),
        (torch.float64, -1),
    ],
)
def test_rows_with_the_ignored_label_are_left_out_silently(dtype, ignored):
    given = problem("random")
    left_out = given.target == 7
    y = torch.where(left_out, ignored, given.target).to(dtype)
    seven = torch.tensor(7)
    bias = given.bias.index_fill(0, seven, -1e9)  # class 7 has no rows: never decided for
    given = replace(given, bias=bias)
    kept = Problem(given.features[~left_out], given.target[~left_out], 10, given.weight, bias)
    metric = labeled(given, y, ignore_index=ignored)
    with pytest.warns(NeuralCollapseWarning, match="got none of class 7") as said:
        values = metric.compute()
    assert len(said) == 1
    assert_measures(values, kept.reference)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("ignore_index", [None, -100, 300])
def test_whole_labels_of_any_dtype_are_accepted(dtype, ignore_index):
    given = problem("random")
    metric = labeled(given, given.target.to(dtype), ignore_index=ignore_index)
    assert_measures(metric.compute(), given.reference)


@quiet
def test_bool_labels_are_two_classes():
    given = problem("binary head")
    assert_measures(labeled(given, given.target.bool()).compute(), given.reference)


@quiet
def test_without_an_ignored_label_minus_100_is_out_of_range():
    given = problem("random")
    y = given.target.clone()
    y[:5] = -100
    assert int(labeled(given, y, ignore_index=None).accumulated().tallies.out_of_range) == 5
    assert int(labeled(given, y).accumulated().tallies.out_of_range) == 0


DIRT = {
    "NaN": (
        lambda h, y: h.index_fill_(1, torch.tensor([3]), torch.nan),
        "7 rows with a NaN or infinite",
    ),
    "infinite": (lambda h, y: h.fill_(torch.inf), "7 rows with a NaN or infinite feature left out"),
    "both infinities": (
        lambda h, y: h.copy_(torch.tensor([torch.inf, -torch.inf]).repeat(16)),
        "7 rows with a NaN or infinite feature",
    ),
    "label too large": (lambda h, y: y.fill_(10), r"7 rows with a label outside \[0, 10\) left out"),
    "label far too large": (lambda h, y: y.fill_(2**40), r"7 rows with a label outside \[0, 10\)"),
    "negative label": (lambda h, y: y.fill_(-3), r"7 rows with a label outside \[0, 10\) left out"),
    "both": (lambda h, y: (h.fill_(torch.nan), y.fill_(-3)), "7 rows with a"),
}


@pytest.mark.parametrize("what", DIRT)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_that_cannot_be_used_leave_no_trace_but_one_warning(what, dtype):
    given = problem("random")
    given = replace(given, features=given.features.to(dtype))
    soil, text = DIRT[what]
    dirty, clean = blank(given), blank(given)
    for i, (h, y, logits) in enumerate(given.batches((100,))):
        clean.update(h, y, logits, given.classifier)
        if i in (0, 4):  # 4 and 3 rows, in the midst of the others
            bad = (h[: 4 - i // 4].clone(), y[: 4 - i // 4].clone())
            soil(*bad)
            h, y = torch.cat([h[:50], bad[0], h[50:]]), torch.cat([y[:50], bad[1], y[50:]])
            logits = torch.cat([logits[:50], logits[: len(bad[1])], logits[50:]])
        dirty.update(h, y, logits, given.classifier)
    with pytest.warns(NeuralCollapseWarning, match=text) as said:
        values = dirty.compute()
    assert len(said) == (2 if what == "both" else 1)
    # zeros among the rows may change the order in which a float32 product adds up
    tolerance = 1e-6 if dtype == torch.float32 else 1e-13
    expected = {key: float(value) for key, value in clean.compute().items()}
    assert_measures(values, expected, relative=tolerance, absolute=1e-14)
    assert_statistics(dirty.statistics(), clean.statistics(), relative=tolerance)
    assert torch.equal(dirty.sample().target.sort().values, given.target.sort().values)


@quiet
def test_float16_features_that_overflow_are_left_out():
    given = problem("random")
    h = given.features.half()
    h[:5] *= torch.tensor(60000.0).half()
    metric = blank(given)
    metric.update(h, given.target, given.logits, given.classifier)
    finite = h.isfinite().all(1)
    assert int(metric.accumulated().tallies.non_finite) == int((~finite).sum()) > 0
    kept = Problem(h[finite], given.target[finite], 10, given.weight, given.bias)
    assert metric.statistics().counts.tolist() == kept.target.bincount(minlength=10).tolist()


def test_large_finite_float32_features_are_not_taken_for_infinite():
    metric = NeuralCollapse(2, 4)
    metric.update(torch.full((3, 4), 3e38), torch.tensor([0, 1, 1]))
    assert int(metric.accumulated().tallies.non_finite) == 0


def test_a_binary_head_may_put_out_a_vector():
    given = problem("binary head")
    metric = blank(given)
    metric.update(given.features, given.target, given.logits[:, 0], given.classifier)
    with pytest.warns(NeuralCollapseWarning, match="needs at least 3 classes"):
        assert_measures(metric.compute(), given.reference)


# ------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_classes": 0}, "Expected num_classes to be at least 1, but got 0"),
        ({"num_features": -1}, "Expected num_features to be at least 1, but got -1"),
        ({"covariance": "diagonal"}, r"one of \('pooled', 'per_class', 'none'\), but got 'diagonal'"),
        ({"measures": ["nc1/cdmv"]}, r"but got 'nc1/cdmv'. Did you mean 'nc1/cdnv'"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        NeuralCollapse(**{"num_classes": 3, "num_features": 4, **settings})


@pytest.mark.parametrize(
    ("features", "target", "extra", "message"),
    [
        ((5, 3), (5,), {}, r"Expected features of shape \(B, 4\), but got \(5, 3\). Are they the clas"),
        ((4,), (4,), {}, r"Expected features of shape \(B, 4\), but got \(4,\)"),
        ((5, 4), (6,), {}, r"one label per feature, but got 5 features and labels of shape \(6,\). Do "
                           r"they come from the same forward, or does the batch hold several views\?"),
        ((6, 4), (3,), {}, r"but got 6 features and labels of shape \(3,\). Do they come from"),
        ((2, 3, 4), (2,), {}, r"but got 6 features and labels of shape \(2,\)"),
        ((5, 4), (5, 3), {}, r"These look like one-hot or soft labels \(mixup\?\): pass hard labels"),
        ((5, 4), (5,), {"logits": torch.zeros(4, 3)},
         "one decision per label, but got logits for 4 rows and 5 labels. Do logits, features and"),
        ((5, 4), (5,), {"logits": torch.zeros(3)}, "but got logits for 3 rows and 5 labels"),
        ((5, 4), (5,), {"predicted": torch.zeros(2, dtype=torch.long)}, "one decision per label"),
        ((5, 4), (5,), {"classifier": LinearClassifier(torch.zeros(3, 5))},
         r"a classifier of shape \(3, 4\), but got \(3, 5\). Are the features its input"),
        ((5, 4), (5,), {"classifier": LinearClassifier(torch.zeros(1, 4))},
         r"a classifier of shape \(3, 4\), but got \(2, 4\)"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_and_changes_nothing(features, target, extra, message):
    metric = NeuralCollapse(3, 4)
    with pytest.raises(ValueError, match=message):
        metric.update(torch.zeros(features), torch.zeros(target, dtype=torch.long), **extra)
    assert int(metric.statistics().num_samples) == 0
    assert metric.accumulated().sample.seen == 0


@pytest.mark.parametrize("soft", [0.5, 1.25, float("nan")])
def test_soft_labels_are_refused_at_once(soft):
    metric = NeuralCollapse(3, 4)
    message = f"floats that are not whole numbers, such as {soft}. Are these soft labels"
    with pytest.raises(ValueError, match=message):
        metric.update(torch.zeros(3, 4), torch.tensor([0.0, 1.0, soft]))


def test_soft_labels_after_the_first_batch_are_left_out_and_counted():
    given = problem("random")
    metric = blank(given)
    y = given.target.float()
    metric.update(given.features[:300], y[:300], given.logits[:300], given.classifier)
    h = torch.cat([given.features[300:], given.features[:2]])
    logits = torch.cat([given.logits[300:], given.logits[:2]])
    metric.update(h, torch.cat([y[300:], torch.tensor([0.5, 1.5])]), logits, given.classifier)
    with pytest.warns(NeuralCollapseWarning, match="2 rows with a label that is no whole number"):
        values = metric.compute()
    assert_measures(values, given.reference)


def test_values_before_the_first_sample_are_refused():
    metric = NeuralCollapse(3, 4)
    with (
        pytest.warns(UserWarning, match="before the ``update`` method"),
        pytest.raises(RuntimeError, match=r"at least one sample before compute\(\), but got none. Was"),
    ):
        metric.compute()
    metric.update(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))
    with pytest.raises(RuntimeError, match=r"but got none\. Was update"):
        metric.compute()


def test_values_without_a_usable_row_are_refused_with_the_reasons():
    metric = NeuralCollapse(3, 4)
    metric.update(torch.zeros(3, 4), torch.tensor([3, -1, -100]))
    metric.update(torch.full((1, 4), torch.nan), torch.tensor([0]))
    left_out = (
        r"but got none \(1 rows with a NaN or infinite feature, 2 rows with a label outside the "
        r"classes were left out\). Was"
    )
    with pytest.raises(RuntimeError, match=left_out):
        metric.compute()


# ------------------------------------------------------------------------- the cost of an update


WITHOUT_WAITING = {
    "pooled": {},
    "per class": {"covariance": "per_class"},
    "traces": {"covariance": "none"},
    "a sample that overflows": {"sample_rows": 50},
    "no ignored label": {"ignore_index": None},
}
fake = pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")


@fake
@pytest.mark.parametrize(
    ("settings", "dtype"),
    [
        *[(name, torch.float32) for name in WITHOUT_WAITING],
        ("pooled", torch.bfloat16),
        ("pooled", torch.float64),
    ],
)
def test_updates_run_without_knowing_any_value(settings, dtype):
    with FakeTensorMode():
        metric = NeuralCollapse(5, 8, **WITHOUT_WAITING[settings])
        head = nn.Linear(8, 5, dtype=dtype)
        for _ in range(20):
            h, y = torch.randn(13, 8, dtype=dtype), torch.randint(5, (13,))
            metric.update(h, y, head(h), LinearClassifier(head.weight, head.bias))
        metric.reset()
        metric.update(h, y, head(h))


WAITING_UPDATES = {
    "item": lambda h, y: h.sum().item(),
    "bool": lambda h, y: bool((y > 0).all()),
    "mask": lambda h, y: h[y > 0],
    "unique": lambda h, y: y.unique(),
}


@fake
@pytest.mark.parametrize("how", WAITING_UPDATES)
def test_an_update_that_waits_for_a_value_would_be_seen(how, monkeypatch):
    honest = NeuralCollapse._select_rows

    def waiting(self, h, y):
        WAITING_UPDATES[how](h, y)
        return honest(self, h, y)

    monkeypatch.setattr(NeuralCollapse, "_select_rows", waiting)
    with FakeTensorMode():
        metric = NeuralCollapse(5, 8)
        with pytest.raises(Exception, match=r"aten\.(_local_scalar_dense|nonzero|index|_unique)"):
            metric.update(torch.randn(60, 8), torch.randint(5, (60,)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("settings", WITHOUT_WAITING)
def test_updates_on_a_gpu_do_not_wait_for_it(settings):
    given = problem("random")
    metric = blank(given, **WITHOUT_WAITING[settings]).to("cuda")
    classifier = LinearClassifier(given.weight.cuda(), given.bias.cuda())
    batches = [[t.cuda() for t in batch] for batch in given.batches((30,))]
    metric.update(*batches[0], classifier)  # loads the libraries
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in batches[1:]:
            metric.update(*batch, classifier)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    if "sample_rows" not in WITHOUT_WAITING[settings] and settings != "traces":
        assert_measures(metric.compute(), given.reference)


class Largest(TorchDispatchMode):
    """The entries of the largest tensor that an operation allocates."""

    entries = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        inputs = {
            t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if torch.is_tensor(t)
        }
        result = func(*args, **kwargs)
        for tensor in tree_leaves(result):
            if torch.is_tensor(tensor) and tensor.untyped_storage().data_ptr() not in inputs:
                self.entries = max(self.entries, tensor.numel())
        return result


@pytest.mark.parametrize("covariance", ["pooled", "none"])
def test_no_batch_allocates_as_much_as_the_class_means(covariance):
    num_classes, width, rows = 50_000, 64, 64
    metric = NeuralCollapse(num_classes, width, covariance=covariance)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        h = torch.randn(rows, width, generator=generator)
        y = torch.randint(num_classes, (rows,), generator=generator)
        with Largest() as largest:
            metric.update(h, y, predicted=y)
    assert num_classes <= largest.entries < num_classes * width / 4
    with Largest() as largest:
        _ = metric.means * 2
    assert largest.entries == num_classes * width
    assert metric.statistics().counts.sum() == 3 * rows


def test_classes_share_no_slots_when_there_are_many():
    num_classes = 2000
    given = gaussian_classes([3] * num_classes, 4, offset=1.0)
    metric = streamed(given, (64,), measures=["nc0/*"])
    whole = ClassStatistics.from_batch(given.features, given.target, num_classes)
    assert_statistics(metric.statistics(), whole, relative=1e-6)
