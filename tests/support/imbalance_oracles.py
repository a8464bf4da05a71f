"""Independent float64 reference of the measures of unequal classes, from rows.

Numpy and scipy only, written from the papers, no shared code with the library under test. A parameter
is found on a dense grid, and from its best point by a bounded search.
"""

import numpy as np
from scipy.optimize import brentq, minimize_scalar


def unit(x):
    return x / np.linalg.norm(x)


def rms_gap(measured, target):
    gaps = [np.linalg.norm(unit(x) - unit(t)) for x, t in zip(measured, target, strict=True)]
    return float(np.sqrt(np.mean(np.square(gaps))))


def triple(mu, weight):
    return weight @ weight.T, mu @ mu.T, weight @ mu.T


def threshold(m):
    """Of the right side, where a class vanishes from the global minimum."""
    return (m - 1) ** (m - 1) / m ** (2 * m)


def spinodal(m):
    """Up to which a class that lives is a local minimum."""
    return ((m + 1) / (2 * m)) ** (m + 1) * ((m - 1) / (2 * m)) ** (m - 1)


def gain(right_side, m, low=None):
    """Largest root of (1-g)^(m+1) g^(m-1) = right side; 0 where it would be below ``low``."""
    low = (m - 1) / m if low is None else low
    if right_side >= (1 - low) ** (m + 1) * low ** (m - 1):
        return 0.0
    return brentq(
        lambda g: (1 - g) ** (m + 1) * g ** (m - 1) - right_side, low, 1, xtol=1e-16, rtol=1e-14
    )


def gof(p, tau, m, layer, alive=None):
    """Those alive are so as far as the spinodal; None: as at the global minimum."""
    low = None if alive is None else (m - 1) / (2 * m)
    g = np.array([gain(tau / share**m, m, low) for share in p])
    g = g if alive is None else g * alive
    t = p * g * (1 - g)
    return np.diag(t ** (m - layer + 1)), np.diag(t**layer / p), np.diag(g)


def gof_centered(p, tau, m, layer):
    labels = np.diag(np.sqrt(p)) - np.outer(p, np.sqrt(p))
    left, values, right = np.linalg.svd(labels)
    left, values, right = left[:, :-1], values[:-1], (right[:-1] / np.sqrt(p)).T
    g = np.array([gain(tau / v ** (2 * m), m) for v in values])
    t = values**2 * g * (1 - g)
    return (
        left @ np.diag(t ** (m - layer + 1)) @ left.T,
        right @ np.diag(t**layer) @ right.T,
        left @ np.diag(values * g) @ right.T,
    )


def relu_ce(p, r):
    k, q = len(p), r / np.sqrt(p)
    m = np.maximum(0, np.log(np.maximum((k - 1) * (1 / q - 1), 1)))
    a = k * np.eye(k) - 1
    return a @ np.diag(np.sqrt(p) * m) @ a.T, np.diag(m / np.sqrt(p)), (a / k) @ np.diag(m)


def seli(p):
    k = len(p)
    simplex = np.eye(k) - 1 / k
    left, values, right = np.linalg.svd(simplex @ np.diag(np.sqrt(p)))
    left, values, right = left[:, :-1], values[:-1], (right[:-1] / np.sqrt(p)).T
    return left @ np.diag(values) @ left.T, right @ np.diag(values) @ right.T, simplex


def centered(target, p):
    shift = np.eye(len(p)) - np.outer(np.ones(len(p)), p)
    w, h, z = target
    return w, shift @ h @ shift.T, z @ shift.T


def least(measured, member, low, high):
    """Of the logarithms of a parameter between low and high."""

    def distance(x):
        with np.errstate(all="ignore"):
            value = rms_gap(measured, member(np.exp(x)))
        return value if np.isfinite(value) else np.inf

    # where one class after the other vanishes, near the upper end, the distance has many minima
    grid = np.sort([*np.linspace(low, high, 300), *(high - np.geomspace(1e-9, high - low, 300)[:-1])])
    values = [distance(x) for x in grid]
    best = int(np.argmin(values))
    ends = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    found = minimize_scalar(distance, bounds=ends, method="bounded", options={"xatol": 1e-12})
    return min(found.fun, values[best])


