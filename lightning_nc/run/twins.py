"""One base for both namespaces: `lightning` and `pytorch_lightning` refuse each other's Callback."""

from typing import TYPE_CHECKING

from lightning.pytorch import Callback as _LightningCallback
from lightning_utilities.core import rank_zero

if TYPE_CHECKING:
    Callback = _LightningCallback
else:
    _log = rank_zero.log
    try:
        from pytorch_lightning import Callback as _TwinCallback
    except ImportError:
        Callback = _LightningCallback
    else:
        Callback = type("Callback", (_LightningCallback, _TwinCallback), {})
    # importing the one turns the other's messages over to its own logger
    rank_zero.log = _log
