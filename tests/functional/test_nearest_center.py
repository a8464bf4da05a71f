"""The nearest class center: as exact as float64, and mostly without it."""

import numpy as np
import pytest
import torch
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st
from support import oracles
from support.problems import gaussian_classes, problem, statistics_of

from lightning_nc import ClassStatistics
from lightning_nc import functional as F
from lightning_nc.functional import nearest_center


@pytest.mark.parametrize("offset", [0.0, 1000.0])
@pytest.mark.parametrize("spread", [1.0, 1e-9, 0.0])
def test_the_nearest_center_is_the_one_of_float64_however_near_the_second(spread, offset):
    generator = torch.Generator().manual_seed(0)
    means = offset + torch.randn(5, 16, generator=generator, dtype=torch.float64)
    means[1] = means[0] + 1e-9
    pairs = torch.combinations(torch.arange(5))
    between = means[pairs].mean(1)  # as far from one as from the other
    noise = torch.randn(200, 10, 16, generator=generator, dtype=torch.float64)
    rows = (between + spread * noise).reshape(-1, 16)
    statistics = ClassStatistics.from_batch(means, torch.arange(5), 5)
    distances = ((rows[:, None] - means) ** 2).sum(2)
    chosen = F.nearest_class_center(rows, statistics)
    lost = distances.gather(1, chosen[:, None])[:, 0] - distances.min(1).values
    assert float(lost.max()) <= 1e-9 * (1 + offset)
    # float32 alone would be seen: it cannot tell the first two apart
    told = ((rows[:, None].float() - means.float()) ** 2).sum(2).argmin(1)
    assert spread == 1.0 or bool((told != chosen).any())


def test_the_nearest_class_center_equals_the_reference_far_from_the_origin():
    given = gaussian_classes([40] * 10, 32, spread=2.0, offset=1000.0)
    h, y = given.features, given.target
    counts, means, _, _ = oracles.two_pass_statistics(h.numpy(), y.numpy(), 10)
    expected = oracles.nearest_class_center(h.double().numpy(), means, np.flatnonzero(counts))
    assert F.nearest_class_center(h.double(), statistics_of(given)).tolist() == expected.tolist()


def test_a_tie_goes_to_the_first_class_and_an_unseen_class_is_never_chosen():
    rows = torch.tensor([[-1.0], [1.0]])
    statistics = ClassStatistics.from_batch(rows, torch.tensor([1, 3]), num_classes=4)
    tie = torch.zeros(2, 1, dtype=torch.float64)
    assert F.nearest_class_center(tie, statistics).tolist() == [1, 1]


@settings(max_examples=60, deadline=None)
@for_all(
    st.integers(2, 12),
    st.integers(1, 8),
    st.sampled_from([0.0, 1e-7, 1e-3, 0.3, 3.0]),
    st.sampled_from([0.0, 1000.0]),
    st.integers(0, 10**6),
)
def test_a_guess_changes_nothing_but_the_time(num_classes, width, spread, offset, seed):
    generator = torch.Generator().manual_seed(seed)
    means = offset + torch.randn(num_classes, width, generator=generator)
    means[-1] = means[0] + spread * torch.randn(width, generator=generator)
    label = torch.randint(num_classes, (60,), generator=generator)
    h = means[label] + spread * torch.randn(60, width, generator=generator)
    h[:10] = (means[0] + means[label[:10]]) / 2  # as far from one as from the other
    statistics = ClassStatistics.from_batch(means, torch.arange(num_classes), num_classes)
    anything = torch.randint(num_classes, (60,), generator=generator)
    squares = (h.double()[:, None] - means.double()).square().sum(2)
    for guess in (None, label, anything):
        chosen = F.nearest_class_center(h, statistics, guess)
        excess = squares.gather(1, chosen[:, None])[:, 0] - squares.min(1).values
        assert float(excess.max()) <= 1e-11  # what float64 makes of products of the means


