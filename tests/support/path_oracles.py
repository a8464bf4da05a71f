"""Independent float64 reference for the squared error on its central path.

Written from sample rows with numpy and scipy, no shared code with the library under test: classifiers
by least squares on the rows themselves, flows by small steps of all rows. Slow and obvious on purpose.

Rows h (N, d) with labels y of K classes that are all seen; w (K, d) and b (K,) or None a classifier; lw
and lb its penalties in L = 1/(2N) sum_i |w h_i + b - e_i|^2 + lw/2 |w|^2 + lb/2 |b|^2.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.linalg


@dataclass(frozen=True, eq=False)
class Rows:
    """What a classifier is fitted to."""

    h: np.ndarray
    y: np.ndarray

    @property
    def labels(self) -> np.ndarray:
        """One-hot, (N, K)."""
        return np.eye(self.y.max() + 1)[self.y]

    @property
    def means(self) -> np.ndarray:
        """The mean of its class, for each row."""
        return np.stack([self.h[self.y == c].mean(0) for c in self.y])


def drawn(rng: np.random.Generator, most_rows: int = 11) -> Rows:
    """A random problem: 2 to 7 classes of 1 to ``most_rows`` rows, 1 to 13 features, off the origin."""
    counts = rng.integers(1, most_rows + 1, rng.integers(2, 8))
    y = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    d = rng.integers(1, 14)
    means = rng.standard_normal((len(counts), d)) + rng.standard_normal(d)
    return Rows(means[y] + rng.standard_normal((len(y), d)) * rng.choice([0.1, 1.0]), y)


def outputs(rows: Rows, w: np.ndarray, b: np.ndarray | None) -> np.ndarray:
    """w h + b of each row."""
    return rows.h @ w.T if b is None else rows.h @ w.T + b


def loss(rows: Rows, w: np.ndarray, b: np.ndarray | None, lw: float, lb: float) -> float:
    """L, row by row."""
    errors = outputs(rows, w, b) - rows.labels
    of_bias = 0.0 if b is None else lb / 2 * np.sum(b**2)
    return float(np.sum(errors**2) / (2 * len(errors)) + lw / 2 * np.sum(w**2) + of_bias)


def best(rows: Rows, lw: float, lb: float, has_bias: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """The classifier with the least L, of least norm: rows of penalties below those of the data.

    A bias without a penalty is what is left of the means; one with a penalty is one more feature.
    """
    n, d = rows.h.shape
    h, labels = rows.h, rows.labels
    if has_bias and lb == 0:
        h, labels = h - h.mean(0), labels - labels.mean(0)
    elif has_bias:
        h = np.hstack([h, np.ones((n, 1))])
    penalties = np.sqrt(np.array([lw] * d + [lb] * (h.shape[1] - d)))
    system = np.vstack([h / np.sqrt(n), np.diag(penalties)])
    goal = np.vstack([labels / np.sqrt(n), np.zeros((h.shape[1], labels.shape[1]))])
    solution = scipy.linalg.lstsq(system, goal, cond=1e-11)[0].T
    w = solution[:, :d]
    if not has_bias:
        return w, None
    return w, solution[:, d] if lb else (rows.labels - rows.h @ w.T).mean(0)


def parts(
    rows: Rows, w: np.ndarray, b: np.ndarray | None, lw: float, lb: float
) -> tuple[float, float, float]:
    """L_NC1, L_NC2/3 and L_perp of a classifier, sums over rows."""
    n = len(rows.h)
    best_w, best_b = best(rows, lw, lb, b is not None)
    noise = (rows.h - rows.means) @ best_w.T
    at_means = outputs(Rows(rows.means, rows.y), best_w, best_b) - rows.labels
    dw, db = w - best_w, 0.0 if b is None or best_b is None else b - best_b
    apart = rows.h @ dw.T + db
    of_bias = 0.0 if best_b is None else lb * np.sum(best_b**2)
    nc1 = np.sum(noise**2) / n + lw * np.sum(best_w**2) + of_bias
    perp = np.sum(apart**2) / n + lw * np.sum(dw**2) + lb * np.sum(db**2)
    return nc1 / 2, np.sum(at_means**2) / (2 * n), perp / 2


def signal_to_noise(rows: Rows) -> np.ndarray:
    """Sw^(-1/2) [mc_k sqrt(p_k)], (d, K), by the symmetric root; Sw nonsingular."""
    noise = rows.h - rows.means
    root = np.real(scipy.linalg.sqrtm(noise.T @ noise / len(noise)))
    columns = []
    for c in range(rows.y.max() + 1):
        share = np.mean(rows.y == c)
        columns.append((rows.h[rows.y == c].mean(0) - rows.h.mean(0)) * np.sqrt(share))
    return np.linalg.solve(root, np.stack(columns, 1))


def whitened(rows: Rows) -> Rows:
    """The same rows in coordinates in which Sw = I."""
    noise = rows.h - rows.means
    root = np.real(scipy.linalg.sqrtm(noise.T @ noise / len(noise)))
    return Rows(np.linalg.solve(root, rows.h.T).T, rows.y)


def row_gradient(rows: Rows) -> np.ndarray:
    """Of min over w, b of L without penalties, for each row: that of L at the minimum."""
    w, b = best(rows, 0.0, 0.0, has_bias=True)
    return (outputs(rows, w, b) - rows.labels) @ w / len(rows.h)


def projected_velocity(rows: Rows) -> np.ndarray:
    """Minus the gradient, projected on what leaves Sw as it is.

    Orthogonal to {Sw = const.} are the changes noise @ S with S symmetric; of these the one is taken
    off that makes Sw stand still: a Lyapunov equation.
    """
    step, noise = -row_gradient(rows), rows.h - rows.means
    change = noise.T @ (step - Rows(step, rows.y).means)
    scatter = noise.T @ noise
    return step - noise @ scipy.linalg.solve_continuous_lyapunov(scatter, change + change.T)


def followed(velocity: Callable[[np.ndarray], np.ndarray], at: np.ndarray, steps: int, dt: float):
    """Runge-Kutta steps of the fourth order."""
    for _ in range(steps):
        one = velocity(at)
        two = velocity(at + dt / 2 * one)
        three = velocity(at + dt / 2 * two)
        four = velocity(at + dt * three)
        at = at + dt / 6 * (one + 2 * two + 2 * three + four)
    return at
