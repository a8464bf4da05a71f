"""Pure functions, one per formula: from values to a scalar tensor."""

from lightning_nc.functional import frames as frames
from lightning_nc.functional import regression as regression
from lightning_nc.functional import tags as tags
from lightning_nc.functional.central_path import LeastSquares as LeastSquares
from lightning_nc.functional.central_path import least_squares as least_squares
from lightning_nc.functional.central_path import loss_least_squares as loss_least_squares
from lightning_nc.functional.central_path import loss_nc1 as loss_nc1
from lightning_nc.functional.central_path import loss_nc23 as loss_nc23
from lightning_nc.functional.central_path import loss_perp as loss_perp
from lightning_nc.functional.counts import COUNTS as COUNTS
from lightning_nc.functional.counts import Count as Count
from lightning_nc.functional.decision import accuracy as accuracy
from lightning_nc.functional.decision import count_decisions as count_decisions
from lightning_nc.functional.decision import ncc_accuracy as ncc_accuracy
from lightning_nc.functional.decision import ncc_mismatch as ncc_mismatch
from lightning_nc.functional.deep_linear import partial_products as partial_products
from lightning_nc.functional.duality import bias_collapse as bias_collapse
from lightning_nc.functional.duality import duality_etf_distance as duality_etf_distance
from lightning_nc.functional.duality import self_duality as self_duality
from lightning_nc.functional.duality import uniform_duality as uniform_duality
from lightning_nc.functional.evaluate import evaluate as evaluate
from lightning_nc.functional.evaluate import values_of as values_of
from lightning_nc.functional.geometry import equiangularity as equiangularity
from lightning_nc.functional.geometry import equinorm as equinorm
from lightning_nc.functional.geometry import etf_distance as etf_distance
from lightning_nc.functional.geometry import log_distance_variation as log_distance_variation
from lightning_nc.functional.geometry import max_angle as max_angle
from lightning_nc.functional.imbalance.minority import minority_cosine as minority_cosine
from lightning_nc.functional.imbalance.minority import norm_ratio as norm_ratio
from lightning_nc.functional.imbalance.nearest import Nearest as Nearest
from lightning_nc.functional.imbalance.nearest import Ranking as Ranking
from lightning_nc.functional.imbalance.nearest import nearest_geometry as nearest_geometry
from lightning_nc.functional.imbalance.profiles import (
    effective_feature_penalty as effective_feature_penalty,
)
from lightning_nc.functional.imbalance.profiles import r_profile as r_profile
from lightning_nc.functional.imbalance.profiles import tau_profile as tau_profile
from lightning_nc.functional.layer_weights import stable_rank as stable_rank
from lightning_nc.functional.layer_weights import subspace_alignment as subspace_alignment
from lightning_nc.functional.layer_weights import subspace_chance as subspace_chance
from lightning_nc.functional.layer_weights import weights_means_angle as weights_means_angle
from lightning_nc.functional.layers import collapse_begins as collapse_begins
from lightning_nc.functional.layers import effective_rank as effective_rank
from lightning_nc.functional.layers import means_condition as means_condition
from lightning_nc.functional.layers import separation as separation
from lightning_nc.functional.layers import separation_law as separation_law
from lightning_nc.functional.layers import within_share as within_share
from lightning_nc.functional.layers import within_share_classwise as within_share_classwise
from lightning_nc.functional.nearest_center import nearest_class_center as nearest_class_center
from lightning_nc.functional.select import select as select
from lightning_nc.functional.signal_to_noise import snr_flow as snr_flow
from lightning_nc.functional.signal_to_noise import snr_values as snr_values
from lightning_nc.functional.spectrum import between_class_directions as between_class_directions
from lightning_nc.functional.spectrum import between_class_whitening as between_class_whitening
from lightning_nc.functional.table import MEASURES as MEASURES
from lightning_nc.functional.table import Measure as Measure
from lightning_nc.functional.variability import cdnv as cdnv
from lightning_nc.functional.variability import pairwise_cdnv as pairwise_cdnv
from lightning_nc.functional.variability import rank as rank
from lightning_nc.functional.variability import (
    variability_collapse_index as variability_collapse_index,
)
from lightning_nc.functional.variability import within_between_pinv as within_between_pinv
from lightning_nc.functional.variability import within_between_ratio as within_between_ratio
from lightning_nc.functional.variability import (
    within_between_ratio_debiased as within_between_ratio_debiased,
)
from lightning_nc.values.evidence import ClassEvidence as ClassEvidence
from lightning_nc.values.evidence import Evidence as Evidence
from lightning_nc.values.joint import JointMoments as JointMoments
from lightning_nc.values.joint import LinearReadout as LinearReadout
from lightning_nc.values.linear_head import LinearHead as LinearHead
from lightning_nc.values.penalties import Penalties as Penalties
from lightning_nc.values.penalties import objective_penalty as objective_penalty
from lightning_nc.values.penalties import penalties_of_weight_decay as penalties_of_weight_decay
from lightning_nc.values.regression import RegressionEvidence as RegressionEvidence
from lightning_nc.values.tag_evidence import TagEvidence as TagEvidence
from lightning_nc.values.tags import TagMoments as TagMoments
from lightning_nc.values.tags import TagStatistics as TagStatistics
