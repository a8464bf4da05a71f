"""How each value of a paper or another tool follows from ours: the lines of docs/conversions.md."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from support import conventions as by
from support.conventions import Rows
from support.packages import KOWALSKI, RHUBARBWU, TOOLBOX

BALANCED, ZERO_SUM, NO_BIAS = "balanced", "where W's rows sum to 0", "without a bias"


@dataclass(frozen=True)
class How:
    """What to do with our value, in words and as a function of it and the rows."""

    words: str
    convert: Callable[[float, Rows], float] = lambda value, rows: value


@dataclass(frozen=True)
class Conversion:
    """One line.

    Attributes:
        source, theirs: Whose it is, and its name there.
        keys: Our keys, none where there is no such quantity.
        how: What to do with our value.
        compute: Theirs of the rows, one value for each key.
        needs: Conditions without which theirs is another quantity.
    """

    source: str
    theirs: str
    keys: tuple[str, ...]
    how: How
    compute: Callable | None = None
    needs: tuple[str, ...] = ()

    @property
    def cells(self) -> list[str]:
        """Source, theirs, ours, and the conversion with its conditions, in Markdown."""
        ours = ", ".join(f"`{key}`" for key in self.keys) or "none"
        return [self.source, self.theirs, ours, ", ".join(filter(None, (self.how.words, *self.needs)))]

    def by_formula(self, rows: Rows) -> np.ndarray:
        """Theirs, a value for each key."""
        return np.atleast_1d(self.compute(rows))


def with_mean_logit(value, rows):
    mean = (rows.weight @ rows.center + rows.bias).mean()
    return math.sqrt(value**2 + rows.num_classes * mean**2)


def of_unexplained(value, rows):
    explained = min(rows.num_features, rows.num_classes - 1) * (1 - value)
    return (rows.num_features - explained) / len(rows.labels)


def times_n(value, rows):
    n = len(rows.labels) / rows.num_classes
    return value * n / (n - 1)


SAME, SIGN, NOT_UNC3, NOTHING = How("same"), How("same up to its sign"), How("not UNC3"), How("")
TIMES_C = How("× C", lambda v, rows: v * rows.num_classes)
OVER_C = How("/ C", lambda v, rows: v / rows.num_classes)
TIMES_D = How("× d", lambda v, rows: v * rows.num_features)
TIMES_D_OVER_C = How("× d/C", lambda v, rows: v * rows.num_features / rows.num_classes)
DDOF = How("× √(C/(C-1))", lambda v, rows: v * math.sqrt(rows.num_classes / (rows.num_classes - 1)))
TIMES_N = How("× n/(n-1), n rows of each class", times_n)
ROOT = How("√ours", lambda v, _: math.sqrt(v))
LOG10 = How("log10 of ours", lambda v, _: math.log10(v))
COMPLEMENT = How("1 - ours", lambda v, _: 1 - v)
WITHIN = How("r/(1 + r), r our value", lambda r, _: r / (1 + r))
BETWEEN = How("1/(1 + r), r our value", lambda r, _: 1 / (1 + r))
WITH_MEAN = How("theirs² = ours² + C·mean(W muG + b)²", with_mean_logit)
UNEXPLAINED = How("(d - min(d, C-1)·(1 - ours))/N, if St has rank d", of_unexplained)

PINV, RATIO, CDNV = ("nc1/within_between_pinv",), ("nc1/within_between_ratio",), ("nc1/cdnv",)
VCI, LOGS = ("nc1/variability_collapse_index",), ("nc2/means_log_distance_variation",)
NORMS = ("nc2/means_equinorm", "nc2/weights_equinorm")
ANGLES = ("nc2/means_max_angle", "nc2/weights_max_angle")
M_ETF, W_ETF = ("nc2/means_etf_distance",), ("nc2/weights_etf_distance",)
WM_ETF, DUALITY = ("nc3/duality_etf_distance",), ("nc3/self_duality",)
UNIFORM, BIAS = ("nc3/uniform_duality",), ("nc3/bias_collapse",)
MISMATCH, CENTERS = ("nc4/ncc_mismatch",), ("nc4/ncc_accuracy",)


def of_both(measure):
    """Of the means, and of W."""
    return lambda r: (measure(r.around_center), measure(r.weight))


def nc1(r):
    return by.pinv_over_classes(r, r.around_center)


def nc1_overall(r):
    return by.pinv_over_classes(r, r.around_overall)


def w_etf(r):
    return by.to_etf(r.weight, r.weight)


def w_etf_less_mean_row(r):
    return by.to_etf(by.less_mean_row(r.weight), by.less_mean_row(r.weight))


def m_etf(r):
    return by.to_etf(r.around_center, r.around_center)


def wm_etf(r):
    return by.to_etf(r.weight, r.around_center)


def wm_etf_overall(r):
    return by.to_etf(r.weight, r.around_overall)


def wm_etf_less_mean_row(r):
    return by.to_etf(by.less_mean_row(r.weight), r.around_overall)


def bias_overall(r):
    return by.bias_term(r, r.overall)


def rangamanis_share(r):
    """Spreads averaged over the classes, not over the rows."""
    return by.share_within(r.spreads.mean(), r.around_overall)


def toolbox_share(r):
    return by.share_within(np.trace(r.within), r.around_overall)


def cdnv(r):
    return by.cdnv(r, r.spreads)


PAPYAN, ZHU, ZHOU = "Papyan, Han & Donoho 2020 (notebook)", "Zhu et al. 2021", "Zhou et al. 2022"
RANGAMANI, KOTHAPALLI = "Rangamani et al. 2023", "Kothapalli et al. 2023"
XU, BEAGLEHOLE, WU = "Xu & Liu 2023", "Beaglehole et al. 2024", "Wu & Papyan 2024"
HARUN = "Harun et al. 2025, with a linear probe as classifier"
EARLIER = "the same, earlier, with Sb divided by d"

# fmt: off
LINES = (
    (PAPYAN, "NC1, tr(Sw Sb⁺), not divided by C", PINV, TIMES_C,
     lambda r: by.pinv(r, r.around_center, r.equal_shares)),
    (PAPYAN, "NC2 equinorm, ddof 1", NORMS, DDOF, of_both(by.equinorm)),
    (PAPYAN, r"NC2 angles, mean \|cos + 1/(C-1)\|", ANGLES, SAME, of_both(by.coherence)),
    (PAPYAN, "NC3, squared ‖W̃ - M̃‖²", DUALITY, SAME,
     lambda r: by.alignment(r.weight, r.around_center) ** 2),
    (PAPYAN, "NC4 mismatch", MISMATCH, SAME, lambda r: np.mean(r.decided != r.nearest)),
    (ZHU, "NC1, tr(Sw Sb⁺)/C", PINV, SAME, nc1_overall, (BALANCED,)),
    (ZHU, "NC2, ‖(WWᵀ)~ - E‖", W_ETF, SAME, w_etf),
    (ZHU, "NC3, ‖(WM)~ - E‖", WM_ETF, SAME, wm_etf_overall, (BALANCED,)),
    (ZHU, "NC4, ‖W muG + b‖ (before October 2021 with a minus)", BIAS, WITH_MEAN, bias_overall,
     (BALANCED,)),
    (ZHOU, "NC1, tr(Sw Sb⁺)/C", PINV, SAME, nc1_overall, (BALANCED,)),
    (ZHOU, "NC2, W less its mean row", W_ETF, SAME, w_etf_less_mean_row, (ZERO_SUM,)),
    (ZHOU, "NC3, W less its mean row", WM_ETF, SAME, wm_etf_less_mean_row, (ZERO_SUM, BALANCED)),
    (ZHOU, "‖W muG + b‖", BIAS, WITH_MEAN, bias_overall, (BALANCED,)),
    ("Galanti et al. 2022", "CDNV, up to the digits that E‖h‖² - ‖mu‖² loses in float32", CDNV, SAME,
     lambda r: by.cdnv(r, by.raw_spreads(r))),
    (RANGAMANI, "share of the variance within classes", RATIO, WITHIN, rangamanis_share, (BALANCED,)),
    (RANGAMANI, "share between classes", RATIO, BETWEEN, lambda r: 1 - rangamanis_share(r),
     (BALANCED,)),
    (RANGAMANI, "NCC accuracy with training means, on the training set", CENTERS, SAME,
     lambda r: np.mean(r.nearest == r.labels)),
    (KOTHAPALLI, "log10 of tr(Sw Sb⁺)/C", PINV, LOG10, lambda r: np.log10(nc1(r))),
    (KOTHAPALLI, "log10 of tr Sw/tr Sb", RATIO, LOG10, lambda r: np.log10(by.ratio(r))),
    ("Hong & Ling 2023", "NC1 with Sb weighted by n_c/N", PINV, SAME,
     lambda r: by.pinv(r, r.around_overall, r.shares) / r.num_classes, (BALANCED,)),
    (XU, "variability collapse index", VCI, SAME,
     lambda r: by.collapse_index(r, r.around_overall, r.shares)),
    (XU, "the same with 1/C in the place of n_c/N", VCI, SAME,
     lambda r: by.collapse_index(r, r.around_center, r.equal_shares), (BALANCED,)),
    ("Guo et al. 2024", "NC3, ‖W̃ - M̃‖", DUALITY, ROOT,
     lambda r: by.alignment(r.weight, r.around_center)),
    (BEAGLEHOLE, "tr Sw/tr Sb, Sw divided by C·N", RATIO, OVER_C,
     lambda r: by.ratio(r) / r.num_classes),
    (WU, "GNC2, std/mean of log inverse distances (October)", LOGS, SIGN,
     lambda r: by.log_variation(r.around_center)),
    (WU, "UNC3, std of cos(w_c, m_c), ddof 1", UNIFORM, DDOF,
     lambda r: by.uniform_duality(r.weight, r.around_center)),
    (WU, "CDNV with the fourth power of the distance", (), NOTHING),
    (HARUN, "NC1, tr(Sw Sb⁺)/C", PINV, SAME, nc1),
    (HARUN, "NC2, ‖(WWᵀ)~ - E‖", W_ETF, SAME, w_etf),
    (HARUN, "NC3, ‖(WM)~ - E‖", WM_ETF, SAME, wm_etf),
    (HARUN, "NC4, ‖W muG + b‖", BIAS, WITH_MEAN, lambda r: by.bias_term(r, r.center)),
    (RHUBARBWU, "`covariance_ratio(m_G=mG)`", PINV, SAME, nc1),
    (RHUBARBWU, '`covariance_ratio(m_G=mG, metric="svd")`', PINV, SAME, nc1),
    (RHUBARBWU, '`covariance_ratio(m_G=mG, metric="quotient")`', RATIO, SAME, by.ratio),
    (RHUBARBWU, "`variability_cdnv`, exponent 1", CDNV, SAME, cdnv),
    (RHUBARBWU, "`simplex_etf_error(m_G=mG)`", M_ETF, SAME, m_etf),
    (RHUBARBWU, "`self_duality_error(m_G=mG)`, which is ‖(WM)~ - E‖", WM_ETF, SAME, wm_etf),
    (RHUBARBWU, "`clf_ncc_agreement`, of W h", MISMATCH, COMPLEMENT, by.agreement_without_bias,
     (NO_BIAS,)),
    (EARLIER, "`covariance_pinv(m_G=mG)`", PINV, TIMES_D_OVER_C,
     lambda r: nc1(r) * r.num_features / r.num_classes),
    (EARLIER, "`covariance_pinv(m_G=mG, svd=True)`", PINV, TIMES_D, lambda r: nc1(r) * r.num_features),
    (TOOLBOX, "`nc1_strong`, where its pseudo-inverse is sound", PINV, SAME, nc1_overall, (BALANCED,)),
    (TOOLBOX, "`nc1_weak`, its first value", RATIO, BETWEEN, lambda r: 1 - toolbox_share(r),
     (BALANCED,)),
    (TOOLBOX, "`nc1_weak`, its second value", RATIO, WITHIN, toolbox_share, (BALANCED,)),
    (TOOLBOX, "`nc1_cdnv`, variances with n_c - 1", CDNV, TIMES_N,
     lambda r: by.cdnv(r, by.unbiased_spreads(r)), (BALANCED,)),
    (TOOLBOX, '`gnc2_hypershperical_uniformity(reduction="cov")`', LOGS, SIGN,
     lambda r: by.log_variation(r.around_overall), (BALANCED,)),
    (TOOLBOX, "`nc3_self_duality`, not squared", DUALITY, ROOT,
     lambda r: by.alignment(r.weight, r.around_overall), (BALANCED,)),
    (TOOLBOX, "`nc4_classifier_agreement`", MISMATCH, COMPLEMENT, by.agreement),
    (TOOLBOX, "`unc3_uniform_duality`, of different classes' cosines", (), NOT_UNC3),
    (KOWALSKI, "`within_class_variability`, which is tr(Sw St⁺)/N", VCI, UNEXPLAINED,
     by.within_class_variability),
    (KOWALSKI, "`classifier_etf_convergence`", W_ETF, SAME, w_etf),
    (KOWALSKI, "`self_duality`, which is ‖(WM)~ - E‖", WM_ETF, SAME, wm_etf_overall, (BALANCED,)),
    (KOWALSKI, "`bias_collapse`", BIAS, WITH_MEAN, bias_overall, (BALANCED,)),
    (KOWALSKI, "`class_distance_normalized_variance`", CDNV, SAME, cdnv),
)
# fmt: on

CONVERSIONS = tuple(Conversion(*line) for line in LINES)
