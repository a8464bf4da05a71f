"""Rows with several tags, and every key that they should give."""

from dataclasses import dataclass

import numpy as np
import torch
from support import tag_oracles
from support.oracles import reference_measures

WITHOUT_NC4 = ("nc0/accuracy", "nc4/ncc_mismatch", "nc4/ncc_accuracy", "nc1/variability_collapse_index")


@dataclass(frozen=True)
class Tagged:
    """Rows, and what scored them.

    Attributes:
        h: Features.
        t: Multi-hot tags.
        weight: W.
        bias: b.
    """

    h: torch.Tensor
    t: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor

    @property
    def scores(self):
        return self.h @ self.weight.to(self.h).T + self.bias.to(self.h)

    def __getitem__(self, which):
        return Tagged(self.h[which], self.t[which], self.weight, self.bias)

    def __len__(self):
        return len(self.h)

    def reference(self, pairs_have_means=True, threshold=None):
        parts = (self.h, self.t, self.weight, self.bias, self.scores)
        arrays = [part.double().numpy() for part in parts]
        return reference(*arrays, pairs_have_means, threshold)


def drawn(seed=0, num_tags=6, d=5, rows=240, most=4, dtype=torch.float32, **scales):
    """Rows of one to ``most`` tags, and a head of some use."""
    found = tag_oracles.drawn(seed, num_tags, d, rows, most, **scales)
    rng = np.random.default_rng([seed, 1])
    order = rng.permutation(rows)
    singles = [found.having(k).mean(0) for k in range(num_tags)]
    weight = np.array(singles) + 0.3 * rng.standard_normal((num_tags, d))
    return Tagged(
        torch.tensor(found.h[order], dtype=dtype), torch.tensor(found.t[order]),
        torch.tensor(weight), torch.tensor(rng.standard_normal(num_tags)),
    )  # fmt: skip


def reference(h, t, weight, bias, scores, pairs_have_means=True, threshold=None):
    """Every key that is logged by itself, by loops over rows in float64."""
    rows = tag_oracles.Rows(h, t)
    number = t.sum(1).astype(int)
    single = number == 1
    found = reference_measures(h[single], t[single].argmax(1), t.shape[1], weight=weight, bias=bias)
    found = {key: value for key, value in found.items() if key not in WITHOUT_NC4}
    for m in range(2, 9):
        if (number == m).any():
            found[f"tags/rows_{m}"] = int((number == m).sum())
            found[f"tags/scale_{m}"], found[f"tags/residual_{m}"] = tag_oracles.fit(rows, m)
    if pairs_have_means:
        found["tags/angle"] = tag_oracles.angle(rows)
        found["tags/angle_ratio"] = tag_oracles.angle(rows) / tag_oracles.unmatched(rows)
        around = tag_oracles.angle(rows, rows.center) / tag_oracles.unmatched(rows, rows.center)
        found["tags/angle_ratio_centered"] = around
        found["tags/pairs_seen"] = len(rows.pairs)
    correct, overlap = [], []
    for z, tags in zip(scores, t.astype(bool), strict=True):
        decided = set(np.argsort(-z)[: tags.sum()])
        if threshold is not None:
            decided = set(np.flatnonzero(1 / (1 + np.exp(-z)) > threshold))
        correct.append(decided == set(np.flatnonzero(tags)))
        shares = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
        overlap.append(shares[tags].sum())
    return {**found, "tags/subset_accuracy": np.mean(correct), "tags/iou": np.mean(overlap)}
