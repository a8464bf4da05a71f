"""An update of several tags, and of targets that are numbers, against that of classes."""

import torch
from measure import Row, alternate, ratios

from lightning_nc.tasks import Settings, make_task

CASES = [(80, 512, 256), (80, 512, 64), (14, 64, 128)]


def run(quick, device):
    """Rows of (K, d, B)."""
    for tags, width, rows in CASES[:1] if quick else CASES:
        yield from _case(tags, width, rows, quick, device)


def _case(num_tags, width, rows, quick, device):
    generator = torch.Generator().manual_seed(0)

    def made(task, sizes, labels, predicted):
        accumulator = make_task(task, Settings(num_tags if task == "multiclass" else None)).accumulator(
            sizes, device
        )
        labels, predicted = labels.to(device), predicted.to(device)
        for _ in range(2 * 8192 // rows):  # as in the middle of an epoch
            accumulator.add(features, labels, predicted)

        def updates():
            for _ in range(block):
                accumulator.add(features, labels, predicted)

        return updates

    block = max(2, 4096 // rows)
    features = torch.randn(rows, width, generator=generator).to(device) + 1
    classes = torch.randint(num_tags, (rows,), generator=generator)
    scores = torch.randn(rows, num_tags, generator=generator)
    functions = {"classes": made("multiclass", (num_tags, width), classes, classes)}
    for most in (2, 5):
        tags = _tags(rows, num_tags, most, generator)
        functions[f"up to {most} tags"] = made("multilabel", (num_tags, width), tags, scores)
    targets = torch.randn(rows, 3, generator=generator)
    functions["3 targets"] = made("regression", (3, width), targets, classes)
    seconds = alternate(functions, 7 if quick else 15)
    case = f"K={num_tags}, d={width}, B={rows}"
    goals = {"up to 2 tags": 1.5} if width >= 512 else {}
    for name in list(functions)[1:]:
        values = ratios(seconds[name], seconds["classes"])
        yield Row.of("labels", case, f"update: {name} / classes", values, goals.get(name))


def _tags(rows, num_tags, most, generator):
    """Rows of one to so many tags, alike often."""
    order = torch.rand(rows, num_tags, generator=generator).argsort(1)
    number = torch.randint(1, most + 1, (rows, 1), generator=generator)
    return (order < number).float()