def test_a_guess_is_not_trusted_within_the_rounding_of_float32():
    means = torch.zeros(3, 4, dtype=torch.float64)
    means[1], means[2] = 1e-3, 777.777  # far away, so that the other two are coarse in float32
    share = torch.linspace(0.45, 0.55, 401, dtype=torch.float64)
    rows = share[:, None] * means[1]
    statistics = ClassStatistics.from_batch(means, torch.arange(3), 3)
    for guess in (0, 1):
        chosen = F.nearest_class_center(rows, statistics, torch.full((401,), guess))
        clear = (share - 0.5).abs() > 1e-6
        assert torch.equal(chosen[clear], (share > 0.5).long()[clear])


@pytest.mark.parametrize("scale", [1e-30, 1e-23, 1.0, 1e12, 1e19])
@pytest.mark.parametrize(
    ("offset", "dtype"), [(0.0, torch.float32), (0.0, torch.float64), (1e12 + 28e3, torch.float64)]
)
def test_the_nearest_center_is_found_at_any_scale_and_offset(scale, offset, dtype):
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(10, 6, generator=generator, dtype=torch.float64)
    pairs = torch.combinations(torch.arange(10))
    share = torch.linspace(0.49, 0.51, 40, dtype=torch.float64)[:, None, None]
    rows = (share * means[pairs[:, 0]] + (1 - share) * means[pairs[:, 1]]).reshape(-1, 6)
    rows, means = (((offset + t) * scale).to(dtype) for t in (rows, means))
    statistics = ClassStatistics.from_batch(means, torch.arange(10), 10)
    distances = (rows.double()[:, None] - means.double()).norm(dim=2)
    for guess in (None, pairs[:, 0].repeat(40), pairs[:, 1].repeat(40)):
        chosen = F.nearest_class_center(rows, statistics, guess)
        lost = distances.gather(1, chosen[:, None])[:, 0] / distances.min(1).values
        assert float(lost.max()) < 1 + (5e-4 if offset else 1e-6)


def test_no_rows_rows_with_a_gradient_and_guesses_without_samples_are_taken():
    statistics = ClassStatistics.from_batch(torch.eye(3)[1:], torch.tensor([1, 2]), 3)
    assert F.nearest_class_center(torch.zeros(0, 3), statistics).shape == (0,)
    rows = torch.eye(3, requires_grad=True)
    unseen = torch.tensor([0, 0, 0])
    assert F.nearest_class_center(rows, statistics).tolist()[1:] == [1, 2]
    assert F.nearest_class_center(rows, statistics, unseen).tolist()[1:] == [1, 2]


def test_a_good_guess_spares_the_distances_to_all_other_centers(monkeypatch):
    asked = []
    by_products = nearest_center._Float32Centers._by_products
    monkeypatch.setattr(
        nearest_center._Float32Centers, "_by_products",
        lambda self, rows, h: asked.append(len(rows)) or by_products(self, rows, h),
    )  # fmt: skip
    given = gaussian_classes([3, 0, *[4] * 40], 64, spread=1e-3)
    h, y, statistics = given.features, given.target, statistics_of(given)
    assert torch.equal(F.nearest_class_center(h, statistics, y), y)
    assert sum(asked) == 0
    assert torch.equal(F.nearest_class_center(h, statistics), y)
    assert sum(asked) == len(y)


def test_of_few_classes_a_guess_is_not_looked_at(monkeypatch):
    given = gaussian_classes([20, 0, 20, 20], 16, spread=1e-3)
    y, statistics = given.target, statistics_of(given)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "index_select", None)
        assert torch.equal(F.nearest_class_center(given.features, statistics, y), y)


def test_centers_are_found_in_blocks(monkeypatch):
    given = problem("random")
    whole = F.nearest_class_center(given.features.double(), statistics_of(given))
    monkeypatch.setattr("lightning_nc.functional.nearest_center._BLOCK_ENTRIES", 70)
    blocks = F.nearest_class_center(given.features.double(), statistics_of(given))
    assert torch.equal(whole, blocks)


