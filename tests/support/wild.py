"""Random small networks, each of which notes by itself what has met its classifier.

``wild(kind, seed)`` is one of them. The truth is written from what the word means: the classifier is
the linear map whose logits the network's own decision is taken from, its input the feature.
"""

import torch
from support.wild_heads import (
    adapter,
    chunked,
    convolution,
    cosine,
    frozen_head,
    function,
    plain,
    quantized,
    tied,
)
from support.wild_labels import causal, dicts, named, sequence_first, token_labels, tuples
from support.wild_parts import Draw, Wild
from support.wild_surroundings import (
    auxiliary,
    early_exit,
    frozen_backbone,
    swapped,
    teacher,
    two_steps,
    unused,
)
from torch.utils.data import DataLoader

KINDS = {
    kind.__name__: kind
    for kind in (
        plain, function, tied, chunked, convolution, cosine, adapter, frozen_head, quantized,
        teacher, early_exit, auxiliary, frozen_backbone, swapped, unused, two_steps,
        token_labels, sequence_first, tuples, named, dicts, causal,
    )
}  # fmt: skip


def wild(kind, seed):
    """A network of a kind, with what it trains on; the same for the same seed."""
    draw = Draw(kind, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(draw.rng.integers(2**31)))
        draw.pick("optimizer", "sgd", "adam")
        module = Wild(draw)
        KINDS[kind](module)
        draw.pick("epochs, batches", (1, 2), (1, 3), (2, 1))
        draw.flip("sanity")
        batches = [module.pack(*module.batch()) for _ in range(5)]
    module.loaders = [DataLoader(rows, batch_size=None) for rows in (batches[:3], batches[3:])]
    drawn = {name: value for name, value in draw.drawn.items() if value is not False}
    module.about = ", ".join(f"{name}={value}" for name, value in drawn.items())
    return module
