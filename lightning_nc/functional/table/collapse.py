"""What is logged of every classifier: nc0/* to nc4/*."""

from lightning_nc.functional import decision, duality, geometry, size, variability
from lightning_nc.functional.measure import Measure

_GALANTI = "Galanti et al. 2022"
_PAPYAN = "Papyan, Han & Donoho 2020"
_ZHU = "Zhu et al. 2021"
_WU = "Wu & Papyan 2024"

COLLAPSE = (
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
)  # fmt: skip
