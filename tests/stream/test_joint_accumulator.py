"""A stream of features and targets comes to what two passes over the rows in float64 come to."""

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st
from support import regression_oracles as oracles
from torch._subclasses.fake_tensor import FakeTensorMode

from lightning_nc import LinearClassifier
from lightning_nc.functional import regression
from lightning_nc.stream import joint as stream
from lightning_nc.tasks.regression import IGNORED, Regression
from lightning_nc.tasks.task import Settings
from lightning_nc.values.joint import LinearReadout

pytestmark = pytest.mark.usefixtures("small_backlog")

ROWS, WIDTH, TARGETS = 400, 12, 3


def drawn(seed=0, rows=ROWS, spread=1.0, offset=0.0, dtype=torch.float32, width=WIDTH):
    """Around a collapse of three dimensions, as the rows come in their dtype."""
    rng = np.random.default_rng(seed)
    h, y, _ = oracles.collapsed(rng, rows, width, TARGETS, spread, offset)
    return torch.from_numpy(h).to(dtype), torch.from_numpy(y).to(dtype)


def blank(width=WIDTH, targets=TARGETS, device="cpu", **given):
    return Regression(Settings(**given)).accumulator((targets, width), device)


def add(accumulator, h, y, cuts=(0, ROWS)):
    for i, j in pairwise(cuts):
        accumulator.add(*accumulator.check(h[i:j], y[i:j]))
    return accumulator


def assert_of_rows(joint, h, y, relative=1e-9):
    for name, expected in oracles.moments(h.double().numpy(), y.double().numpy()).items():
        got = getattr(joint, name).numpy()
        scale = max(1e-300, np.abs(expected).max())
        assert np.abs(got - expected).max() <= relative * scale, name


