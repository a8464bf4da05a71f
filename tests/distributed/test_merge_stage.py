"""A stage over several ranks equals one process over all its rows."""

import pytest
import torch
from support.problems import of_default
from support.ranks import (
    CASES,
    CLASSIFIER,
    NEEDS_SCATTER,
    NUM_CLASSES,
    Case,
    Rows,
    assert_identical,
    assert_same_statistics,
    assert_same_values,
    deal,
    draw,
)
from support.stages import ONE, TEN, WIDTHS, how_many, recorded, values_by_key

from lightning_nc.stream.sync import Ranks
from lightning_nc.values import HEAD

pytestmark = pytest.mark.ddp


def close_stage(rank, shards, names, silent, settings):
    recorder = recorded(shards[rank], names, silent[rank], **settings)
    first = recorder.close(Ranks("cpu"))
    again = recorder.close(Ranks("cpu"))
    assert_identical(values_by_key(first), values_by_key(again))
    return first


STAGES = [
    ("the last rank has no batch", "pooled", ONE),
    ("the last rank has no batch", "pooled", TEN),
    ("the last rank has no batch", "per_class", TEN),
    ("the last rank has no batch", "none", TEN),
    ("the first rank has no batch", "pooled", ONE),
    ("the first rank has no batch", "pooled", TEN),
    ("shards of 1, 20 and all other rows", "pooled", ONE),
    ("the last rank has only ignored rows", "pooled", ONE),
    ("a class is on no rank", "pooled", ONE),
]


@pytest.mark.parametrize(("name", "covariance", "names"), STAGES, ids=how_many)
def test_a_stage_over_several_ranks_equals_one_process(name, covariance, names, pool):
    rows, shards = CASES[name].deal(pool.size)
    settings = {"covariance": covariance}
    results = pool.run(close_stage, shards, names, [()] * pool.size, settings)
    alone = recorded(rows.batches(), names, **settings).close()
    values = [values_by_key(result) for result in results]
    assert_identical(*values)
    assert_same_values(values[0], values_by_key(alone))
    for result in results:
        assert result.notices == alone.notices
        assert list(result.evidence) == [HEAD, *names]
        for module, expected in alone.evidence.items():
            statistics = result.evidence[module].all_classes
            assert_same_statistics(statistics, expected.all_classes, spread=1.0)

    reference = rows.reference(weight=CLASSIFIER.weight.numpy(), bias=CLASSIFIER.bias.numpy())
    head = {key: v for key, v in values[0].items() if key.count("/") == 1}
    skipped = NEEDS_SCATTER if covariance == "none" else ()
    expected = of_default(reference)
    assert_same_values(head, {key: v for key, v in expected.items() if key not in skipped})


def test_rows_left_out_on_any_rank_are_told_on_all(pool):
    rows, i = draw(), torch.arange(180)
    rows = Rows(
        torch.where((i % 7 == 0)[:, None], torch.nan, rows.features),
        rows.target.masked_fill(i % 11 == 0, NUM_CLASSES),
        rows.logits,
    )
    # one rank has the rows without a feature, another those with a label that is out of range
    shards = deal(rows, lambda y, i, world: torch.where(i % 7 == 0, 0, 1 + i % (world - 1)), pool.size)
    results = pool.run(close_stage, shards, [], [()] * pool.size, {})
    alone = recorded(rows.batches(), []).close()
    assert set(alone.notices) == {("non_finite", HEAD), ("out_of_range", HEAD)}
    for result in results:
        assert result.notices == alone.notices
        assert_same_values(values_by_key(result), values_by_key(alone))


def test_a_layer_that_ran_on_one_rank_only_is_merged_all_the_same(pool):
    _, shards = Case().deal(pool.size)
    names = ["layer2", "layer5"]
    silent = [["layer5"] if rank == 0 else ["layer2"] for rank in range(pool.size)]
    results = [values_by_key(r) for r in pool.run(close_stage, shards, names, silent, {})]
    assert_identical(*results)
    together = [batch for batches in shards[1:] for batch in batches]
    for name, batches in (("layer2", shards[0]), ("layer5", together)):
        alone = values_by_key(recorded(batches, [name]).close())
        expected = {key: v for key, v in alone.items() if key.endswith(name)}
        found = {key: v for key, v in results[0].items() if key.endswith(name)}
        assert_same_values(found, expected)


def test_a_stage_without_any_batch_ends_on_all_ranks(pool):
    results = pool.run(close_stage, [[]] * pool.size, list(WIDTHS), [()] * pool.size, {})
    for result in results:
        assert values_by_key(result) == {}
        assert list(result.notices) == [("empty", HEAD)]
