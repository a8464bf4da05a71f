"""An update, with the sample for NC4 and the decisions from logits, against the bare product."""

import torch
from measure import Row, alternate, ratios

from lightning_nc import LinearClassifier, NeuralCollapse

CASES = [(10, 512, 256), (100, 512, 256), (1000, 2048, 256), (50_000, 1024, 2048)]


def target_of(width):
    """The ratio that we aim at."""
    return 1.15 if width >= 2048 else 1.4


def run(quick, device):
    """Rows of (C, d, B)."""
    for classes, width, rows in CASES[:3:2] if quick else CASES:
        yield from _case(classes, width, rows, quick, device)


def _case(classes, width, rows, quick, device):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(rows, width, generator=generator).to(device) + 1
    target = torch.randint(classes, (rows,), generator=generator).to(device)
    logits = torch.randn(rows, classes, generator=generator).to(device)
    classifier = LinearClassifier(torch.randn(classes, width, device=device))
    metric = NeuralCollapse(classes, width).to(device)
    product = torch.zeros(width, width, device=device)
    decided = logits.argmax(1)
    # whole backlogs, and the sample full: as in the middle of an epoch
    block = max(2, 4096 // rows)
    for _ in range((2 if quick else 4) * 8192 // rows):
        metric.update(features, target, predicted=decided)

    def updates():
        for _ in range(block):
            metric.update(features, target, logits, classifier)

    def updates_with_decisions():
        for _ in range(block):
            metric.update(features, target, predicted=decided)

    def products():
        for _ in range(block):
            product.addmm_(features.T, features)

    functions = {"product": products, "update": updates}
    if classes > 10_000:
        functions["update, decisions given"] = updates_with_decisions
    seconds = alternate(functions, 7 if quick else 15)
    case = f"C={classes}, d={width}, B={rows}"
    for name in list(functions)[1:]:
        values = ratios(seconds[name], seconds["product"])
        yield Row.of("update", case, f"{name} / product", values, target_of(width))
    if classes > 10_000:
        share = _share_of_a_step(features, target, logits)
        yield Row.of("update", case, "search for the largest logit / step of the last layer", share)
    yield Row.of("update", case, "product, ms", [1e3 * s / block for s in seconds["product"]])


def _share_of_a_step(features, target, logits):
    """What the search takes, of forward and backward of the layer that the logits come from."""
    head = torch.nn.Linear(features.shape[1], logits.shape[1], device=features.device)
    inputs = features.clone().requires_grad_()

    def step():
        torch.nn.functional.cross_entropy(head(inputs), target).backward()

    seconds = alternate({"search": lambda: logits.argmax(1), "step": step}, 2)
    return ratios(seconds["search"], seconds["step"])