@settings(deadline=None, max_examples=30)
@for_all(
    cuts=st.lists(st.integers(0, ROWS), max_size=6),
    seed=st.integers(0, 3),
    offset=st.sampled_from([0.0, 1e3]),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
def test_any_split_of_the_rows_comes_to_two_passes_over_them(cuts, seed, offset, dtype):
    h, y = drawn(seed, offset=offset, dtype=dtype)
    found = add(blank(), h, y, sorted({0, *cuts, ROWS})).value()
    assert_of_rows(found.joint, h, y)
    assert len(found.sample.target) == ROWS
    assert not found.sample.target.any()


def merged(parts):
    """As over ranks: what adds up, then what adds up around it."""
    sums = [sum(each) for each in zip(*(part.sums() for part in parts), strict=True)]
    rest = [sum(each) for each in zip(*(part.around(sums) for part in parts), strict=True)]
    return parts[0].merged(sums, rest)


@pytest.mark.parametrize("cuts", [(0, 150, ROWS), (0, 10, 250, ROWS), (0, 0, ROWS)])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_ranks_merge_to_all_rows(cuts, offset):
    h, y = drawn(offset=offset)
    parts = [add(blank(), h, y, ends) for ends in pairwise(cuts)]
    found = merged(parts)
    assert_of_rows(found.joint, h, y)
    assert len(found.sample.target) == cuts[1]
    assert found.tallies.non_finite.dtype == torch.int64


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_co_moments_keep_their_digits_late_in_training(offset):
    rng = np.random.default_rng(0)
    spread = 1e-6 if offset == 0 else 1e-3  # what float32 leaves of it beside such an offset
    h, y = drawn(rows=4000, spread=spread, offset=offset)
    noisy = h + torch.from_numpy(spread * rng.standard_normal(h.shape))
    for features in (h, noisy):
        x, z = features.double().numpy(), y.double().numpy()
        found = add(blank(), features, y, range(0, 4001, 50)).value().joint
        outside = oracles.outside_variance(x, z)
        assert 1e-13 < outside < 1e-4
        assert_of_rows(found, features, y)
        # a share of the variance is known to what float64 makes of the whole, and no better
        least = 2e-15
        got = float(regression.outside_variance(found))
        assert got == pytest.approx(outside, rel=1e-5, abs=least)
        collapse = oracles.feature_collapse(x, z)
        assert float(regression.feature_collapse(found)) == pytest.approx(collapse, rel=1e-5, abs=least)


@pytest.mark.parametrize("width", [12, 100])
def test_as_small_as_a_network_with_weight_decay_makes_them(width):
    """NRC1 below 6e-6, and some 2e-8 of the variance outside, in features narrow and wide."""
    spread = 5e-5 * (9 / (width - 3)) ** 0.5
    h, y = drawn(rows=3000, spread=spread, width=width)
    found = add(blank(width), h, y, range(0, 3001, 100)).value().joint
    x, z = h.double().numpy(), y.double().numpy()
    pairs = (
        (regression.feature_collapse(found), oracles.feature_collapse(x, z), 1e-5),
        (regression.outside_variance(found), oracles.outside_variance(x, z), 1e-7),
    )
    for got, expected, most in pairs:
        assert 0 < expected < most
        assert float(got) == pytest.approx(expected, rel=1e-5, abs=0)


def test_rows_that_cannot_be_used_leave_no_trace_and_are_counted():
    h, y = drawn()
    clean = add(blank(), h, y).value()
    dirty_h, dirty_y = torch.cat([h[:50], h[:6], h[50:]]), torch.cat([y[:50], y[:6], y[50:]])
    dirty_h[50, 3], dirty_h[51] = torch.nan, torch.inf
    dirty_y[52, 1], dirty_y[53, 0], dirty_y[54] = torch.nan, -torch.inf, IGNORED
    dirty_h[55], dirty_y[55] = torch.nan, IGNORED  # nobody wants it
    found = add(blank(), dirty_h, dirty_y, (0, 30, 90, 406)).value()
    for name, value in vars(clean.joint).items():
        assert torch.allclose(getattr(found.joint, name), value, rtol=1e-12, atol=1e-12), name
    assert [int(count) for count in found.tallies] == [2, 2, 0, 0]
    assert found.lost == {"a NaN or infinite feature": 2, "a NaN or infinite target": 2}
    assert found.sample.target.tolist().count(-1) == 6


def test_features_that_are_0_have_no_direction_and_count_for_the_rest():
    h, y = drawn()
    h[::8] = 0
    found = add(blank(), h, y, (0, 100, ROWS)).value()
    assert int(found.tallies.zero) == 50
    assert (int(found.joint.count), int(found.joint.unit_count)) == (400, 350)
    assert_of_rows(found.joint, h, y)
    y[0], y[8, 1] = IGNORED, torch.nan  # these do not count
    assert int(add(blank(), h, y, (0, 100, ROWS)).value().tallies.zero) == 48


def test_whole_numbers_are_counted():
    h, y = drawn()
    y[:300] = y[:300].round()
    y[7, 1] = 0.5
    assert int(add(blank(), h, y).value().tallies.whole) == 299


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_ignored_target_is_one_in_any_dtype(dtype):
    h, y = drawn(dtype=dtype)
    y[:40] = IGNORED
    found = add(blank(), h, y).value()
    assert int(found.joint.count) == ROWS - 40
    assert_of_rows(found.joint, h[40:], y[40:])


def test_states_go_on_where_they_were():
    h, y = drawn()
    first, second = add(blank(), h, y, (0, 130)), blank()
    states = {name: tensor.clone() for name, tensor in first.states().items()}
    second.load(states)
    assert states["joint_scatter"].equal(states["joint_scatter"].T)
    for each in (first, second):
        add(each, h, y, (130, 200, ROWS))
        assert_of_rows(each.value().joint, h, y)
    for name, tensor in first.states().items():
        assert torch.equal(tensor, second.states()[name]), name
    second.reset()
    assert not any(tensor.any() for tensor in second.states().values())
    assert_of_rows(add(second, h, y).value().joint, h, y)


@pytest.mark.parametrize("change", [{"width": 11}, {"targets": 2}])
def test_states_of_another_shape_are_refused(change):
    with pytest.raises(ValueError, match="Expected a state 'joint_means' of shape"):
        blank().load(blank(**change).states())


def test_what_was_handed_out_stays_as_it_is():
    h, y = drawn()
    accumulator = add(blank(), h, y, (0, 200))
    before = accumulator.value()
    kept = [tensor.clone() for tensor in (*vars(before.joint).values(), before.sample.features)]
    add(accumulator, h, y, (200, ROWS)).settle()
    accumulator.reset()
    after = (*vars(before.joint).values(), before.sample.features)
    assert all(map(torch.equal, kept, after))


def test_own_rows_are_those_of_the_value():
    h, y = drawn()
    accumulator = add(blank(sample_rows=64), h, y)
    own, value = accumulator.own(), accumulator.value(LinearClassifier(torch.zeros(3, WIDTH)))
    for name, tensor in vars(value.joint).items():
        assert torch.equal(getattr(own.joint, name), tensor)
    assert torch.equal(own.sample.features, value.sample.features)
    assert len(own.sample.target) == 64


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("width", [8, 100])
def test_updates_run_without_knowing_any_value(width, dtype):
    with FakeTensorMode():
        accumulator = blank(width, 2, sample_rows=50)
        accumulator._labels_are_known = True
        for _ in range(20):
            batch = torch.randn(13, width, dtype=dtype), torch.randn(13, 2)
            accumulator.add(*accumulator.check(*batch))
        accumulator.settle()
        accumulator.reset()


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
def test_an_update_that_waits_for_a_value_would_be_seen(monkeypatch):
    honest = stream.unit_rows
    monkeypatch.setattr(stream, "unit_rows", lambda h: honest(h[(h != 0).any(1)]))
    with FakeTensorMode():
        accumulator = blank(8, 2)
        with pytest.raises(Exception, match=r"aten\.(nonzero|index)"):
            accumulator.add(torch.randn(60, 8), torch.randn(60, 2))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_updates_on_a_gpu_do_not_wait_for_it():
    h, y = drawn()
    accumulator = add(blank(sample_rows=50, device="cuda"), h.cuda(), y.cuda(), (0, 60))
    batches = [(h[i:j].cuda(), y[i:j].cuda()) for i, j in pairwise((60, 90, 300, ROWS))]
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in batches:
            accumulator.add(*accumulator.check(*batch))
        accumulator.settle()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert_of_rows(accumulator.value().joint.to("cpu"), h, y)


@pytest.mark.parametrize("copied", [False, True])
def test_inference_mode_changes_nothing(copied):
    h, y = drawn()
    with torch.inference_mode():
        accumulator = add(blank(), h.clone(), y.clone(), (0, 150))
        if copied:
            accumulator.settle()
            accumulator = copy.deepcopy(accumulator)
    add(accumulator, h, y, (150, 160, ROWS))
    assert_of_rows(accumulator.value().joint, h, y)


def test_features_that_require_a_gradient_keep_no_graph():
    h, y = drawn()
    found = add(blank(), h.requires_grad_(), y).value()
    assert not any(tensor.requires_grad for tensor in vars(found.joint).values())
    assert not found.sample.features.requires_grad


def test_sequences_are_rows():
    h, y = drawn()
    accumulator = blank()
    accumulator.add(*accumulator.check(h.view(20, 20, WIDTH), y.view(20, 20, TARGETS)))
    assert_of_rows(accumulator.value().joint, h, y)


@pytest.mark.parametrize(
    ("features", "targets", "text"),
    [
        ((5, 12), (5, 1), "a head of 1 row, one for each target, but got 3 rows"),
        ((5, 12), (4, 3), "Expected one label per feature, but got 5 features and labels of shape"),
        ((5, 11), (5, 3), r"Expected features of shape \(B, 12\)"),
    ],
)
def test_rows_that_do_not_fit_are_refused(features, targets, text):
    with pytest.raises(ValueError, match=text):
        blank().check(torch.zeros(features), torch.zeros(targets))


def test_products_that_do_not_fit_into_memory_are_refused(monkeypatch):
    monkeypatch.setattr(stream, "free_bytes", lambda device: 5000)
    text = "12 features and 3 targets need 2,952 bytes, 7,380 with scratch .* 5,000 are free on cpu"
    with pytest.raises(ValueError, match=text):
        blank(covariance="pooled")
    blank()


def test_large_batches_go_in_pieces(monkeypatch):
    h, y = drawn()
    whole = add(blank(), h, y).value()
    monkeypatch.setattr(stream, "entries_at_once", lambda device: 600)
    pieces = add(blank(), h, y).value()
    assert_of_rows(pieces.joint, h, y)
    assert torch.equal(whole.sample.features, pieces.sample.features)


def test_the_centered_rows_of_ranks_add_up_to_those_of_all():
    h, y = drawn(spread=0.3, offset=2.0)
    weight = torch.randn(TARGETS, WIDTH, generator=torch.Generator().manual_seed(0))
    parts = [add(blank(), h, y, ends) for ends in pairwise((0, 90, 300, ROWS))]
    whole = merged(parts)
    whole = type(whole)(whole.joint, LinearClassifier(weight), whole.sample, whole.tallies)
    count = regression.centered_rows_of_own_rows
    total = sum(count(part.own(), whole) for part in parts)
    x = h.double().numpy()
    directions = oracles.feature_collapse_centered(x, y.double().numpy())
    rows = oracles.row_space_share_centered(x, weight.double().numpy())
    assert total.tolist() == pytest.approx([ROWS, ROWS * directions, ROWS * rows], rel=1e-9)
    assert isinstance(whole.readout, LinearReadout)
