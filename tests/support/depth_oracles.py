"""Independent float64 reference for the measures of layers, deep linear heads and language models.

Written from the papers' definitions with numpy and scipy: two passes over the rows, loops over classes
and pairs, no shared code with the library under test. Slow and obvious on purpose.

Rows h (N, d) with labels y of classes that are all seen; W (out, in) is the weight of a layer.
"""

import math

import numpy as np
import scipy.linalg


def class_means(h: np.ndarray, y: np.ndarray) -> np.ndarray:
    """mu_c, one per row."""
    return np.stack([h[y == c].mean(0) for c in np.unique(y)])


def spreads(h: np.ndarray, y: np.ndarray) -> np.ndarray:
    """v_c, the average squared distance of a class's rows to their mean."""
    return np.array([((h[y == c] - h[y == c].mean(0)) ** 2).sum(1).mean() for c in np.unique(y)])


def within_share(h: np.ndarray, y: np.ndarray) -> float:
    """tr Sw / (tr Sw + tr Sb): pooled rows, unweighted muG."""
    means = class_means(h, y)
    within = sum(np.sum((row - means[label]) ** 2) for row, label in zip(h, y, strict=True)) / len(h)
    between = np.mean([np.sum((mean - means.mean(0)) ** 2) for mean in means])
    return float(within / (within + between))


def within_share_classwise(h: np.ndarray, y: np.ndarray) -> float:
    """Averages over classes, around the mean of all rows (Rangamani et al. 2023)."""
    within = np.mean(spreads(h, y))
    between = np.mean([np.sum((mean - h.mean(0)) ** 2) for mean in class_means(h, y)])
    return float(within / (within + between))


def separation(h: np.ndarray, y: np.ndarray) -> float:
    """tr(Sw Sb^+) with Sb = (1/C) sum_c m_c m_c^T, whose rank is at most C - 1 (He & Su 2023)."""
    means = class_means(h, y)
    centered, residuals = means - means.mean(0), h - means[y]
    values, vectors = np.linalg.eigh(centered.T @ centered / len(means))
    kept = min(len(means) - 1, h.shape[1])
    values, vectors = values[::-1][:kept], vectors[:, ::-1][:, :kept]
    return float(((residuals @ vectors) ** 2).mean(0) @ (1 / values))


def effective_rank(h: np.ndarray) -> float:
    """exp(entropy) of the shares of the singular values of the centered rows (Roy & Vetterli 2007)."""
    values = np.linalg.svd(h - h.mean(0), compute_uv=False)
    values = values[values > np.finfo(np.float32).eps * np.linalg.norm(h)]
    shares = values / values.sum()
    return float(math.exp(-sum(p * math.log(p) for p in shares)))


def stable_rank(weight: np.ndarray) -> float:
    """Sum of the squared singular values over the largest of them."""
    squares = np.linalg.svd(weight, compute_uv=False) ** 2
    return float(squares.sum() / squares[0])


def subspace_alignment(weight: np.ndarray, means: np.ndarray, rank: int) -> float:
    """Average cosine of the principal angles between two singular subspaces (Rangamani et al. 2023)."""
    right = np.linalg.svd(weight)[2][:rank]
    left = np.linalg.svd(means.T)[0][:, :rank]
    return float(np.cos(scipy.linalg.subspace_angles(right.T, left)).mean())


def subspace_chance(num_features: int, rank: int, draws: int, rng: np.random.Generator) -> float:
    """The average of draws of two random subspaces."""
    values = []
    for _ in range(draws):
        one, other = rng.standard_normal((2, num_features, rank))
        values.append(np.cos(scipy.linalg.subspace_angles(one, other)).mean())
    return float(np.mean(values))


def means_condition(h: np.ndarray, y: np.ndarray) -> float:
    """The condition number of the uncentered class means (Sukenik et al. 2023, DNC2)."""
    return float(np.linalg.cond(class_means(h, y)))


def weights_means_angle(weight: np.ndarray, means: np.ndarray) -> float:
    """Norm-weighted average of each row's angle to the closest mean, in degrees (DNC3)."""
    total = 0.0
    for row in weight:
        angles = []
        for mean in means:
            along = row @ mean / np.linalg.norm(mean)
            across = np.linalg.norm(row - along * mean / np.linalg.norm(mean))
            angles.append(math.degrees(math.atan2(across, along)))
        total += np.linalg.norm(row) * min(angles)
    return total / sum(np.linalg.norm(row) for row in weight)


def separation_law(separations: list[float]) -> tuple[float, float, float, float]:
    """rho, log D_0, residual and correlation (He & Su 2023)."""
    depth, logs = np.arange(len(separations)), np.log(separations)
    slope, start = np.polyfit(depth, logs, 1)
    residual = np.sqrt(np.mean((logs - start - slope * depth) ** 2))
    return float(np.exp(slope)), float(start), float(residual), float(np.corrcoef(depth, logs)[0, 1])


def frame_distance(left: np.ndarray, right: np.ndarray, simplex: bool) -> float:
    """| X/|X|_F - T/|T|_F |_F of X = left right^T, T the identity or the simplex ETF's Gram matrix."""
    count = len(left)
    product, target = np.empty((count, count)), np.empty((count, count))
    for i in range(count):
        for j in range(count):
            product[i, j] = left[i] @ right[j]
            target[i, j] = (i == j) - simplex / count
    return float(np.linalg.norm(product / np.linalg.norm(product) - target / np.linalg.norm(target)))


def log_distances(rows: np.ndarray) -> np.ndarray:
    """-log |u_i - u_j| of all pairs i < j of rows, u = x / |x| (Wu & Papyan 2024, GNC2)."""
    units = [row / np.linalg.norm(row) for row in rows]
    pairs = [(i, j) for i in range(len(units)) for j in range(i + 1, len(units))]
    return np.array([-math.log(np.linalg.norm(units[i] - units[j])) for i, j in pairs])


def duality_cosines(weight: np.ndarray, centered: np.ndarray) -> np.ndarray:
    """cos(w_c, m_c) of each class (Wu & Papyan 2024, UNC3)."""
    pairs = zip(weight, centered, strict=True)
    return np.array([w @ m / (np.linalg.norm(w) * np.linalg.norm(m)) for w, m in pairs])


def cdnv_terms(h: np.ndarray, y: np.ndarray, power: int) -> np.ndarray:
    """(v_i + v_j) / (2 |mu_i - mu_j|^power) of all pairs i < j."""
    means, v = class_means(h, y), spreads(h, y)
    pairs = [(i, j) for i in range(len(v)) for j in range(i + 1, len(v))]
    return np.array(
        [(v[i] + v[j]) / (2 * np.linalg.norm(means[i] - means[j]) ** power) for i, j in pairs]
    )
