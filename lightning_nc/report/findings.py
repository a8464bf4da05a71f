"""What a stage has come to in words: nearest geometries, the worst classes, the worst pairs of tags."""

from collections.abc import Sequence

from torch import Tensor
from torch.linalg import LinAlgError

from lightning_nc.functional.imbalance.nearest import NONE, Ranking
from lightning_nc.functional.imbalance.race import race_as_they_are, race_centered
from lightning_nc.functional.tags import pair_angles, seen_pairs
from lightning_nc.values.errors import UndefinedMeasure
from lightning_nc.values.evidence import ClassEvidence
from lightning_nc.values.recalls import Recalls
from lightning_nc.values.tag_evidence import TagEvidence
from lightning_nc.values.tags import TagStatistics

_WORST = 5


def findings(stage: str, evidence: ClassEvidence, class_names: Sequence[str] | None = None) -> str:
    """Sentences in Markdown.

    Args:
        stage: Its name.
        evidence: What it has come to.
        class_names: Names of all classes, or None for their numbers.

    Returns:
        Of unequal classes the verdict on each center of the class means, and the classes that the
        nearest class center recognizes least; of several tags the pairs farthest from the sum of their
        tags. Empty where neither was measured.

    Example:
        >>> import torch
        >>> from lightning_nc import ClassStatistics
        >>> stats = ClassStatistics.from_batch(torch.eye(3), torch.arange(3), num_classes=3)
        >>> counted = {"recalls": torch.tensor([4.0, 4.0, 4.0, 4.0, 3.0, 4.0])}
        >>> print(findings("val", ClassEvidence(stats, counts=counted), ["ox", "ape", "bee"]))
        **val**: Least recognized by the nearest class center: ape 0.75 (1 row in training).
    """
    if isinstance(evidence, TagEvidence):
        sentences = _farthest(evidence.tags, class_names)
        return f"**{stage}**: {' '.join(sentences)}" if sentences else ""
    if evidence.recalls is None:
        return ""
    sentences = [*_verdicts(evidence), *_worst(evidence.recalls, class_names)]
    return f"**{stage}**: {' '.join(sentences)}" if sentences else ""


def _verdicts(evidence: ClassEvidence) -> list[str]:
    head = evidence.linear_head
    if head is None:
        return []
    try:
        as_they_are, centered = race_as_they_are(head), race_centered(head)
    except (UndefinedMeasure, LinAlgError):
        return []  # the keys say why
    told = (
        f"class means as they are: {_told(as_they_are)}; less the mean of all rows: {_told(centered)}"
    )
    return [f"Nearest geometry, {told}."]


def _told(ranked: Ranking) -> str:
    if ranked.verdict == NONE:
        return ranked.told
    fit = ranked.of(ranked.verdict)
    parameter = "" if fit.value is None else f", {fit.parameter} {fit.value:.3g}"
    return f"{ranked.verdict} at a distance of {fit.rms:.3g}{parameter}"


def _worst(recalls: Recalls, class_names: Sequence[str] | None) -> list[str]:
    """The classes that are recognized least, of those that are not recognized always."""
    share = (recalls.correct / recalls.sampled).nan_to_num(1.0).tolist()
    worst = sorted((value, c) for c, value in enumerate(share) if value < 1)[:_WORST]
    if not worst:
        return []
    rows = recalls.training_counts if recalls.is_whole else None
    named = [
        f"{f'class {c}:' if class_names is None else class_names[c]} {value:.3g}{_rows(rows, c)}"
        for value, c in worst
    ]
    return [f"Least recognized by the nearest class center: {', '.join(named)}."]


def _farthest(tags: TagStatistics, names: Sequence[str] | None) -> list[str]:
    """The pairs of tags with the largest angles."""
    try:
        found = seen_pairs(tags)
    except UndefinedMeasure:
        return []
    angles = pair_angles(found.single_means, found.pair_means, found.pairs).nan_to_num(0.0)
    worst = angles.argsort(descending=True)[:_WORST].tolist()
    pairs, rows = found.tags.tolist(), found.rows.tolist()
    named = [
        f"{' + '.join(_name(tag, names) for tag in pairs[i])} {float(angles[i]):.3g}° "
        f"({rows[i]:,.0f} row{'' if rows[i] == 1 else 's'})"
        for i in worst
        if angles[i] > 0
    ]
    return [f"Farthest from the sum of its tags' means: {', '.join(named)}."] if named else []


def _name(tag: int, names: Sequence[str] | None) -> str:
    return str(tag) if names is None else names[tag]


def _rows(counts: Tensor | None, label: int) -> str:
    if counts is None or label >= len(counts):
        return ""
    number = int(counts[label])
    return f" ({number:,} row{'' if number == 1 else 's'} in training)"
