"""Modules that induce or control collapse, as plain as those of torch."""

from lightning_nc.nn.pick_all_labels import NormalizedPickAllLabelLoss as NormalizedPickAllLabelLoss
from lightning_nc.nn.pick_all_labels import PickAllLabelLoss as PickAllLabelLoss
from lightning_nc.nn.pick_all_labels import pick_all_label_loss as pick_all_label_loss
