"""A rank that has no batch to validate on takes part, from the first epoch on."""

import pytest

pytestmark = pytest.mark.ddp


def train(rank, folder, every):
    import warnings

    import lightning as L
    import torch
    from lightning.pytorch import seed_everything
    from support.training import digits
    from torch import nn
    from torch.utils.data import DataLoader

    from lightning_nc import NeuralCollapseCallback

    class Uneven(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.allow_zero_length_dataloader_with_multiple_devices = True
            self.body, self.head = nn.Linear(64, 12), nn.Linear(12, 10)

        def training_step(self, batch, batch_idx):
            return nn.functional.cross_entropy(self.head(self.body(batch[0])), batch[1])

        def validation_step(self, batch, batch_idx):
            self.training_step(batch, batch_idx)

        def train_dataloader(self):
            return DataLoader(digits(96 * rank, 96), 48)

        def val_dataloader(self):
            return DataLoader(digits(192, 96 if rank == 0 else 0), 48)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    warnings.simplefilter("ignore")
    seed_everything(0, verbose=False)
    callback = NeuralCollapseCallback(layers=["body"], figures_every_n_epochs=0)
    run = L.Trainer(
        callbacks=[callback], max_epochs=2, check_val_every_n_epoch=every, accelerator="cpu",
        devices=2, strategy="ddp", logger=False,
        use_distributed_sampler=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder,
    )  # fmt: skip
    run.fit(Uneven())
    return {key: [entry.value for entry in callback.history[key]] for key in callback.history}


@pytest.mark.parametrize("every", [1, 2])
def test_a_rank_without_validation_takes_part_from_the_first_epoch(every, two_processes, tmp_path):
    first, second = two_processes.run(train, str(tmp_path), every)
    assert first == second
    assert first["nc0/num_samples/val"] == [96] * (2 // every)
    assert first["nc0/num_samples/train_online"] == [192, 192]
    assert len(first["layer/within_share/val/body"]) == 2 // every
