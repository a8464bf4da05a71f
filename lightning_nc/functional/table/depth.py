"""What is logged of layers, of linear heads and of language models: layer/*, linear/*, lm/*."""

from lightning_nc.functional import deep_linear, layer_weights, layers, linguistic
from lightning_nc.functional.measure import Measure

_GALANTI = "Galanti et al. 2022"
_WU = "Wu & Papyan 2024"
_RANGAMANI = "Rangamani et al. 2023"
_SUKENIK = "Sukenik et al. 2023"
_DANG = "Dang et al. 2023"

DEPTH = (
    Measure(
        "layer/within_share", layers.within_share, ("statistics",),
        "tr Sw / (tr Sw + tr Sb)", "0", _RANGAMANI, default=False, joins="layers",
    ),
    Measure(
        "layer/within_share_classwise", layers.within_share_classwise, ("statistics",),
        "the within-share averaged over classes, around the mean of all samples", "0", _RANGAMANI,
        default=False, joins="layers",
    ),
    Measure(
        "layer/separation", layers.separation, ("statistics",),
        "separation fuzziness tr(Sw Sb+)", "0", "He & Su 2023", default=False,
    ),
    Measure(
        "layer/effective_rank", layers.effective_rank, ("statistics",),
        "exp of the entropy of the features' singular values", "C - 1", "Roy & Vetterli 2007",
        default=False,
    ),
    Measure(
        "layer/stable_rank", layer_weights.stable_rank, ("weight",),
        "of the layer's weight: squared Frobenius over squared spectral norm", "", _RANGAMANI,
        default=False,
    ),
    Measure(
        "layer/subspace_alignment", layer_weights.subspace_alignment_of, ("statistics", "weight"),
        "of the weight's top right singular vectors with the class means at its input", "1",
        _RANGAMANI, default=False,
    ),
    Measure(
        "layer/subspace_chance", layer_weights.subspace_chance_of, ("statistics", "weight"),
        "subspace_alignment of random subspaces of these dimensions", "", "", default=False,
    ),
    Measure(
        "layer/subspace_alignment_centered", layer_weights.subspace_alignment_centered_of,
        ("statistics", "weight"), "the alignment with centered means", "1", "", default=False,
    ),
    Measure(
        "layer/subspace_chance_centered", layer_weights.subspace_chance_centered_of,
        ("statistics", "weight"), "its value for random subspaces of these dimensions", "", "",
        default=False,
    ),
    Measure(
        "layer/means_condition", layers.means_condition, ("statistics",),
        "DNC2: largest over smallest singular value of the class means", "1", _SUKENIK, default=False,
    ),
    Measure(
        "layer/weights_means_angle", layer_weights.weights_means_angle, ("statistics", "weight"),
        "DNC3: angle of the weight's rows to their nearest class means", "0", _SUKENIK, default=False,
    ),
    Measure(
        "linear/within_between_ratio", deep_linear.within_between_ratio, ("statistics", "product"),
        "tr Sw / tr Sb of the features that enter a linear head, or a layer of it", "0", _DANG,
        default=False,
    ),
    Measure(
        "linear/weights_frame_distance", deep_linear.weights_frame_distance, ("product",),
        "distance of P P' to the frame's Gram matrix, P = W_M ... W_j", "0", _DANG, default=False,
    ),
    Measure(
        "linear/means_frame_distance", deep_linear.means_frame_distance, ("statistics", "product"),
        "distance of the class means' Gram matrix to the frame's", "0", _DANG, default=False,
    ),
    Measure(
        "linear/duality_frame_distance", deep_linear.duality_frame_distance,
        ("statistics", "product"), "distance of P M' to the frame's Gram matrix", "0", _DANG,
        default=False,
    ),
    Measure(
        "lm/log_distance_std", linguistic.log_distance_std, ("means_frame",),
        "std of log inverse distances of the normalized class means", "0", _WU, default=False,
        min_classes=3,
    ),
    Measure(
        "lm/log_distance_mean", linguistic.log_distance_mean, ("means_frame",),
        "mean of log inverse distances of the normalized class means", "", _WU, default=False,
        min_classes=3,
    ),
    Measure(
        "lm/duality_cosine_mean", linguistic.duality_cosine_mean, ("statistics", "classifier"),
        "mean of the cosines between w_c and m_c", "1", _WU, default=False,
    ),
    Measure(
        "lm/duality_cosine_std", linguistic.duality_cosine_std, ("statistics", "classifier"),
        "std of the cosines between w_c and m_c", "0", _WU, default=False,
    ),
    Measure(
        "lm/cdnv_median", linguistic.cdnv_median, ("statistics",),
        "median pairwise class-distance normalized variance", "0", _GALANTI, default=False,
    ),
    Measure(
        "lm/cdnv_fourth_power", linguistic.cdnv_fourth_power, ("statistics",),
        "mean pairwise variance over the fourth power of the distance; not scale-free", "0", _WU,
        default=False,
    ),
)  # fmt: skip
