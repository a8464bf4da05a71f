"""The table of logged keys: what is measured, by which function, from what, and what to expect."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

from torch import Tensor

from lightning_nc.functional import (
    decision,
    deep_linear,
    duality,
    geometry,
    layer_weights,
    layers,
    linguistic,
    size,
    variability,
)

OCCASIONS = ("layers", "min_count")
"""Where keys join by themselves: further layers are measured, classes with few rows are left out."""


@dataclass(frozen=True)
class Measure:
    """One line of the table.

    Attributes:
        key: The logged key, less the stage.
        function: The formula.
        needs: What it is given, by the names in ``Evidence.parts``; the key is logged only where all
            of it is there.
        summary: What it is, in a few words.
        at_collapse: The value at collapse as a text: a number, "C - 1", or "" where there is none.
        source: Who defined it.
        default: Whether it is logged without being asked for.
        joins: The one of :data:`OCCASIONS` in which it is, if it is not always.
        min_classes: With fewer classes seen, the key is left out.
        headline: Its name where a single measure stands for the property: "NC1" to "NC4".
        of_layers: Whether it says something of each layer, and not of the network as a whole.
        is_custom: Whether it is a function of the user's own, which may fail in any way.
    """

    key: str
    function: Callable[..., Tensor]
    needs: tuple[str, ...]
    summary: str
    at_collapse: str
    source: str
    default: bool = True
    joins: str = ""
    min_classes: int = 2
    headline: str = ""
    of_layers: bool = True
    is_custom: bool = False

    def is_default(self, occasions: Collection[str] = ()) -> bool:
        """Whether it is logged without being asked for, where something is the case.

        Args:
            occasions: Those of :data:`OCCASIONS` that are given.

        Returns:
            Whether it is.

        Example:
            >>> share = MEASURES["layer/within_share"]
            >>> share.is_default(), share.is_default(["layers"])
            (False, True)
        """
        return self.default or self.joins in occasions

    def value_at_collapse(self, num_classes: int) -> float | None:
        """The value at collapse as a number, or None where there is none.

        Example:
            >>> MEASURES["nc1/rank"].value_at_collapse(num_classes=10)
            9.0
        """
        if self.at_collapse == "C - 1":
            return float(num_classes - 1)
        return float(self.at_collapse) if self.at_collapse.replace(".", "").isdigit() else None


_GALANTI = "Galanti et al. 2022"
_PAPYAN = "Papyan, Han & Donoho 2020"
_ZHU = "Zhu et al. 2021"
_WU = "Wu & Papyan 2024"
_RANGAMANI = "Rangamani et al. 2023"
_SUKENIK = "Sukenik et al. 2023"
_DANG = "Dang et al. 2023"

_TABLE = (
    Measure(
        "nc0/accuracy", decision.accuracy, ("network_decisions",),
        "accuracy of the network on the same rows", "", _PAPYAN, min_classes=0,
        of_layers=False,
    ),
    Measure(
        "nc0/num_samples", size.num_samples, ("statistics",),
        "samples that the figures rest on", "", "", min_classes=0, of_layers=False,
    ),
    Measure(
        "nc0/classes_seen", size.classes_seen, ("all_counts",),
        "classes with at least one sample", "", "", min_classes=0, of_layers=False,
    ),
    Measure(
        "nc0/classes_kept", size.classes_kept, ("statistics",),
        "classes with at least min_count samples", "", "", default=False, joins="min_count",
        min_classes=0, of_layers=False,
    ),
    Measure(
        "nc1/within_between_pinv", variability.within_between_pinv, ("statistics",),
        "tr(Sw Sb+)/C", "0", _PAPYAN,
        headline="NC1",
    ),
    Measure(
        "nc1/within_between_ratio", variability.within_between_ratio, ("statistics",),
        "tr Sw / tr Sb", "0", "Tirer et al. 2023",
    ),
    Measure(
        "nc1/within_between_ratio_debiased", variability.within_between_ratio_debiased,
        ("statistics",), "the same without the sampling noise of the class means", "0", "",
    ),
    Measure(
        "nc1/cdnv", variability.cdnv, ("statistics",),
        "mean pairwise class-distance normalized variance", "0", _GALANTI,
    ),
    Measure(
        "nc1/rank", variability.rank, ("statistics",),
        "numerical rank of the centered class means", "C - 1", "",
    ),
    Measure(
        "nc1/variability_collapse_index", variability.variability_collapse_index, ("statistics",),
        "1 - tr(St+ Sb)/min(d, C - 1), weighted by counts", "0", "Xu & Liu 2023", default=False,
    ),
    Measure(
        "nc2/means_equinorm", geometry.equinorm, ("means_frame",),
        "std/mean of the norms of the class means", "0", _PAPYAN, min_classes=3,
    ),
    Measure(
        "nc2/weights_equinorm", geometry.equinorm, ("weights_frame",),
        "std/mean of the norms of the classifier's rows", "0", _PAPYAN,
    ),
    Measure(
        "nc2/means_equiangularity", geometry.equiangularity, ("means_frame",),
        "std of the cosines between class means", "0", _PAPYAN, min_classes=3,
    ),
    Measure(
        "nc2/weights_equiangularity", geometry.equiangularity, ("weights_frame",),
        "std of the cosines between the classifier's rows", "0", _PAPYAN, min_classes=3,
    ),
    Measure(
        "nc2/means_max_angle", geometry.max_angle, ("means_frame",),
        "mean |cos + 1/(C - 1)| of the class means", "0", _PAPYAN, min_classes=3,
    ),
    Measure(
        "nc2/weights_max_angle", geometry.max_angle, ("weights_frame",),
        "mean |cos + 1/(C - 1)| of the classifier's rows", "0", _PAPYAN,
    ),
    Measure(
        "nc2/means_etf_distance", geometry.etf_distance, ("means_frame",),
        "distance of the class means' Gram matrix to the ETF's", "0", _ZHU, min_classes=3,
        headline="NC2",
    ),
    Measure(
        "nc2/weights_etf_distance", geometry.etf_distance, ("weights_frame",),
        "distance of the classifier's Gram matrix to the ETF's", "0", _ZHU,
    ),
    Measure(
        "nc2/means_log_distance_variation", geometry.log_distance_variation, ("means_frame",),
        "GNC2: std/|mean| of log inverse distances of the normalized class means", "0", _WU,
        min_classes=3,
    ),
    Measure(
        "nc3/self_duality", duality.self_duality, ("statistics", "classifier"),
        "squared distance of normalized W and M", "0", _PAPYAN,
        headline="NC3",
    ),
    Measure(
        "nc3/duality_etf_distance", duality.duality_etf_distance, ("statistics", "classifier"),
        "distance of normalized W M to the ETF's Gram matrix", "0", _ZHU,
    ),
    Measure(
        "nc3/uniform_duality", duality.uniform_duality, ("statistics", "classifier"),
        "UNC3: std of the cosines between w_c and m_c", "0", _WU,
    ),
    Measure(
        "nc3/bias_collapse", duality.bias_collapse, ("statistics", "classifier"),
        "norm of the centered W muG + b", "0", _ZHU,
    ),
    Measure(
        "nc4/ncc_mismatch", decision.ncc_mismatch, ("network_decisions",),
        "share of samples where network and nearest class center disagree", "0", _PAPYAN,
        headline="NC4",
    ),
    Measure(
        "nc4/ncc_accuracy", decision.ncc_accuracy, ("decisions",),
        "accuracy of the nearest class center", "", _PAPYAN,
    ),
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

MEASURES: dict[str, Measure] = {measure.key: measure for measure in _TABLE}
"""The measures by their logged key, in the order of the dashboard."""
