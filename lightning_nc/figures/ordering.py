"""An order of the classes in which similar ones are neighbors."""

import numpy as np


def similarity_order(cosines: np.ndarray) -> list[int]:
    """Order items by average linkage of their similarities, similar ends next to each other.

    Follows chains of nearest neighbors (Murtagh 1983), so that 2,048 classes take well under a second.
    The order is a function of the cosines alone, rounded to 6 digits: at collapse, where all of them
    are equal, it is the order of the classes.

    Args:
        cosines: A symmetric matrix; NaN counts as less similar than anything.

    Returns:
        The indices in their new order.

    Example:
        >>> cosines = np.array([[1, 0, 0.9, 0], [0, 1, 0, 0.8], [0.9, 0, 1, 0.1], [0, 0.8, 0.1, 1]])
        >>> similarity_order(cosines)
        [0, 2, 3, 1]
    """
    near = np.nan_to_num(np.round(np.asarray(cosines, dtype=np.float64), 6), nan=-2.0)
    np.fill_diagonal(near, -np.inf)
    linkage = near.copy()
    clusters = {i: [i] for i in range(len(near))}
    chain: list[int] = []
    while len(clusters) > 1:
        if not chain:
            chain.append(min(clusters))
        tip = chain[-1]
        nearest = int(linkage[tip].argmax())
        if len(chain) < 2 or linkage[tip, nearest] > linkage[tip, chain[-2]]:
            chain.append(nearest)
            continue
        kept, gone = sorted((chain.pop(), chain.pop()))
        sizes = len(clusters[kept]), len(clusters[gone])
        row = (sizes[0] * linkage[kept] + sizes[1] * linkage[gone]) / sum(sizes)
        linkage[kept], linkage[:, kept] = row, row
        linkage[gone], linkage[:, gone] = -np.inf, -np.inf
        clusters[kept] = _joined(clusters[kept], clusters.pop(gone), near)
    return clusters[0] if clusters else []


def _joined(a: list[int], b: list[int], near: np.ndarray) -> list[int]:
    """Both sequences one after the other, turned so that the ends that meet are similar."""
    turns = [(a, b), (a, b[::-1]), (a[::-1], b), (a[::-1], b[::-1])]
    left, right = max(turns, key=lambda turn: near[turn[0][-1], turn[1][0]])
    return left + right
