"""What a merge sends: a few packed all-reduces of the states' size, whatever the number of ranks."""

import numpy as np
import pytest
from support.ranks import CASES, NUM_CLASSES, WIDTH, Case, accumulated, noted_collectives, saying
from support.stages import ONE, TEN, WIDTHS, how_many, recorded

from lightning_nc.stream.sync import Ranks

pytestmark = pytest.mark.ddp


COUNTING = (["default"],)  # NC4 is among them, whose decisions are counted once the means are merged
COUNTED = [["nc0/num_samples"], *COUNTING]
# the lowest rank that has a part, and its sizes, at most and at least
HEADER_ROW, DECISIONS = 1 + 2 * 4, 6


def collectives_of_a_stage(rank, shards, names, covariance, measures):
    recorder = recorded(shards[rank], names, covariance=covariance, measures=measures)
    with noted_collectives() as calls:
        recorder.close(Ranks("cpu"))
    return calls


def collectives_of_a_metric(rank, shards, covariance, measures):
    metric = accumulated(shards[rank], covariance=covariance, measures=measures)
    with noted_collectives() as calls:
        metric.compute()
    return calls


def rounds(width, covariance, classifier=True):
    """Numbers that a module sends in the two rounds: once each, whatever the number of ranks."""
    counts = sums_of_squares = NUM_CLASSES
    means = NUM_CLASSES * width
    bias, weight = (NUM_CLASSES, means) if classifier else (0, 0)
    tallies = 5
    scatter = 0 if covariance == "none" else width * width
    class_scatter = NUM_CLASSES * width * width if covariance == "per_class" else 0
    first = counts + means + tallies + weight + bias
    return first, sums_of_squares + scatter + class_scatter


@pytest.mark.parametrize("covariance", ["pooled", "per_class", "none"])
@pytest.mark.parametrize("names", [ONE, TEN], ids=how_many)
@pytest.mark.parametrize("name", ["even shards", "the last rank has no batch"])
@pytest.mark.parametrize("measures", COUNTED)
def test_a_stage_takes_a_few_all_reduces_of_the_states_size(measures, name, names, covariance, pool):
    # measured at C = 10, d = 512 and 10,240 rows on each rank: 2.2 MB, where torchmetrics' own gather
    # takes 10 barriers and 20 gathers, and leaves 40 MB on 2 ranks and 60 MB on 3, most of it samples;
    # without a sample 6.4 and 9.6 MB
    _, shards = CASES[name].deal(pool.size)
    modules = 1 + len(names)
    for calls in pool.run(collectives_of_a_stage, shards, names, covariance, measures):
        assert [call for call, _ in calls] == ["all_reduce"] * (3 + (measures in COUNTING))
        (_, header), (_, first), (_, second), *third = calls
        assert header == 8 * HEADER_ROW * (3 + modules)  # of a failure, the classifier, and graphs
        layers = [rounds(WIDTHS[name], covariance, classifier=False) for name in names]
        expected = np.sum([rounds(WIDTH, covariance), *layers], 0)
        assert [first, second] == (8 * expected).tolist()
        assert [size for _, size in third] == [8 * DECISIONS * modules] * len(third)


@pytest.mark.parametrize("covariance", ["pooled", "per_class", "none"])
@pytest.mark.parametrize("measures", COUNTED)
def test_computing_a_metric_takes_a_few_all_reduces_of_the_states_size(measures, covariance, pool):
    _, shards = Case().deal(pool.size)
    with saying(*(["left out"] if covariance == "none" and measures == ["default"] else [])):
        results = pool.run(collectives_of_a_metric, shards, covariance, measures)
    for calls in results:
        assert {call for call, _ in calls} == {"all_reduce"}
        states = [8 * numbers for numbers in rounds(WIDTH, covariance, classifier=False)]
        decisions = [8 * DECISIONS] * (measures in COUNTING)
        # no rank has a classifier, or graphs, and the header says so all the same
        assert [size for _, size in calls] == [8 * HEADER_ROW * 4, *states, *decisions]