def test_autocast_changes_no_decision():
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(20, 64, generator=generator)
    first, second = torch.arange(20), torch.arange(20).roll(1)
    # a little nearer to the first than to the second, by more than float32 rounds off
    h = 0.501 * means[first] + 0.499 * means[second]
    statistics = ClassStatistics.from_batch(means, first, num_classes=20)
    plain = F.nearest_class_center(h, statistics)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(F.nearest_class_center(h, statistics), plain)


def rows_near_ties(num_classes, width, together):
    """Rows at the middle of two means, of which so many are within float32's rounding of each other."""
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(num_classes, width, generator=generator, dtype=torch.float64)
    means[:together] = means[0] + 1e-6 * means[:together]
    order = torch.randperm(num_classes, generator=generator)
    means = means[order]
    tied = order.argsort()[:together]
    noise = torch.randn(300, width, generator=generator, dtype=torch.float64)
    rows = torch.cat([means[tied].mean(0) + 1e-6 * noise, means[:300] + 0.5 * noise])
    return rows, means, ClassStatistics.from_batch(means, torch.arange(num_classes), num_classes)


def too_far(rows, means, chosen):
    """By how much, in squared distance, a chosen center is behind the nearest."""
    squares = (rows[:, None] - means).square().sum(2)
    return float((squares.gather(1, chosen[:, None])[:, 0] - squares.min(1).values).max())


@pytest.mark.parametrize("tile", [1, 7, 64, 1024])
@pytest.mark.parametrize("together", [2, 5, 30])
def test_of_many_centers_the_nearest_is_that_of_float64_whatever_the_tile(monkeypatch, together, tile):
    monkeypatch.setattr(nearest_center, "_TILE", tile)
    rows, means, statistics = rows_near_ties(400, 12, together)
    chosen = F.nearest_class_center(rows, statistics)
    assert too_far(rows, means, chosen) < 1e-13
    assert (
        too_far(
            rows, means, (rows.float() @ means.float().T - means.float().square().sum(1) / 2).argmax(1)
        )
        > 1e-13
    )


@pytest.mark.parametrize(
    ("together", "among_few", "among_all"), [(2, 300, 0), (7, 300, 0), (8, 0, 300), (30, 0, 300)]
)
def test_in_doubt_float64_decides_among_few_centers_where_no_other_can_be_nearest(
    monkeypatch, together, among_few, among_all
):
    """Eight candidates hold the nearest only if the last of them is clearly behind."""
    monkeypatch.setattr(nearest_center, "_TILE", 100)
    few, many = [], []
    of_few, of_all = nearest_center._Float32Centers._nearest_of, nearest_center._Centers.nearest
    monkeypatch.setattr(
        nearest_center._Float32Centers, "_nearest_of",
        lambda self, rows, near: few.append(len(rows)) or of_few(self, rows, near),
    )  # fmt: skip
    monkeypatch.setattr(
        nearest_center._Centers, "nearest",
        lambda self, rows: many.append(len(rows)) or of_all(self, rows),
    )  # fmt: skip
    rows, means, statistics = rows_near_ties(400, 12, together)
    chosen = F.nearest_class_center(rows[:300], statistics)
    assert too_far(rows[:300], means, chosen) < 1e-13
    assert (sum(few), sum(many)) == (among_few, among_all)


def test_rows_without_a_number_are_given_some_class():
    rows, _, statistics = rows_near_ties(400, 12, 2)
    rows[::2] = torch.nan
    chosen = F.nearest_class_center(rows, statistics)
    assert 0 <= int(chosen.min()) <= int(chosen.max()) < 400
    assert torch.equal(chosen[1::2], F.nearest_class_center(rows[1::2], statistics))


def test_equally_near_centers_in_two_tiles_leave_the_first(monkeypatch):
    monkeypatch.setattr(nearest_center, "_TILE", 3)
    places = [-10, 10, 11, -11, -1, 12, -12, 13, -13, 14, 1, -14]
    means = torch.tensor(places, dtype=torch.float64)[:, None]
    statistics = ClassStatistics.from_batch(means, torch.arange(12), 12)
    assert F.nearest_class_center(torch.zeros(1, 1), statistics).tolist() == [4]
