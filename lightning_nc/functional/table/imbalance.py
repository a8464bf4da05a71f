"""What is logged of unequal classes, and of the squared error: imbalance/*, mse/*."""

from lightning_nc.functional import central_path, probe, signal_to_noise
from lightning_nc.functional.imbalance import minority, race
from lightning_nc.functional.measure import Measure

_PAPYAN = "Papyan, Han & Donoho 2020"
_DANG = "Dang et al. 2023"
_FANG = "Fang et al. 2021"
_HAN = "Han, Papyan & Donoho 2022"
_LIU = "Liu et al. 2019"

IMBALANCE = (
    Measure(
        "imbalance/etf", race.etf, ("linear_head",),
        "distance from the simplex ETF: weights, means (centered by the rows' mean), logits", "0",
        _PAPYAN, default=False, joins="unequal_counts",
    ),
    Measure(
        "imbalance/of", race.of, ("linear_head",),
        "distance from the orthogonal frame: weights, means (not centered), logits", "0",
        "Tirer & Bruna 2022", default=False, joins="unequal_counts",
    ),
    Measure(
        "imbalance/gof", race.gof, ("linear_head",),
        "distance from the nearest general orthogonal frame (not centered)", "0", _DANG,
        default=False, joins="unequal_counts",
    ),
    Measure(
        "imbalance/gof_centered", race.gof_centered, ("linear_head",),
        "distance from the nearest one of a free bias (centered by the rows' mean)", "0",
        "arXiv 2411.17278", default=False, joins="unequal_counts",
    ),
    Measure(
        "imbalance/seli", race.seli, ("linear_head",),
        "distance from SELI (centered by the rows' mean)", "0", "Thrampoulidis et al. 2022",
        default=False, joins="unequal_counts",
    ),
    Measure(
        "imbalance/relu_ce", race.relu_ce, ("linear_head",),
        "distance from the nearest geometry of cross-entropy and ReLU (not centered)", "0",
        "Dang et al. 2024", default=False, joins="unequal_counts",
    ),
    Measure(
        "imbalance/ce_ufm", race.ce_ufm, ("linear_head",),
        "distance from the nearest geometry of cross-entropy, features of both signs (not centered)",
        "0", "Hong & Ling 2023", default=False,
    ),
    Measure(
        "imbalance/margin", race.margin, ("linear_head",),
        "second distance less the least: not centered, or with a bias centered by the rows' mean", "",
        "", default=False, joins="unequal_counts",
    ),
    Measure(
        "imbalance/minority_cosine", minority.minority_cosine, ("linear_head",),
        "mean cosine between the classifier's rows of the smallest classes; 1: they have collapsed", "",
        _FANG, default=False, joins="unequal_counts",
    ),
    Measure(
        "imbalance/norm_ratio", minority.norm_ratio, ("linear_head",),
        "norm of the classifier's rows, largest over smallest classes", "", _FANG, default=False,
        joins="unequal_counts",
    ),
    Measure(
        "imbalance/recall_many", minority.recall_many, ("recalls",),
        "recall of the nearest center of other rows, many-shot classes (more than 100, see shots)", "",
        _LIU, default=False, joins="unequal_counts",
    ),
    Measure(
        "imbalance/recall_medium", minority.recall_medium, ("recalls",),
        "recall of the nearest center of other rows, medium-shot classes (20 to 100)", "", _LIU,
        default=False, joins="unequal_counts",
    ),
    Measure(
        "imbalance/recall_few", minority.recall_few, ("recalls",),
        "recall of the nearest center of other rows, few-shot classes (fewer than 20)", "", _LIU,
        default=False, joins="unequal_counts",
    ),
    Measure(
        "mse/loss_nc1", central_path.loss_nc1, ("statistics", "classifier", "penalties"),
        "part of the least-squares classifier's loss that is spread within classes, and its penalties",
        "", _HAN, default=False,
    ),
    Measure(
        "mse/loss_nc23", central_path.loss_nc23, ("statistics", "classifier", "penalties"),
        "part of it that is left at the class means", "", _HAN, default=False,
    ),
    Measure(
        "mse/loss_perp", central_path.loss_perp, ("statistics", "classifier", "penalties"),
        "loss of the classifier beyond the least-squares one; needs penalty", "0", _HAN, default=False,
    ),
    Measure(
        "mse/loss_least_squares", central_path.loss_least_squares,
        ("statistics", "classifier", "penalties"),
        "loss of the least-squares classifier on these features: loss_nc1 + loss_nc23", "", _HAN,
        default=False,
    ),
    Measure(
        "mse/snr_min", signal_to_noise.snr_min, ("statistics",),
        "least singular value of Sw^(-1/2) times the class means (centered by the rows' mean)", "",
        _HAN, default=False,
    ),
    Measure(
        "mse/snr_max", signal_to_noise.snr_max, ("statistics",), "the largest one", "", _HAN,
        default=False,
    ),
    Measure(
        "mse/probe_accuracy", probe.probe_accuracy, ("probe_decisions",),
        "accuracy of the least-squares classifier on the rows that it was fitted to", "1", _HAN,
        default=False,
    ),
    Measure(
        "mse/probe_agreement", probe.probe_agreement, ("probe_decisions",),
        "share of rows on which it decides like the network", "1", "", default=False,
    ),
)  # fmt: skip
