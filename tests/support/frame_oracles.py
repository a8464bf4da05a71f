"""Independent float64 minimum of the whole objective: free features, linear layers, either loss.

Numpy and scipy only, written from the objective and no closed form, no shared code with the library
under test. Slow and obvious on purpose:

    1/N sum_i loss(W_M ... W_1 h_i + b, y_i)
    + sum_l lW_l/2 ||W_l||^2 + lH/2 sum_i ||h_i||^2 + lb/2 ||b||^2

with loss = 1/2 ||. - onehot||^2 or the cross-entropy. At the minimum the rows of a class coincide, as
the objective is convex in the features for fixed weights; so one feature per class is free, counted as
often as the class has rows, unless a feature of every row is asked for.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize


class Found(NamedTuple):
    """The best end of all descents; P = W_M ... W_1."""

    loss: float
    weights: np.ndarray  # P P^T
    means: np.ndarray  # mu mu^T
    logits: np.ndarray  # P mu^T, less the bias; a column per class
    bias: np.ndarray | None
    layers: list[np.ndarray]  # W_1 to W_M
    features: np.ndarray  # one column per class, or per row if that was asked for
    slope: float  # the largest entry of the projected gradient, in the scaled variables


class Problem(NamedTuple):
    """The objective of scaled variables A_l = sqrt(lW_l) W_l and Q = H diag(sqrt(lH rows)).

    All of them have the penalty 1/2 ||.||^2, so that no direction is steeper than another by its name.
    """

    labels: np.ndarray  # the class of each column
    rows: np.ndarray  # how often each column counts
    weight_penalties: list[float]
    feature_penalty: float
    loss: str
    bias_penalty: float | None  # None: no bias; 0: free
    width: int
    smoothing: float

    @property
    def num_classes(self) -> int:
        return int(self.labels.max()) + 1

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """Of A_1 to A_M, Q and the bias."""
        depth, columns = len(self.weight_penalties), len(self.labels)
        inner = [(self.width, self.width)] * (depth - 1)
        last = (self.num_classes, self.width)
        return [*inner, last, (self.width, columns), (self.num_classes, 1)]

    @property
    def unscale(self) -> np.ndarray:
        """A_M ... A_1 Q diag(unscale) are the logits."""
        return 1 / np.sqrt(np.prod(self.weight_penalties) * self.feature_penalty * self.rows)

    @property
    def bias_scale(self) -> float:
        """Cross-entropy is about as flat in the bias as in the logits: as their penalty leaves them."""
        return 1.0 if self.loss == "mse" else min(1.0, 1 / self.unscale.mean()) ** 0.5

    def split(self, x: np.ndarray) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
        """A_1 to A_M, Q, and b times its scale."""
        sizes = np.cumsum([a * b for a, b in self.shapes])[:-1]
        parts = [p.reshape(s) for p, s in zip(np.split(x, sizes), self.shapes, strict=True)]
        return parts[:-2], parts[-2], parts[-1]

    def data_loss(self, logits: np.ndarray) -> tuple[float, np.ndarray]:
        """Its value and its gradient by the logits, bias included."""
        one_hot = np.eye(self.num_classes)[:, self.labels]
        share = self.rows / self.rows.sum()
        if self.loss == "mse":
            return 0.5 * np.sum(share * (logits - one_hot) ** 2), share * (logits - one_hot)
        target = (1 - self.smoothing) * one_hot + self.smoothing / self.num_classes
        shifted = logits - logits.max(0)
        log_sum = np.log(np.exp(shifted).sum(0))
        gradient = share * (np.exp(shifted - log_sum) - target)
        return np.sum(share * (log_sum - (target * shifted).sum(0))), gradient

    def __call__(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        """The objective and its gradient."""
        layers, scaled, scaled_bias = self.split(x)
        bias = scaled_bias / self.bias_scale
        entering = [scaled * self.unscale]  # what enters each layer, and at the end the logits
        for layer in layers:
            entering.append(layer @ entering[-1])
        has_bias = self.bias_penalty is not None
        value, back = self.data_loss(entering[-1] + bias * has_bias)
        by_bias = (back.sum(1, keepdims=True) + (self.bias_penalty or 0) * bias) * has_bias
        value += 0.5 * (x @ x - np.sum(scaled_bias**2) + (self.bias_penalty or 0) * np.sum(bias**2))
        by_layers = []
        for layer, entered in zip(layers[::-1], entering[-2::-1], strict=True):
            by_layers.append(back @ entered.T + layer)
            back = layer.T @ back
        parts = [*by_layers[::-1], back * self.unscale + scaled, by_bias / self.bias_scale]
        return value, np.concatenate([part.ravel() for part in parts])


def random_start(problem: Problem, rng: np.random.Generator) -> np.ndarray:
    """Logits of the size of the labels; of the bias, zero."""
    size = (np.sqrt(problem.rows.mean()) / problem.unscale.mean()) ** (1 / (len(problem.shapes) - 1))
    size = min(max(size, 0.3), 1.5)
    parts = [size * rng.standard_normal(s) / np.sqrt(problem.width) for s in problem.shapes[:-1]]
    return np.concatenate([*(part.ravel() for part in parts), np.zeros(problem.num_classes)])


def aligned_start(problem: Problem, alive: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """All layers share singular vectors with the labels; a direction not alive starts near 0."""
    labels = np.eye(problem.num_classes)[:, problem.labels] * np.sqrt(problem.rows)
    if problem.bias_penalty is not None:
        labels = (
            labels
            - labels @ np.outer(np.sqrt(problem.rows), np.sqrt(problem.rows)) / problem.rows.sum()
        )
    left, values, right = np.linalg.svd(labels, full_matrices=False)
    scale = 1 / (problem.unscale * np.sqrt(problem.rows))[0]
    depth, rank = len(problem.weight_penalties), min(problem.width, problem.num_classes)
    size = np.zeros(problem.width)
    size[:rank] = ((0.9 * values * scale) ** (1 / (depth + 1)) * alive)[:rank]
    last, features = np.zeros(problem.shapes[depth - 1]), np.zeros(problem.shapes[depth])
    last[:, :rank], features[:rank] = left[:, :rank] * size[:rank], size[:rank, None] * right[:rank]
    parts = [*[np.diag(size)] * (depth - 1), last, features, np.zeros(problem.shapes[-1])]
    flat = np.concatenate([part.ravel() for part in parts])
    return flat + 1e-3 * rng.standard_normal(len(flat))


def starts(problem: Problem, restarts: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Random ones, and for several layers aligned ones too, where a dead direction stays dead.

    Of the aligned ones some have the largest directions alive, and some a random half of them.
    """
    count, deep = problem.num_classes, len(problem.weight_penalties) > 1
    if deep:
        for number in range(count + 1):
            yield aligned_start(problem, np.arange(count) < number, rng)
    for restart in range(restarts):
        if deep and restart % 2:
            yield aligned_start(problem, rng.random(count) < 0.5, rng)
        else:
            yield random_start(problem, rng)


