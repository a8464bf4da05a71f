"""A stage of the recorder, of which each rank sees its own batches."""

import torch
from support.ranks import CLASSIFIER, NUM_CLASSES, WIDTH

from lightning_nc.functional import values_of
from lightning_nc.tasks import Multiclass, Settings
from lightning_nc.values import Key
from lightning_nc.watch.batch import Forward
from lightning_nc.watch.recorder import Recorder

WIDTHS = {f"layer{i}": 3 + i for i in range(9)}


ONE, TEN = [], list(WIDTHS)


def how_many(names):
    return f"{1 + len(names)} modules" if isinstance(names, list) else None


def features_of_layers(rows, names):
    """Another linear map of the features for each layer."""
    generator = torch.Generator().manual_seed(6)
    maps = {name: torch.randn(WIDTH, width, generator=generator) for name, width in WIDTHS.items()}
    return {name: rows.features @ maps[name] for name in names}


def recorded(batches, names, silent=(), **settings):
    """A recorder that has seen the batches; the hooks of ``silent`` layers have not fired."""
    recorder = Recorder(Multiclass(Settings(**settings)), names)
    for batch in batches:
        if not recorder.classifier.is_kept:
            recorder.classifier.keep(CLASSIFIER.weight, CLASSIFIER.bias)
        layers = features_of_layers(batch, [name for name in names if name not in silent])
        forward = Forward("fc", batch.features, batch.logits.argmax(1), layers)
        recorder.add(forward, batch.target, NUM_CLASSES)
    return recorder


def values_by_key(recorded):
    """All values of a stage, by key and layer."""
    return {
        str(Key(key, layer=name)): value
        for name, outcomes in recorded.outcomes.items()
        for key, value in values_of(outcomes).items()
    }
