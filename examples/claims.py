"""What examples that try the claims of papers share: their table, rows and a quiet Trainer."""

import itertools
import logging
import textwrap
import warnings
from collections.abc import Iterable
from typing import Any, NamedTuple

import lightning as L
import torch
from torch.utils.data import DataLoader, TensorDataset

WIDTHS = (46, 26, 34, 13)


class Claim(NamedTuple):
    """What a paper says, and what came out here."""

    text: str
    source: str
    measured: str
    shows: bool


def print_claims(claims: Iterable[Claim]) -> None:
    """A table of claims; one that this small a run does not show says so."""
    rows = [(c.text, c.source, c.measured, "shows" if c.shows else "does not show") for c in claims]
    for row in [("claim", "source", "measured here", "shows or not"), *rows]:
        cells = [textwrap.wrap(cell, width) for cell, width in zip(row, WIDTHS, strict=True)]
        print()
        for line in itertools.zip_longest(*cells, fillvalue=""):
            padded = (f"{part:<{width}}" for part, width in zip(line, WIDTHS, strict=True))
            print("  ".join(padded).rstrip())


def print_reduced(how: str) -> None:
    """What --quick leaves out, so that its verdicts are not taken for those of a whole run."""
    told = f"reduced run: {how}. It is too short for some verdicts: take those of a whole run."
    print("\n" + textwrap.fill(told, 110))


def print_remarks(remarks: Iterable[str]) -> None:
    if told := [*remarks]:
        print("\n" + "\n".join(told))


class Rows(TensorDataset):
    """Rows that are fetched a batch at once, which saves a quarter of the time."""

    def __getitems__(self, indices: list[int]) -> list[torch.Tensor]:
        return [each[indices] for each in self.tensors]

    def loader(self, batch: int, shuffle: bool = False) -> DataLoader:
        return DataLoader(self, batch, shuffle, collate_fn=list)


Data = tuple[Rows, Rows]  # for training, and new ones


def trainer(*callbacks: L.Callback, **settings: Any) -> L.Trainer:
    """A Trainer on the CPU that writes no files and shows no bars."""
    # data this small needs no worker processes
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*LeafSpec.*")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    return L.Trainer(
        callbacks=[*callbacks], accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_model_summary=False, enable_progress_bar=False, **settings,
    )  # fmt: skip
