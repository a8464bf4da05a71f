"""Other tools' own packages, where they can be imported, called with the rows of conventions.py."""

import importlib
import importlib.util
from collections.abc import Callable

import numpy as np
import torch
from support.conventions import Rows

RHUBARBWU = "`rhubarbwu/neural-collapse`, newest"
TOOLBOX, KOWALSKI = "`felixsh/nc-toolbox`", "`kowalski` 0.0.2"
MODULES = {
    RHUBARBWU: "neural_collapse.measure",
    TOOLBOX: "nc_toolbox",
    KOWALSKI: "kowalski.neural_collapse",
}


def _tensors(*arrays):
    return [torch.from_numpy(array) for array in arrays]


def _covariance_ratio(metric):
    def call(package, r):
        within, means, center = _tensors(r.within, r.means, r.center)
        return package.covariance_ratio(V_intra=within, M=means, m_G=center, metric=metric)

    return call


def _self_duality_error(package, r):
    weight, means, center = _tensors(r.weight, r.means, r.center)
    return package.self_duality_error(W=weight, M=means, m_G=center)


def _nc1_cdnv(package, r):
    spreads = package.class_embedding_variances(r.features, r.labels, r.means)
    return package.nc1_cdnv(r.means, spreads)


def _rows_of_the_toolbox(r):
    return r.features, r.labels, r.means, r.overall


CALLS: dict[tuple[str, str], Callable] = {
    (RHUBARBWU, "`covariance_ratio(m_G=mG)`"): _covariance_ratio("pinv"),
    (RHUBARBWU, '`covariance_ratio(m_G=mG, metric="svd")`'): _covariance_ratio("svd"),
    (RHUBARBWU, '`covariance_ratio(m_G=mG, metric="quotient")`'): _covariance_ratio("quotient"),
    (RHUBARBWU, "`variability_cdnv`, exponent 1"): lambda p, r: p.variability_cdnv(
        *_tensors(r.spreads, r.means)
    ),
    (RHUBARBWU, "`simplex_etf_error(m_G=mG)`"): lambda p, r: p.simplex_etf_error(
        *_tensors(r.means, r.center)
    ),
    (RHUBARBWU, "`self_duality_error(m_G=mG)`, which is ‖(WM)~ - E‖"): _self_duality_error,
    (TOOLBOX, "`nc1_strong`, where its pseudo-inverse is sound"): lambda p, r: p.nc1_strong(
        *_rows_of_the_toolbox(r)
    ),
    (TOOLBOX, "`nc1_weak`, its first value"): lambda p, r: p.nc1_weak(*_rows_of_the_toolbox(r))[0],
    (TOOLBOX, "`nc1_weak`, its second value"): lambda p, r: p.nc1_weak(*_rows_of_the_toolbox(r))[1],
    (TOOLBOX, "`nc1_cdnv`, variances with n_c - 1"): _nc1_cdnv,
    (TOOLBOX, '`gnc2_hypershperical_uniformity(reduction="cov")`'): lambda p, r: abs(
        p.gnc2_hypershperical_uniformity(r.means, r.overall, reduction="cov")
    ),
    (TOOLBOX, "`nc3_self_duality`, not squared"): lambda p, r: p.nc3_self_duality(
        r.weight, r.means, r.overall
    ),
    (TOOLBOX, "`nc4_classifier_agreement`"): lambda p, r: p.nc4_classifier_agreement(
        r.features, r.weight, r.bias, r.means
    ),
    (KOWALSKI, "`within_class_variability`, which is tr(Sw St⁺)/N"): lambda p, r: (
        p.within_class_variability(_tensors(*r.by_class))
    ),
    (KOWALSKI, "`classifier_etf_convergence`"): lambda p, r: p.classifier_etf_convergence(
        *_tensors(r.weight)
    ),
    (KOWALSKI, "`self_duality`, which is ‖(WM)~ - E‖"): lambda p, r: p.self_duality(
        _tensors(*r.by_class), *_tensors(r.weight)
    ),
    (KOWALSKI, "`bias_collapse`"): lambda p, r: p.bias_collapse(
        *_tensors(r.features, r.weight, r.bias)
    ),
    (KOWALSKI, "`class_distance_normalized_variance`"): lambda p, r: (
        p.class_distance_normalized_variance(_tensors(*r.by_class))
    ),
}
"""By whose it is and its name there, as in the table of conversions."""


def package_value(source: str, theirs: str) -> Callable[[Rows], np.ndarray] | None:
    """What a package makes of rows; None where it cannot be imported, or has no such function."""
    call, module = CALLS.get((source, theirs)), MODULES.get(source, "")
    if call is None or importlib.util.find_spec(module.split(".")[0]) is None:
        return None
    package = importlib.import_module(module)
    return lambda rows: np.atleast_1d(call(package, rows))
