"""Geometries that theory expects class means and classifiers to form, for any counts."""

from lightning_nc.functional.frames.ce_program import ce_ufm as ce_ufm
from lightning_nc.functional.frames.cross_entropy import ce_balanced as ce_balanced
from lightning_nc.functional.frames.cross_entropy import collapse_penalty as collapse_penalty
from lightning_nc.functional.frames.cross_entropy import collapsing_classes as collapsing_classes
from lightning_nc.functional.frames.cross_entropy import (
    largest_collapsing_count as largest_collapsing_count,
)
from lightning_nc.functional.frames.cross_entropy import relu_ce as relu_ce
from lightning_nc.functional.frames.cross_entropy import relu_ce_shape as relu_ce_shape
from lightning_nc.functional.frames.cross_entropy import relu_ce_vanishing as relu_ce_vanishing
from lightning_nc.functional.frames.gains import class_states as class_states
from lightning_nc.functional.frames.gains import gains as gains
from lightning_nc.functional.frames.gains import smallest_surviving_share as smallest_surviving_share
from lightning_nc.functional.frames.gains import spinodal as spinodal
from lightning_nc.functional.frames.gains import survival_threshold as survival_threshold
from lightning_nc.functional.frames.simplex import etf as etf
from lightning_nc.functional.frames.simplex import orthogonal as orthogonal
from lightning_nc.functional.frames.simplex import seli as seli
from lightning_nc.functional.frames.squared_error import gof as gof
from lightning_nc.functional.frames.squared_error import gof_centered as gof_centered
from lightning_nc.functional.frames.squared_error import gof_centered_shape as gof_centered_shape
from lightning_nc.functional.frames.squared_error import gof_limit as gof_limit
from lightning_nc.functional.frames.squared_error import gof_shape as gof_shape
from lightning_nc.functional.frames.triple import Minimum as Minimum
from lightning_nc.functional.frames.triple import Triple as Triple
from lightning_nc.functional.frames.triple import centered as centered
from lightning_nc.functional.frames.triple import class_shares as class_shares
from lightning_nc.functional.frames.triple import frame_gaps as frame_gaps
from lightning_nc.functional.frames.triple import gram_triple as gram_triple
from lightning_nc.functional.frames.triple import rms as rms
