"""An update of tags and of targets that are numbers, against that of classes; and all their keys."""

import torch
from measure import Row, alternate, ratios

from lightning_nc import LinearClassifier
from lightning_nc.tasks import Settings, make_task

TAGS, TARGETS, ROWS = 80, 3, 1024
WIDTHS = (512, 64, 2048)
GOALS = {("up to 2 tags", 512): 1.5}


def run(quick, device):
    """Rows by width."""
    for width in WIDTHS[:1] if quick else WIDTHS:
        yield from _case(width, quick, device)


def _case(width, quick, device):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(ROWS, width, generator=generator).to(device) + 1
    classes = torch.randint(TAGS, (ROWS,), generator=generator)
    scores = torch.randn(ROWS, TAGS, generator=generator)
    targets = torch.randn(ROWS, TARGETS, generator=generator)
    accumulators = {"classes": _filled("multiclass", TAGS, features, classes, classes)}
    for most in (2, 3, 5):
        tags = _tags(most, generator)
        accumulators[f"up to {most} tags"] = _filled("multilabel", TAGS, features, tags, scores)
    accumulators["3 targets"] = _filled("regression", TARGETS, features, targets, classes)
    updates = {name: update for name, (update, _) in accumulators.items()}
    seconds = alternate(updates, 5 if quick else 9)
    for name in list(updates)[1:]:
        values, goal = ratios(seconds[name], seconds["classes"]), GOALS.get((name, width))
        yield Row.of(
            "labels", f"K={TAGS}, d={width}, B={ROWS}", f"update: {name} / classes", values, goal
        )
    if quick:
        return
    ends = {"3 targets": TARGETS, "up to 2 tags": TAGS}
    keys = {name: _keys_of(accumulators[name][1], rows, width, device) for name, rows in ends.items()}
    for name, values in alternate(keys, 3).items():
        yield Row.of("labels", f"d={width}", f"all keys: {name}, s", values)


def _filled(task, rows, features, labels, predicted):
    """What adds eight batches to an accumulator as it is in the middle of an epoch, and its value."""
    made = make_task(task, Settings(rows if task == "multiclass" else None))
    accumulator = made.accumulator((rows, features.shape[1]), features.device)
    labels, predicted = labels.to(features.device), predicted.to(features.device)

    def update():
        for _ in range(8):
            accumulator.add(features, labels, predicted)

    update()
    update()
    return update, (made, accumulator)


def _keys_of(filled, rows, width, device):
    made, accumulator = filled
    head = LinearClassifier(torch.randn(rows, width, device=device))

    def end():
        made.evaluate(made.complete(accumulator.value(head)))

    return end


def _tags(most, generator):
    """Rows of one to so many tags, alike often."""
    order = torch.rand(ROWS, TAGS, generator=generator).argsort(1)
    number = torch.randint(1, most + 1, (ROWS, 1), generator=generator)
    return (order < number).float()