def races(mu, weight, counts, m=1, layer=1):
    """imbalance/* of class means and of what a head makes of them, less the margin."""
    p = counts / counts.sum()
    largest, second = np.sort(p)[::-1][:2]
    k = len(p)
    own = np.diag(weight @ mu.T)
    alive = None if m == 1 else own > 0.05 * own.max()
    as_they_are, less_mean = triple(mu, weight), triple(mu - p @ mu, weight)

    def tau_range(shares, limit):
        top, next_one = np.sort(shares)[::-1][:2]
        eps = 1e-6
        low = eps ** (m + 1) * (1 - eps) ** (m - 1) * top**m
        return np.log(low), np.log(limit * next_one**m * (1 - 1e-9))

    squares = np.linalg.svd(np.diag(np.sqrt(p)) - np.outer(p, np.sqrt(p)))[1][:-1] ** 2
    r_range = np.log(1e-30 * np.sqrt(largest)), np.log(np.sqrt(second) * (1 - 1 / k) * (1 - 1e-9))
    simplex = np.eye(k) - 1 / k
    taus = tau_range(p, threshold(m)) if alive is None else tau_range(p[alive], spinodal(m))
    return {
        "imbalance/etf": rms_gap(less_mean, centered((simplex,) * 3, p)),
        "imbalance/of": rms_gap(as_they_are, (np.eye(k),) * 3),
        "imbalance/gof": least(as_they_are, lambda tau: gof(p, tau, m, layer, alive), *taus),
        "imbalance/gof_centered": least(
            less_mean, lambda tau: gof_centered(p, tau, m, layer), *tau_range(squares, threshold(m))
        ),
        "imbalance/seli": rms_gap(less_mean, centered(seli(p), p)),
        "imbalance/relu_ce": least(as_they_are, lambda r: relu_ce(p, r), *r_range),
    }


def reference(h, y, weight, bias, training_counts=None, shots=(20, 100), m=1, layer=1):
    """imbalance/*, less ce_ufm, of rows and a classifier; all classes have rows."""
    k = len(weight)
    counts = np.bincount(y, minlength=k)
    n = counts if training_counts is None else np.asarray(training_counts)
    mu = np.stack([h[y == c].mean(0) for c in range(k)])
    found = races(mu, weight, n, m, layer)
    group = ("etf", "gof_centered", "seli") if bias is not None else ("of", "gof", "relu_ce")
    nearest, second = sorted(found[f"imbalance/{name}"] for name in group)[:2]
    found["imbalance/margin"] = second - nearest
    small, large = n <= 2 * n.min(), n * 2 >= n.max()
    rows = weight[small] / np.linalg.norm(weight[small], axis=1, keepdims=True)
    if small.sum() > 1:
        cosines = rows @ rows.T
        found["imbalance/minority_cosine"] = cosines[~np.eye(len(rows), dtype=bool)].mean()
    norms = np.linalg.norm(weight, axis=1)
    found["imbalance/norm_ratio"] = norms[large].mean() / norms[small].mean()
    right = np.array([decided_by_others(h, y, i, mu, counts) for i in range(len(y))])
    recall = np.array([right[y == c].mean() if counts[c] > 1 else np.nan for c in range(k)])
    groups = {"many": n > shots[1], "medium": (n >= shots[0]) & (n <= shots[1]), "few": n < shots[0]}
    groups = {g: at & (counts > 1) for g, at in groups.items()}
    return found | {f"imbalance/recall_{g}": recall[at].mean() for g, at in groups.items() if at.any()}


def decided_by_others(h, y, i, mu, counts):
    """Whether a row is nearest to the mean of the other rows of its class."""
    c, n = y[i], counts[y[i]]
    if n < 2:
        return False
    means = mu.copy()
    means[c] = (n * mu[c] - h[i]) / (n - 1)
    return ((h[i] - means) ** 2).sum(1).argmin() == c
