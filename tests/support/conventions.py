"""What papers and other tools compute, each by the formula of its own code, in float64 with NumPy.

Nothing here is ours. W and M have a row for each class. "Overall" is the mean of all rows, which is
that of the class means just where classes have equally many rows.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True, eq=False)
class Rows:
    """What a tool is given: features (N, d), labels of classes that are all there, and W h + b."""

    features: np.ndarray
    labels: np.ndarray
    weight: np.ndarray
    bias: np.ndarray

    @cached_property
    def counts(self) -> np.ndarray:
        return np.bincount(self.labels)

    @property
    def num_classes(self) -> int:
        return len(self.counts)

    @property
    def num_features(self) -> int:
        return self.features.shape[1]

    @property
    def by_class(self) -> list[np.ndarray]:
        return [self.features[self.labels == c] for c in range(self.num_classes)]

    @cached_property
    def means(self) -> np.ndarray:
        return np.stack([h.mean(0) for h in self.by_class])

    @property
    def center(self) -> np.ndarray:
        return self.means.mean(0)

    @property
    def overall(self) -> np.ndarray:
        return self.features.mean(0)

    @property
    def around_center(self) -> np.ndarray:
        return self.means - self.center

    @property
    def around_overall(self) -> np.ndarray:
        return self.means - self.overall

    @cached_property
    def residuals(self) -> np.ndarray:
        return self.features - self.means[self.labels]

    @property
    def within(self) -> np.ndarray:
        """Sw, divided by N."""
        return self.residuals.T @ self.residuals / len(self.labels)

    @property
    def spreads(self) -> np.ndarray:
        """E|h - mu_c|^2 of each class."""
        return np.bincount(self.labels, np.square(self.residuals).sum(1)) / self.counts

    @property
    def equal_shares(self) -> np.ndarray:
        return np.full(self.num_classes, 1 / self.num_classes)

    @property
    def shares(self) -> np.ndarray:
        return self.counts / len(self.labels)

    @property
    def decided(self) -> np.ndarray:
        return (self.features @ self.weight.T + self.bias).argmax(1)

    @property
    def nearest(self) -> np.ndarray:
        return np.linalg.norm(self.features[:, None] - self.means, axis=2).argmin(1)


# NC1


def pinv(rows: Rows, means: np.ndarray, shares: np.ndarray) -> float:
    """tr(Sw Sb+), Sb of these centered means with these weights."""
    inverse = np.linalg.pinv(means.T @ (shares[:, None] * means), rcond=1e-10, hermitian=True)
    return float(np.trace(rows.within @ inverse))


def pinv_over_classes(rows: Rows, means: np.ndarray) -> float:
    return pinv(rows, means, rows.equal_shares) / rows.num_classes


def trace_between(means: np.ndarray) -> float:
    return float(np.square(means).sum() / len(means))


def ratio(rows: Rows) -> float:
    return float(np.trace(rows.within)) / trace_between(rows.around_center)


def share_within(within: float, means: np.ndarray) -> float:
    return within / (within + trace_between(means))


def cdnv(rows: Rows, spreads: np.ndarray) -> float:
    i, j = np.triu_indices(rows.num_classes, k=1)
    squared_distances = np.square(rows.means[i] - rows.means[j]).sum(1)
    return float(np.mean((spreads[i] + spreads[j]) / 2 / squared_distances))


def raw_spreads(rows: Rows) -> np.ndarray:
    """Galanti et al.: E|h|^2 - |E h|^2."""
    raw = np.array([np.square(h).sum(1).mean() for h in rows.by_class])
    return np.abs(raw - np.square(rows.means).sum(1))


def unbiased_spreads(rows: Rows) -> np.ndarray:
    return rows.spreads * rows.counts / (rows.counts - 1)


def collapse_index(rows: Rows, means: np.ndarray, shares: np.ndarray) -> float:
    """1 - tr(St+ Sb) / min(d, C-1), St = Sw + Sb."""
    between = means.T @ (shares[:, None] * means)
    explained = np.trace(np.linalg.pinv(rows.within + between) @ between)
    return float(1 - explained / min(rows.num_features, rows.num_classes - 1))


def within_class_variability(rows: Rows) -> float:
    """kowalski: tr(Sw (T/C)+) / C, where T, of all rows around their mean, takes in Sw."""
    h = rows.features - rows.overall
    total = h.T @ h / rows.num_classes
    return float(np.trace(np.linalg.solve(total, rows.within)) / rows.num_classes)


# NC2


def equinorm(vectors: np.ndarray) -> float:
    """By torch.std, whose default is ddof 1."""
    norms = np.linalg.norm(vectors, axis=1)
    return float(norms.std(ddof=1) / norms.mean())


def coherence(vectors: np.ndarray) -> float:
    """Mean of |cos + 1/(C-1)|."""
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    i, j = np.triu_indices(len(vectors), k=1)
    return float(np.abs((units @ units.T)[i, j] + 1 / (len(vectors) - 1)).mean())


def to_etf(a: np.ndarray, b: np.ndarray) -> float:
    """Distance of the normalized product to the ETF's Gram matrix."""
    product, count = a @ b.T, len(a)
    ideal = (np.eye(count) - 1 / count) / math.sqrt(count - 1)
    return float(np.linalg.norm(product / np.linalg.norm(product) - ideal))


def log_variation(means: np.ndarray) -> float:
    """|std/mean| of log(1/distance) over the pairs of normalized means."""
    units = means / np.linalg.norm(means, axis=1, keepdims=True)
    i, j = np.triu_indices(len(means), k=1)
    logs = -np.log(np.linalg.norm(units[i] - units[j], axis=1))
    return float(abs(logs.std() / logs.mean()))


# NC3


def alignment(weight: np.ndarray, means: np.ndarray) -> float:
    """Distance of normalized W and M, not squared."""
    return float(np.linalg.norm(weight / np.linalg.norm(weight) - means / np.linalg.norm(means)))


def uniform_duality(weight: np.ndarray, means: np.ndarray) -> float:
    """Standard deviation of cos(w_c, m_c), ddof 1."""
    norms = np.linalg.norm(weight, axis=1) * np.linalg.norm(means, axis=1)
    return float(((weight * means).sum(1) / norms).std(ddof=1))


def bias_term(rows: Rows, center: np.ndarray) -> float:
    """|W muG + b|, not centered."""
    return float(np.linalg.norm(rows.weight @ center + rows.bias))


def less_mean_row(weight: np.ndarray) -> np.ndarray:
    return weight - weight.mean(0)


# NC4


def agreement(rows: Rows) -> float:
    return float(np.mean(rows.decided == rows.nearest))


def agreement_without_bias(rows: Rows) -> float:
    return float(np.mean((rows.features @ rows.weight.T).argmax(1) == rows.nearest))
