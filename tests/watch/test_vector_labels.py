"""Labels that are vectors: those of the loss, and of the batch where nothing else could be meant."""

import re
import warnings
from types import SimpleNamespace

import pytest
import torch
from support.labeled import Tags, Targets
from torch import nn
from torch.nn import functional as F

from lightning_nc import measure
from lightning_nc.tasks import Settings, make_task
from lightning_nc.values.stage import stage_of
from lightning_nc.watch.places import Places
from lightning_nc.watch.watch import Watch

ONLINE = stage_of("fit")
X = torch.randn(12, 8, generator=torch.Generator().manual_seed(0))


def trained(loss, task="regression", labels=None, batch=None, **places):
    """One training batch under observation, in which a network has this loss."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 2))
    y = Targets.data(12).tensors[1] if labels is None else labels
    told = []
    places = Places(**{"target_shift": 0, **places})
    watch = Watch(network, places, make_task(task, Settings()), lambda *_: None, told.append)
    watch.open(batch or (X, y), ONLINE, first=True)
    value = loss(SimpleNamespace(net=network, head=network[1], x=X, y=y))
    watch.note_loss(value)
    value.backward()
    watch.settle()
    watch.check(ONLINE)
    watch.close(ONLINE, needs_a_forward=True)
    return watch


TAGS = (torch.arange(24).reshape(12, 2) % 3 == 0).float()
TAKEN = {
    "squared": lambda n: F.mse_loss(n.net(n.x), n.y),
    "scaled and penalized": lambda n: 3 * F.mse_loss(n.net(n.x), n.y) + n.head.weight.square().sum(),
    "huber": lambda n: F.huber_loss(n.net(n.x), n.y),
    "smooth": lambda n: F.smooth_l1_loss(n.net(n.x), n.y, reduction="sum"),
    "flattened": lambda n: F.mse_loss(n.net(n.x).flatten(), n.y.flatten()),
    "the other way round": lambda n: F.mse_loss(n.y, n.net(n.x)),
    "a row without": lambda n: F.mse_loss(n.net(n.x), n.y),
    "by hand": lambda n: (n.net(n.x) - n.y / 2).square().mean(),  # does not tell
}


@pytest.mark.parametrize("name", TAKEN)
def test_the_labels_of_the_loss_are_taken(name):
    labels = Targets.data(12).tensors[1]
    if name == "a row without":
        labels[3] = torch.nan
    trained(TAKEN[name], labels=labels)


OTHERS = {
    "standardized": lambda n: F.mse_loss(n.net(n.x), (n.y - n.y.mean(0)) / n.y.std(0)),
    "reordered": lambda n: F.mse_loss(n.net(n.x), n.y.flip(0)),
    "another column": lambda n: F.huber_loss(n.net(n.x), n.y[:, [1, 0]]),
    "of some rows": lambda n: F.smooth_l1_loss(n.net(n.x)[:5], n.y[:5]),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_labels_than_those_of_the_loss_are_refused_unless_they_are_named(name):
    with pytest.raises(
        ValueError, match=r"labels in the batch to be those of the classifier's loss, but"
    ):
        trained(OTHERS[name])
    trained(OTHERS[name], target=1)


BETWEEN = {
    "a link": lambda n: F.mse_loss(F.softplus(n.net(n.x)), n.y),
    "a residual": lambda n: F.mse_loss(n.x[:, :2] + n.net(n.x), n.y),
    "a scale": lambda n: F.mse_loss(0.5 * n.net(n.x), n.y),
}


@pytest.mark.parametrize("name", BETWEEN)
def test_what_lies_between_the_head_and_its_targets_is_refused(name):
    with pytest.raises(ValueError, match=r"W h \+ b, with the labels, but something lies between"):
        trained(BETWEEN[name])


def test_scores_of_tags_may_be_scaled_and_their_labels_not():
    def loss(n, labels=TAGS):
        return F.binary_cross_entropy_with_logits(n.net(n.x) / 2, labels)

    trained(loss, "multilabel", TAGS)
    trained(lambda n: F.binary_cross_entropy(n.net(n.x).sigmoid(), TAGS), "multilabel", TAGS.long())
    with pytest.raises(ValueError, match=r"that has 24 labels \(0\.9, 0\.1, .* smooth, reorder"):
        trained(lambda n: loss(n, TAGS * 0.8 + 0.1), "multilabel", TAGS)


def test_rows_that_a_mask_leaves_out_may_be_left_out_by_the_loss_or_not():
    keep = torch.arange(12) % 3 > 0
    y = Targets.data(12).tensors[1]
    batch = {"x": X, "y": y, "keep": keep}
    for loss in (
        lambda n: F.mse_loss(n.net(n.x), n.y),
        lambda n: F.mse_loss(n.net(n.x)[keep], n.y[keep]),
    ):
        trained(loss, batch=batch, mask="keep")
    with pytest.raises(ValueError, match="those of the classifier's loss"):
        trained(lambda n: F.mse_loss(n.net(n.x)[~keep], n.y[~keep]), batch=batch, mask="keep")


@pytest.mark.parametrize(
    ("batch", "places"),
    [
        ((X, X[:, :1], X[:, :2]), "1 and 2"),
        ((X, torch.arange(12), X[:, :2]), "1 and 2"),
        ((X, X[:, :2], torch.ones(12)), "1 and 2"),
    ],
)
def test_several_tensors_that_could_be_targets_are_refused(batch, places):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 2))
    text = f"certain which of a batch are the labels, .* where {places} could be"
    with pytest.raises(ValueError, match=text):
        measure(network, [batch], task="regression", progress=False)
    index = next(i for i in (1, 2) if batch[i].ndim == 2 and batch[i].shape[1] == 2)

    def forward(model, given):
        return model(given[0])

    found = measure(network, [batch], task="regression", target=index, forward=forward, progress=False)
    assert found.values


def test_a_mask_of_tags_in_front_of_them_is_not_taken_for_them():
    data = Tags.data(40)
    x, tags = data.tensors
    observed = torch.ones_like(tags)
    with pytest.raises(ValueError, match=re.escape("where 1 and 2 could be")):
        measure(Tags(), [(x, observed, tags)], task="multilabel", progress=False)


NUMBERS = torch.arange(12) % 2
GARBAGE = {
    "multiclass": (NUMBERS.float(), 0.5), "multilabel": (TAGS, -3.0), "regression": (TAGS, torch.nan),
}  # fmt: skip


@pytest.mark.parametrize("task", GARBAGE)
def test_what_a_mask_leaves_out_may_hold_anything(task):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 2))
    labels, garbage = GARBAGE[task]
    keep = torch.arange(12) > 1
    given = torch.where(keep[:, None] if labels.ndim == 2 else keep, labels, garbage)

    def values(y):
        batch = {"x": X, "y": y, "keep": keep}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return measure(
                network, [batch], task=task, mask="keep", progress=False,
                forward=lambda model, batch: model(batch["x"]),
            ).values  # fmt: skip

    assert values(given) == values(labels)
