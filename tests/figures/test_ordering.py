"""An order of the classes that brings similar ones together."""

from itertools import pairwise

import numpy as np
import torch
from support.ideal import etf

from lightning_nc.figures.ordering import similarity_order
from lightning_nc.values.statistics import Frame


def test_the_order_brings_similar_classes_together():
    generator = torch.Generator().manual_seed(0)
    group = torch.arange(100) % 10  # neighbors by number are in different groups
    vectors = torch.randn(10, 64, generator=generator)[group]
    vectors = vectors + 0.5 * torch.randn(100, 64, generator=generator)
    order = similarity_order(Frame(vectors).cosines.numpy())
    assert sum(a != b for a, b in pairwise(group[order].tolist())) == 9


def test_equal_cosines_keep_the_order_of_the_classes():
    assert similarity_order(Frame(etf(40, 64)).cosines.numpy()) == list(range(40))
    assert similarity_order(np.full((5, 5), np.nan)) == list(range(5))
    assert similarity_order(np.ones((1, 1))) == [0]


def test_ends_of_groups_meet_where_they_are_similar():
    angles = np.deg2rad([10, 0, 35, 50, 110, 80])
    assert similarity_order(np.cos(angles[:, None] - angles)) == [1, 0, 2, 3, 5, 4]