def descend(problem: Problem, x: np.ndarray, relu: bool, rounds: int) -> np.ndarray:
    """L-BFGS, begun anew from its end a few times."""
    low = np.full(len(x), -np.inf)
    if relu:
        start = sum(a * b for a, b in problem.shapes[:-2])
        low[start : len(x) - problem.num_classes] = 0
    bounds = np.stack([low, np.full(len(x), np.inf)], axis=1) if relu else None
    options = {
        "maxcor": 30,
        "ftol": 1e-10 if rounds == 1 else 0,
        "gtol": 1e-13,
        "maxls": 60,
        "maxiter": 3000,
    }
    for _ in range(rounds):
        x = minimize(
            problem, np.maximum(x, low), jac=True, method="L-BFGS-B", bounds=bounds, options=options
        ).x
    return x


def minimum(
    counts: Sequence[int],
    weight_penalties: Sequence[float],
    feature_penalty: float,
    loss: str = "mse",
    bias: float | str | None = None,
    relu: bool = False,
    width: int | None = None,
    smoothing: float = 0.0,
    restarts: int = 8,
    seed: int = 0,
    every_row: bool = False,
) -> Found:
    """The least value that descents from several starts find, and what is there.

    weight_penalties are those of W_1 to W_M, W_1 the layer that the features enter. bias: None for
    none, "free", or its penalty. relu: no feature is negative. width: of the features and inner layers.
    every_row: a feature of every row is free, and not only one per class.
    """
    counts = np.asarray(counts)
    labels = np.repeat(np.arange(len(counts)), counts) if every_row else np.arange(len(counts))
    rows = np.ones(len(labels)) if every_row else counts.astype(float)
    bias_penalty = 0.0 if bias == "free" else bias
    width = width or (2 * len(counts) if relu else len(counts))
    problem = Problem(
        labels, rows, list(weight_penalties), feature_penalty, loss, bias_penalty, width, smoothing
    )
    rng = np.random.default_rng(seed)
    ends = [descend(problem, start, relu, rounds=1) for start in starts(problem, restarts, rng)]
    ends.sort(key=lambda end: problem(end)[0])
    best = min((descend(problem, end, relu, rounds=3) for end in ends[:2]), key=lambda x: problem(x)[0])
    return _found(problem, best, relu)


def _found(problem: Problem, x: np.ndarray, relu: bool) -> Found:
    layers, scaled, bias = problem.split(x)
    layers = [a / np.sqrt(p) for a, p in zip(layers, problem.weight_penalties, strict=True)]
    features = scaled / np.sqrt(problem.feature_penalty * problem.rows)
    each = [features[:, problem.labels == k].mean(1) for k in range(problem.num_classes)]
    mu, product = np.stack(each, axis=1), layers[0]
    for layer in layers[1:]:
        product = layer @ product
    value, gradient = problem(x)
    _, by_features, _ = problem.split(gradient)
    if relu:  # what pushes a feature at the bound out of it does not count
        by_features[scaled <= 0] = np.minimum(by_features[scaled <= 0], 0)
    bias = bias[:, 0] / problem.bias_scale if problem.bias_penalty is not None else None
    slope = float(np.abs(gradient).max())
    return Found(
        float(value), product @ product.T, mu.T @ mu, product @ mu, bias, layers, features, slope
    )
