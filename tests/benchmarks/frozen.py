"""The frozen pass against a bare evaluation loop over the same loader."""

import lightning as L
import torch
from measure import Row, alternate, ratios
from training import convolutions, quiet_trainer

from lightning_nc.run.frozen_loader import frozen_loader
from lightning_nc.run.frozen_pass import frozen_pass
from lightning_nc.tasks import Multiclass
from lightning_nc.values import stage_of
from lightning_nc.watch.places import Places
from lightning_nc.watch.watch import Watch

STAGE = stage_of("frozen")


class Passes(L.Callback):
    """At the end of the epoch, both passes in turn."""

    def __init__(self, repeats):
        self.repeats = repeats
        self.seconds = {}

    def on_train_epoch_end(self, trainer, pl_module):
        loader = frozen_loader(trainer.train_dataloader, trainer.num_training_batches, seed=0)
        watch = Watch(
            pl_module, Places("classifier"), Multiclass(), say=lambda kind, text: None,
            announce=lambda text: None,
        )  # fmt: skip

        def bare():
            pl_module.eval()
            with torch.inference_mode():
                for batch in loader:
                    pl_module(trainer.strategy.batch_to_device(batch)[0])
            pl_module.train()

        def measured():
            watch.reset(STAGE)
            frozen_pass(
                trainer, pl_module, loader,
                before=lambda batch: watch.open(batch, STAGE),
                after=lambda batch: watch.close(STAGE),
            )  # fmt: skip
            watch.end(STAGE, pl_module.device, distributed=False)

        self.seconds = alternate({"bare": bare, "measured": measured}, self.repeats)
        watch.detach()


def run(quick, device):
    """The convolution network."""
    if quick:
        return
    network, loader = convolutions()
    passes = Passes(repeats=9)
    trainer = quiet_trainer(device, max_epochs=1, logger=False, callbacks=[passes])
    trainer.fit(network, loader)
    values = ratios(passes.seconds["measured"], passes.seconds["bare"])
    yield Row.of("frozen pass", "convolutions", "with all keys / bare loop", values, 1.05)
    yield Row.of("frozen pass", "convolutions", "bare loop, s", passes.seconds["bare"])
