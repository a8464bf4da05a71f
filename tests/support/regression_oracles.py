"""Independent float64 reference of the measures of a regression, from rows.

Numpy and scipy only, written from the papers, two passes over the data, no shared code with the library
under test. Slow and obvious on purpose.

    h_i in R^d, y_i in R^n      Sigma = cov(Y), divided by N      h~ = h / ||h||      X~ = X / ||X||_F
"""

import numpy as np
from scipy.optimize import minimize, minimize_scalar


def mean(rows):
    """The second term is the first one's rounding."""
    first = rows.mean(0)
    return first + (rows - first).mean(0)


def covariance(rows, others=None):
    others = rows if others is None else others
    return (rows - mean(rows)).T @ (others - mean(others)) / len(rows)


def unit(rows):
    lengths = np.linalg.norm(rows, axis=1)
    return rows[lengths > 0] / lengths[lengths > 0, None]


def moments(h, y):
    """What a stream has to come to, by name."""
    u = unit(h)
    return {
        "count": len(h),
        "feature_mean": mean(h),
        "target_mean": mean(y),
        "feature_scatter": len(h) * covariance(h),
        "cross_scatter": len(h) * covariance(h, y),
        "target_scatter": len(h) * covariance(y),
        "unit_count": len(u),
        "unit_mean": mean(u),
        "unit_scatter": len(u) * covariance(u),
    }


def top_directions(h, n):
    """As columns: right singular vectors of the centered rows."""
    return np.linalg.svd(h - mean(h), full_matrices=False)[2][:n].T


def row_space(weight):
    """As columns, of a W of full rank."""
    return np.linalg.qr(weight.T)[0]


def outside(rows, basis):
    """One after the other."""
    return float(np.mean([np.sum((row - basis @ (basis.T @ row)) ** 2) for row in unit(rows)]))


def feature_collapse(h, y):
    return outside(h, top_directions(h, y.shape[1]))


def feature_collapse_centered(h, y):
    return outside(h - mean(h), top_directions(h, y.shape[1]))


def row_space_share(h, weight):
    return outside(h, row_space(weight))


def row_space_share_centered(h, weight):
    return outside(h - mean(h), row_space(weight))


def outside_variance(h, y):
    values = np.linalg.svd(h - mean(h), compute_uv=False) ** 2
    return float(values[y.shape[1] :].sum() / values.sum())


def normalized(square):
    return square / np.linalg.norm(square)


def root(square):
    values, vectors = np.linalg.eigh(square)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def gram_distance(weight, sigma, gamma):
    target = root(sigma) - np.sqrt(gamma) * np.eye(len(sigma))
    return float(np.linalg.norm(normalized(weight @ weight.T) - normalized(target)) ** 2)


def least_gram_distance(weight, sigma):
    """On a grid of the root of gamma, and from its best point by a bounded search."""
    most = np.sqrt(max(np.linalg.eigvalsh(sigma)[0], 0)) * (1 - 1e-9)

    def at(s):
        return gram_distance(weight, sigma, s**2)

    grid = np.linspace(0, most, 400)
    i = int(np.argmin([at(s) for s in grid]))
    ends = grid[max(i - 1, 0)], grid[min(i + 1, len(grid) - 1)]
    found = minimize_scalar(at, bounds=ends, method="bounded", options={"xatol": 1e-13})
    value, s = min((at(x), x) for x in (grid[i], found.x))
    return value, s**2


def r2_linear(h, y):
    """By least squares on the rows, with a column of ones."""
    design = np.column_stack([h - mean(h), np.ones(len(h))])
    residual = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    return 1 - float(np.sum(residual**2) / np.sum((y - mean(y)) ** 2))


def r2_readout(h, y, weight, bias):
    """One row after the other."""
    error = sum(np.sum((weight @ row + bias - target) ** 2) for row, target in zip(h, y, strict=True))
    return 1 - float(error / np.sum((y - mean(y)) ** 2))


def unconstrained(y, width, penalty, row_penalty, bias="free", restarts=3, seed=0):
    """Weight, features and loss of the last two layers, every row's feature free, by L-BFGS.

    The bias is "free" of penalty, has the weight's ("alike"), or is "none".
    """
    rows, n = y.shape
    shapes = (n, width), (rows, width), (n,)
    cuts = np.cumsum([np.prod(shape) for shape in shapes])[:-1]
    for_bias = {"free": 0.0, "alike": penalty, "none": 0.0}[bias]

    def parts(x):
        return [part.reshape(shape) for part, shape in zip(np.split(x, cuts), shapes, strict=True)]

    def loss(x):
        w, h, b = parts(x)
        residual = h @ w.T + b * (bias != "none") - y
        value = np.sum(residual**2) / (2 * rows) + penalty / 2 * np.sum(w**2)
        value += row_penalty / (2 * rows) * np.sum(h**2) + for_bias / 2 * np.sum(b**2)
        slopes = [
            residual.T @ h / rows + penalty * w,
            residual @ w / rows + row_penalty / rows * h,
            (residual.mean(0) + for_bias * b) * (bias != "none"),
        ]
        return value, np.concatenate([slope.ravel() for slope in slopes])

    rng = np.random.default_rng(seed)
    starts = [0.5 * rng.standard_normal(cuts[-1] + n) for _ in range(restarts)]
    options = {"maxiter": 20000, "maxfun": 40000, "ftol": 1e-16, "gtol": 1e-12, "maxcor": 50}
    found = [minimize(loss, x, jac=True, method="L-BFGS-B", options=options) for x in starts]
    best = min(found, key=lambda each: each.fun)
    w, h, b = parts(best.x)
    return w, h, b, float(best.fun)


def collapsed(rng, rows, width, n, spread=0.0, offset=0.0):
    """Features in the row space of W but for a spread, and their targets."""
    y = rng.standard_normal((rows, n)) @ np.diag(np.geomspace(1, 0.5, n))
    basis = np.linalg.qr(rng.standard_normal((width, n)))[0]
    h = y @ basis.T + spread * rng.standard_normal((rows, width)) + offset
    return h, y, basis.T
