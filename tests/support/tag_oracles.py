"""Independent float64 reference for rows with several tags.

Numpy and scipy only, written from rows and objectives with explicit loops, no closed form, no shared
code with the library under test. Slow and obvious on purpose.

Rows h (N, d) with multi-hot tags t (N, K).
"""

from collections.abc import Mapping
from itertools import combinations
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize


class Rows(NamedTuple):
    """Features with their tags."""

    h: np.ndarray
    t: np.ndarray

    def having(self, *tags: int) -> np.ndarray:
        """The features of the rows with just these tags."""
        wanted = np.zeros(self.t.shape[1])
        wanted[list(tags)] = 1
        return np.array([h for h, t in zip(self.h, self.t, strict=True) if (t == wanted).all()])

    @property
    def singles(self) -> dict[int, np.ndarray]:
        """The mean of the rows with one tag, by tag, of those that have some."""
        of_tag = {k: self.having(k) for k in range(self.t.shape[1])}
        return {k: rows.mean(0) for k, rows in of_tag.items() if len(rows)}

    @property
    def pairs(self) -> dict[tuple[int, int], np.ndarray]:
        """The mean of the rows with two tags, of those pairs whose tags have rows of their own."""
        of_pair = {ij: self.having(*ij) for ij in combinations(sorted(self.singles), 2)}
        return {ij: rows.mean(0) for ij, rows in of_pair.items() if len(rows)}

    @property
    def center(self) -> np.ndarray:
        """The unweighted mean of the single-tag means."""
        return np.mean(list(self.singles.values()), axis=0)


def drawn(seed: int, num_tags: int = 6, d: int = 5, rows: int = 120, most: int = 4) -> Rows:
    """Rows of up to ``most`` tags around the sums of random means, off the origin."""
    rng = np.random.default_rng(seed)
    means = rng.standard_normal((num_tags, d))
    t = np.zeros((rows, num_tags))
    for i in range(rows):
        # the first rows have each tag alone
        chosen = [i] if i < num_tags else rng.permutation(num_tags)[: rng.integers(1, most + 1)]
        t[i, chosen] = 1
    length = 0.5 + 0.5 / t.sum(1, keepdims=True)
    return Rows(length * (t @ means) + 0.3 * rng.standard_normal((rows, d)) + rng.standard_normal(d), t)


def angle_between(u: np.ndarray, v: np.ndarray) -> float:
    """In degrees, after Kahan."""
    u, v = u / np.linalg.norm(u), v / np.linalg.norm(v)
    return float(np.degrees(2 * np.arctan2(np.linalg.norm(u - v), np.linalg.norm(u + v))))


def angle(rows: Rows, center: np.ndarray | float = 0.0) -> float:
    """Mean angle between the sum of two tags' means and the mean of their pair."""
    singles = {k: mean - center for k, mean in rows.singles.items()}
    return float(
        np.mean(
            [angle_between(singles[i] + singles[j], m - center) for (i, j), m in rows.pairs.items()]
        )
    )


def unmatched(rows: Rows, center: np.ndarray | float = 0.0) -> float:
    """The same of any sum with the mean of any pair."""
    singles = {k: mean - center for k, mean in rows.singles.items()}
    sums = [singles[i] + singles[j] for i, j in combinations(singles, 2)]
    return float(np.mean([angle_between(s, m - center) for s in sums for m in rows.pairs.values()]))


def fit(rows: Rows, multiplicity: int, center: np.ndarray | None = None) -> tuple[float, float]:
    """Scale and residual of the rows with so many tags, all of which have rows of their own."""
    g = rows.center if center is None else center
    singles, sums, features = rows.singles, [], []
    for h, t in zip(rows.h, rows.t, strict=True):
        tags = np.flatnonzero(t)
        if len(tags) == multiplicity and all(k in singles for k in tags):
            sums.append(sum(singles[k] - g for k in tags))
            features.append(h - g)
    x, y = np.concatenate(sums), np.concatenate(features)
    scale = (x @ y) / (x @ x)
    return float(scale), float(np.sum((y - scale * x) ** 2) / np.sum(y**2))


class Found(NamedTuple):
    """Where the objective is least."""

    loss: float
    weight: np.ndarray
    bias: np.ndarray
    h: np.ndarray  # a feature of every row
    t: np.ndarray

    def scales(self) -> dict[int, np.ndarray]:
        """C of each row, by its number of tags: its feature by the sum of its tags' rows of W."""
        sums = self.t @ self.weight
        c = (self.h * sums).sum(1) / (sums * sums).sum(1)
        return {int(m): c[self.t.sum(1) == m] for m in np.unique(self.t.sum(1))}

    def off_the_sums(self) -> float:
        """By how much features miss the multiples of these sums, of the longest."""
        sums = self.t @ self.weight
        c = (self.h * sums).sum(1) / (sums * sums).sum(1)
        return float(np.abs(self.h - c[:, None] * sums).max() / np.abs(self.h).max())


def all_sets(num_tags: int, copies: Mapping[int, int]) -> np.ndarray:
    """Every set of m tags so many times, for each m."""
    sets = [
        chosen
        for m, times in copies.items()
        for chosen in combinations(range(num_tags), m)
        for _ in range(times)
    ]
    return np.array([[float(k in chosen) for k in range(num_tags)] for chosen in sets])


def pick_all_label(
    t: np.ndarray,
    weight_penalty: float,
    feature_penalty: float,
    normalized: bool,
    with_bias: bool = False,
    seed: int = 0,
) -> Found:
    """The least pick-all-label loss over weights and a feature of every row, by L-BFGS and Newton.

    Variables are scaled so that each has the penalty 1/2 ||.||^2.
    """
    (n, k), d = t.shape, t.shape[1]
    target = t / t.sum(1, keepdims=True) if normalized else t
    mass = target.sum(1, keepdims=True)
    of_w, of_h = np.sqrt(weight_penalty), np.sqrt(feature_penalty)

    def split(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        w, h, b = np.split(x, [k * d, k * d + n * d])
        return w.reshape(k, d) / of_w, h.reshape(n, d) / of_h, b

    def objective(x: np.ndarray) -> tuple[float, np.ndarray]:
        w, h, b = split(x)
        z = h @ w.T + b * with_bias
        top = z.max(1, keepdims=True)
        log_p = z - top - np.log(np.exp(z - top).sum(1, keepdims=True))
        back = (mass * np.exp(log_p) - target) / n
        value = -np.sum(target * log_p) / n
        value += weight_penalty / 2 * np.sum(w**2) + feature_penalty / 2 * np.sum(h**2)
        by_w = (back.T @ h + weight_penalty * w) / of_w
        by_h = (back @ w + feature_penalty * h) / of_h
        return value, np.concatenate([by_w.ravel(), by_h.ravel(), back.sum(0) * with_bias])

    rng = np.random.default_rng(seed)
    x = np.concatenate([0.3 * rng.standard_normal(k * d + n * d), np.zeros(k)])
    options = {"maxiter": 20000, "maxfun": 40000, "ftol": 0, "gtol": 1e-13, "maxcor": 30}
    for _ in range(4):
        x = minimize(objective, x, jac=True, method="L-BFGS-B", options=options).x
    w, h, b = split(x)
    return Found(objective(x)[0], w, b, h, t)
