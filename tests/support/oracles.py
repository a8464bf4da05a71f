"""Independent float64 reference for the logged measures of neural collapse.

Written from the papers' conventions with numpy only: two passes over the data, loops over
classes and pairs, no shared code with the library under test. Slow and obvious on purpose.

Symbols, for C seen classes in d dimensions (unseen classes are left out of every formula):

    mu_c  class mean                          n_c  number of rows of class c, N their sum
    muG   unweighted mean of the class means  m_c  = mu_c - muG, the rows of M (C, d)
    Sw    = scatter / N                       Sb   = (1/C) sum_c m_c m_c^T
    W, b  the classifier as it is, W (C, d) not centered

Every standard deviation is the population's (ddof 0). A quotient by zero is NaN.
"""

import math

import numpy as np
import scipy.linalg


def two_pass_statistics(
    features: np.ndarray, target: np.ndarray, num_classes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Count the rows, average them per class, then square what is left around the averages.

    Args:
        features: Rows of finite features, (N, d).
        target: Class of each row, integers in [0, num_classes), (N,).
        num_classes: Number of classes, seen or not.

    Returns:
        counts (num_classes,) int64; means (num_classes, d), 0 for an unseen class; scatter
        (d, d), the pooled within-class sum of outer products; sums_of_squares (num_classes,),
        per class the sum of squared distances to its mean.

    Raises:
        ValueError: If the shapes do not fit or a label is outside [0, num_classes).
    """
    features = np.asarray(features, dtype=np.float64)
    target = np.asarray(target, dtype=np.int64)
    if features.ndim != 2 or target.shape != features.shape[:1]:
        raise ValueError(f"expected (N, d) and (N,), got {features.shape} and {target.shape}")
    if np.any(target < 0) or np.any(target >= num_classes):
        raise ValueError(f"expected labels in [0, {num_classes}), got {np.unique(target)}")
    num_features = features.shape[1]
    counts = np.zeros(num_classes, dtype=np.int64)
    means = np.zeros((num_classes, num_features))
    scatter = np.zeros((num_features, num_features))
    sums_of_squares = np.zeros(num_classes)
    for c in range(num_classes):
        rows = features[target == c]
        counts[c] = len(rows)
        if len(rows) == 0:
            continue
        mean = rows.mean(axis=0)
        means[c] = mean + (rows - mean).mean(axis=0)  # the second term is the first's rounding
        residuals = rows - means[c]
        scatter += residuals.T @ residuals
        sums_of_squares[c] = np.sum(residuals**2)
    return counts, means, scatter, sums_of_squares


def simplex_etf(
    num_classes: int, num_features: int, rng: np.random.Generator | None = None
) -> np.ndarray:
    """Build a simplex equiangular tight frame: unit rows, every pairwise cosine -1/(C-1).

    Args:
        num_classes: Number of rows C, at least 2.
        num_features: Number of columns d, at least C - 1.
        rng: Turns the frame by a random rotation of the d-dimensional space; None leaves it
            in the first C - 1 coordinates.

    Returns:
        The frame, (C, d).

    Raises:
        ValueError: If there are fewer than 2 classes or fewer than C - 1 features.
    """
    if num_classes < 2:
        raise ValueError(f"a simplex ETF needs at least 2 classes, got {num_classes}")
    if num_features < num_classes - 1:
        raise ValueError(
            f"a simplex ETF of {num_classes} classes needs at least {num_classes - 1} features, "
            f"got {num_features}"
        )
    # Column k holds (1, ..., 1, -k, 0, ..., 0) / sqrt(k (k+1)): an orthonormal basis of the
    # vectors that sum to 0, so that the Gram matrix of the rows is I - J/C.
    frame = np.zeros((num_classes, num_features))
    for k in range(1, num_classes):
        frame[:k, k - 1] = 1.0 / math.sqrt(k * (k + 1))
        frame[k, k - 1] = -k / math.sqrt(k * (k + 1))
    frame *= math.sqrt(num_classes / (num_classes - 1))
    if rng is None:
        return frame
    rotation, upper = np.linalg.qr(rng.standard_normal((num_features, num_features)))
    rotation = rotation * np.where(np.diag(upper) < 0, -1.0, 1.0)  # uniform over all of them
    if np.linalg.det(rotation) < 0:
        rotation[:, 0] = -rotation[:, 0]
    return frame @ rotation.T


def quotient(numerator: float, denominator: float) -> float:
    """Divide; NaN where the denominator is 0 and the measure has no value."""
    if denominator == 0:
        return math.nan
    return float(numerator / denominator)


def center_means(means: np.ndarray) -> np.ndarray:
    """m_c = mu_c - muG, muG the unweighted mean of the class means (Papyan et al. 2020)."""
    centered = means - means.mean(axis=0)
    return centered - centered.mean(axis=0)  # again: what rounding of muG left


def normalize(matrix: np.ndarray) -> np.ndarray:
    """A / |A|_F, also for a vector; NaN where A is 0."""
    norm = np.linalg.norm(matrix)
    if norm == 0:
        return np.full_like(matrix, np.nan)
    return matrix / norm


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """a.b / (|a| |b|)."""
    return float(normalize(a) @ normalize(b))


def pairwise_cosines(rows: np.ndarray) -> np.ndarray:
    """Cosines of all pairs i < j of rows."""
    count = len(rows)
    return np.array([cosine(rows[i], rows[j]) for i in range(count) for j in range(i + 1, count)])


def etf_gram(num_classes: int) -> np.ndarray:
    """(I - J/C) / sqrt(C-1), the simplex ETF's Gram matrix, Frobenius norm 1 (Zhu et al. 2021)."""
    centering = np.eye(num_classes) - np.ones((num_classes, num_classes)) / num_classes
    return centering / math.sqrt(num_classes - 1)


def rank_of_means(means: np.ndarray) -> int:
    """Singular values of M above float32 rounding of the uncentered means: eps32 |mu|_F."""
    singular_values = np.linalg.svd(center_means(means), compute_uv=False)
    tolerance = float(np.finfo(np.float32).eps) * np.linalg.norm(means)
    return int(np.sum(singular_values > tolerance))


def within_between_pinv(means: np.ndarray, scatter: np.ndarray, num_samples: int) -> float:
    """tr(Sw Sb^+) / C, Sb^+ cut at the rank of the means (Papyan, Han & Donoho 2020, NC1)."""
    num_classes = len(means)
    within = scatter / num_samples
    rank = rank_of_means(means)
    if rank == 0:
        return math.nan
    # M = U S V^T, so Sb = V (S^2/C) V^T and Sb^+ = V (C/S^2) V^T over the kept directions.
    _, singular_values, directions = np.linalg.svd(center_means(means), full_matrices=False)
    trace = 0.0
    for j in range(rank):
        spread = directions[j] @ within @ directions[j]
        trace += spread * num_classes / singular_values[j] ** 2
    return float(trace / num_classes)


def trace_between(means: np.ndarray) -> float:
    """Tr Sb = (1/C) sum_c |m_c|^2 (Papyan et al. 2020)."""
    return float(np.sum(center_means(means) ** 2) / len(means))


def within_between_ratio(means: np.ndarray, sums_of_squares: np.ndarray, num_samples: int) -> float:
    """Tr Sw / tr Sb (Tirer et al. 2023; Kothapalli et al. 2023, their NC1 with a tilde)."""
    return quotient(np.sum(sums_of_squares) / num_samples, trace_between(means))


def within_between_ratio_debiased(
    counts: np.ndarray, means: np.ndarray, sums_of_squares: np.ndarray
) -> float | None:
    """The ratio less the sampling noise v_c/n_c of each class mean (this project's own).

    [sum_c ss_c / (N - C)] / [tr Sb - (1 - 1/C)(1/C) sum_c v_c/n_c] with v_c = ss_c/(n_c - 1);
    None where a class has fewer than 2 rows or the denominator is not positive.
    """
    num_classes = len(means)
    if np.any(counts < 2):
        return None
    within = np.sum(sums_of_squares) / (np.sum(counts) - num_classes)
    noise = 0.0
    for c in range(num_classes):
        variance = sums_of_squares[c] / (counts[c] - 1)
        noise += variance / counts[c]
    between = trace_between(means) - (1 - 1 / num_classes) * noise / num_classes
    if not between > 0:
        return None
    return float(within / between)


def cdnv(counts: np.ndarray, means: np.ndarray, sums_of_squares: np.ndarray) -> float:
    """Mean over i != j of (v_i + v_j) / (2 |mu_i - mu_j|^2), v_c = E|h - mu_c|^2 (Galanti 2022)."""
    variances = sums_of_squares / counts
    values = []
    for i in range(len(means)):
        for j in range(len(means)):
            if i != j:
                squared_distance = np.sum((means[i] - means[j]) ** 2)
                values.append(quotient(variances[i] + variances[j], 2 * squared_distance))
    return float(np.mean(values))


def variability_collapse_index(features: np.ndarray, counts: np.ndarray, means: np.ndarray) -> float:
    """1 - tr(St^+ Sb)/min(d, C-1), Sb with weights n_c/N, St = Sw + Sb (Xu & Liu 2023, VCI)."""
    num_samples, num_features = features.shape
    weights = counts / num_samples
    global_mean = weights @ means
    # With the count-weighted Sb, St is the covariance of all rows: X = U S V^T, centered rows
    # over sqrt(N), gives St^+ = V S^-2 V^T without forming St. A direction counts when it is
    # above what float64 rounding of the uncentered rows can make.
    centered = features - global_mean
    _, singular_values, directions = np.linalg.svd(
        centered / math.sqrt(num_samples), full_matrices=False
    )
    size = np.linalg.norm(features) / math.sqrt(num_samples)
    tolerance = max(num_samples, num_features) * float(np.finfo(np.float64).eps) * size
    if not np.any(singular_values > tolerance):
        return math.nan
    trace = 0.0
    for value, direction in zip(singular_values, directions, strict=True):
        if value > tolerance:
            between = np.sum(weights * ((means - global_mean) @ direction) ** 2)
            trace += between / value**2
    return float(1 - trace / min(num_features, len(means) - 1))


def index_of_rows(rows: np.ndarray, labels: np.ndarray) -> float:
    """1 - tr(St^+ Sb)/min(d, C - 1), by two passes over units of unit variance, from the rows alone."""
    h = rows[:, np.ptp(rows, 0) > 0]
    h = (h - h.mean(0)) / h.std(0)
    means = np.stack([h[labels == c].mean(0) for c in np.unique(labels)])
    between = means.T @ (np.bincount(labels)[:, None] * means) / len(h)
    total = scipy.linalg.pinvh(h.T @ h / len(h), rtol=1e-11)
    return float(1 - np.sum(total * between) / min(h.shape[1], len(means) - 1))


def equinorm(rows: np.ndarray) -> float:
    """Std over mean of the norms |x_c| (Papyan et al. 2020, NC2 equinorm)."""
    norms = np.array([np.linalg.norm(row) for row in rows])
    return quotient(np.std(norms), np.mean(norms))


def equiangularity(rows: np.ndarray) -> float:
    """Std over pairs of cos(x_i, x_j) (Papyan et al. 2020, NC2 equiangularity)."""
    return float(np.std(pairwise_cosines(rows)))


def max_angle(rows: np.ndarray) -> float:
    """Mean over pairs of |cos(x_i, x_j) + 1/(C-1)| (Papyan et al. 2020, NC2 maximal angle)."""
    return float(np.mean(np.abs(pairwise_cosines(rows) + 1 / (len(rows) - 1))))


def etf_distance(rows: np.ndarray) -> float:
    """| X X^T/|X X^T|_F - (I - J/C)/sqrt(C-1) |_F, not squared (Zhu et al. 2021, NC2)."""
    return float(np.linalg.norm(normalize(rows @ rows.T) - etf_gram(len(rows))))


def log_distance_variation(rows: np.ndarray) -> float:
    """Std/|mean| over pairs of log(1/|u_i - u_j|), u = x/|x| (Wu & Papyan 2024, GNC2)."""
    units = [normalize(row) for row in rows]
    values = []
    for i in range(len(units)):
        for j in range(i + 1, len(units)):
            distance = np.linalg.norm(units[i] - units[j])
            values.append(math.nan if distance == 0 else math.log(1 / distance))
    return quotient(np.std(values), abs(np.mean(values)))


def self_duality(weight: np.ndarray, centered: np.ndarray) -> float:
    """| W/|W|_F - M/|M|_F |_F squared (Papyan et al. 2020, NC3)."""
    return float(np.sum((normalize(weight) - normalize(centered)) ** 2))


def duality_etf_distance(weight: np.ndarray, centered: np.ndarray) -> float:
    """| W M^T/|W M^T|_F - (I - J/C)/sqrt(C-1) |_F, not squared (Zhu et al. 2021, NC3)."""
    return float(np.linalg.norm(normalize(weight @ centered.T) - etf_gram(len(weight))))


def uniform_duality(weight: np.ndarray, centered: np.ndarray) -> float:
    """Std over classes of cos(w_c, m_c) (Wu & Papyan 2024, UNC3; theirs over the mean)."""
    return float(np.std([cosine(w, m) for w, m in zip(weight, centered, strict=True)]))


def bias_collapse(weight: np.ndarray, bias: np.ndarray | None, means: np.ndarray) -> float:
    """| (I - 11^T/C)(W muG + b) |, b = 0 without one (Zhu et al. 2021; theirs not centered)."""
    global_logits = weight @ means.mean(axis=0)
    if bias is not None:
        global_logits = global_logits + bias
    return float(np.linalg.norm(global_logits - global_logits.mean()))


def nearest_class_center(features: np.ndarray, means: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Label of argmin_c |h - mu_c| over the seen classes (Papyan et al. 2020, NC4)."""
    nearest = np.zeros(len(features), dtype=np.int64)
    for i, row in enumerate(features):
        squared_distances = np.sum((row - means) ** 2, axis=1)
        nearest[i] = labels[np.argmin(squared_distances)]
    return nearest


def share_equal(a: np.ndarray, b: np.ndarray) -> float:
    """Share of the rows on which two labelings agree (accuracy; Rangamani et al. 2023 for NCC)."""
    if a.shape != b.shape:
        raise ValueError(f"expected labelings of the same rows, got {a.shape} and {b.shape}")
    return int(np.sum(a == b)) / len(a)


def share_different(a: np.ndarray, b: np.ndarray) -> float:
    """Share of the rows on which two labelings disagree (Papyan et al. 2020, NC4)."""
    if a.shape != b.shape:
        raise ValueError(f"expected labelings of the same rows, got {a.shape} and {b.shape}")
    return int(np.sum(a != b)) / len(a)


def _weight_measures(
    means: np.ndarray, weight: np.ndarray, bias: np.ndarray | None
) -> dict[str, float]:
    """Collect what needs the classifier, for two seen classes or more."""
    centered = center_means(means)
    values = {
        "nc2/weights_equinorm": equinorm(weight),
        "nc2/weights_max_angle": max_angle(weight),
        "nc2/weights_etf_distance": etf_distance(weight),
        "nc3/self_duality": self_duality(weight, centered),
        "nc3/duality_etf_distance": duality_etf_distance(weight, centered),
        "nc3/uniform_duality": uniform_duality(weight, centered),
        "nc3/bias_collapse": bias_collapse(weight, bias, means),
    }
    if len(means) > 2:  # two rows have one cosine: no spread
        values["nc2/weights_equiangularity"] = equiangularity(weight)
    return values


def reference_measures(
    features: np.ndarray,
    target: np.ndarray,
    num_classes: int,
    *,
    predicted: np.ndarray | None = None,
    weight: np.ndarray | None = None,
    bias: np.ndarray | None = None,
) -> dict[str, float]:
    """Compute every logged measure of one stage, keyed without the stage.

    Unseen classes are left out of every formula, with their rows of weight and bias. A key
    without meaning is left out: with one class seen all but `nc0/`, with two those of the
    means' geometry that are 0 by construction. Coincident means give NaN.

    Args:
        features: Rows of finite features, (N, d).
        target: Class of each row, integers in [0, num_classes), (N,).
        num_classes: Number of classes, seen or not.
        predicted: The network's decision per row, (N,); None leaves out what needs it.
        weight: The classifier's weight, (num_classes, d); None leaves out what needs it.
        bias: The classifier's bias, (num_classes,); None is 0. Read only with a weight.

    Returns:
        The values by key.
    """
    features = np.asarray(features, dtype=np.float64)
    target = np.asarray(target, dtype=np.int64)
    all_counts, all_means, scatter, all_sums = two_pass_statistics(features, target, num_classes)
    labels = np.flatnonzero(all_counts)
    counts, means, sums_of_squares = all_counts[labels], all_means[labels], all_sums[labels]
    num_samples, seen = len(features), len(labels)

    values: dict[str, float] = {
        "nc0/num_samples": float(num_samples),
        "nc0/classes_seen": float(seen),
    }
    if predicted is not None and num_samples > 0:
        values["nc0/accuracy"] = share_equal(np.asarray(predicted), target)
    if seen < 2:
        return values

    values["nc1/within_between_pinv"] = within_between_pinv(means, scatter, num_samples)
    values["nc1/within_between_ratio"] = within_between_ratio(means, sums_of_squares, num_samples)
    debiased = within_between_ratio_debiased(counts, means, sums_of_squares)
    if debiased is not None:
        values["nc1/within_between_ratio_debiased"] = debiased
    values["nc1/cdnv"] = cdnv(counts, means, sums_of_squares)
    values["nc1/rank"] = float(rank_of_means(means))
    values["nc1/variability_collapse_index"] = variability_collapse_index(features, counts, means)

    if seen > 2:  # two centered means are opposite and equally long: always 0
        centered = center_means(means)
        values["nc2/means_equinorm"] = equinorm(centered)
        values["nc2/means_equiangularity"] = equiangularity(centered)
        values["nc2/means_max_angle"] = max_angle(centered)
        values["nc2/means_etf_distance"] = etf_distance(centered)
        values["nc2/means_log_distance_variation"] = log_distance_variation(centered)

    if weight is not None:
        seen_weight = np.asarray(weight, dtype=np.float64)[labels]
        seen_bias = None if bias is None else np.asarray(bias, dtype=np.float64)[labels]
        values.update(_weight_measures(means, seen_weight, seen_bias))

    nearest = nearest_class_center(features, means, labels)
    if predicted is not None:
        values["nc4/ncc_mismatch"] = share_different(np.asarray(predicted), nearest)
    values["nc4/ncc_accuracy"] = share_equal(nearest, target)
    return values
