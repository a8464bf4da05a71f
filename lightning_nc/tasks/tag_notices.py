"""What to tell the user about tags: rows that are missing, pairs, and another task that fits better."""

from collections.abc import Mapping

from lightning_nc.stream.tag_accumulator import MOST_SLOTS, pairs_have_means
from lightning_nc.tasks.notices import (
    about_covariance,
    about_non_finite,
    lost_with_them,
    notices,
    rows,
    without_lost,
)
from lightning_nc.tasks.task import Settings
from lightning_nc.values.errors import summarize
from lightning_nc.values.outcome import Fate, Outcome
from lightning_nc.values.tag_evidence import TagEvidence
from lightning_nc.values.tags import MOST_TAGS, TagTallies


def tag_notices(
    evidence: TagEvidence, outcomes: Mapping[str, Outcome], settings: Settings
) -> dict[str, str]:
    """Sentences on what was left out and why.

    Args:
        evidence: What the measures were computed from, all ranks together.
        outcomes: What has become of them, by key.
        settings: What the user has chosen.

    Returns:
        Texts by the kind of notice, so that each kind can be said once.
    """
    outcomes = {
        key: outcome
        for key, outcome in outcomes.items()
        if outcome.fate is not Fate.NOT_HERE or key in settings.measures
    }
    texts = notices(evidence, without_lost(evidence, outcomes))
    if "absent" in texts:
        texts["absent"] = _about_absent(evidence)
    if "one_class" in texts:
        texts["one_class"] = (
            "Only one tag has rows of its own that count, so that neither NC1 to NC3 nor sets of tags "
            "have means to be compared: only nc0/, tags/rows, tags/subset_accuracy and tags/iou are "
            "logged."
        )
    if evidence.is_restricted:
        del texts["absent"]
        texts["min_count"] = _about_small_tags(evidence, settings.min_count, outcomes)
    if settings.covariance == "auto" and not evidence.lacks_scatter:
        texts |= about_covariance(evidence.all_classes, outcomes)
    if evidence.tag_tallies is not None:
        texts |= _about_rows(evidence.tag_tallies)
    return texts | _about_sets(evidence)


def _about_absent(evidence: TagEvidence) -> str:
    missing = (~evidence.all_classes.seen).nonzero().flatten().tolist()
    return (
        f"No row has only {summarize(missing, 'tag', 'tags')}: NC1 to NC3 are of the other tags, and "
        "sets with these have no mean that is predicted. Are the data sorted and cut short, or is such "
        "a tag never alone?"
    )


def _about_small_tags(evidence: TagEvidence, min_count: int, outcomes: Mapping[str, Outcome]) -> str:
    missing = (~evidence.all_classes.seen).nonzero().flatten().tolist()
    text = (
        f"{summarize(missing, 'tag', 'tags').capitalize()} with fewer than min_count = {min_count} "
        "rows of their own, with no other tag: NC1 to NC3 are of the other tags, and sets with these "
        "have no mean that is predicted."
    )
    lost = lost_with_them(evidence, outcomes)
    if not lost:
        return text
    return (
        f"{text} The pooled covariance holds the rows of these tags as well: {', '.join(lost)} left "
        "out; nc1/cdnv and nc1/within_between_ratio do without it."
    )


def _about_rows(tallies: TagTallies) -> dict[str, str]:
    texts = {}
    if tallies.non_finite:
        texts["non_finite"] = about_non_finite(tallies.non_finite)
    if tallies.without:
        texts["no_tag"] = (
            f"{rows(tallies.without)} without a tag left out: pick-all-labels has no loss for them. Is "
            "a tag for nothing missing, or are they not labeled?"
        )
    if tallies.not_binary:
        texts["not_binary"] = (
            f"{rows(tallies.not_binary)} with a label that is neither 0 nor 1 left out. Are these soft "
            "labels (mixup), or is a part of the labels unknown? Pass zeros and ones, in the callback "
            "by a `target` function."
        )
    if tallies.too_many:
        texts["many_tags"] = (
            f"{rows(tallies.too_many)} with more than {MOST_TAGS} tags: they count for "
            "tags/subset_accuracy and tags/iou, and for nothing else."
        )
    return texts


def _about_sets(evidence: TagEvidence) -> dict[str, str]:
    tags, texts = evidence.tags, {}
    if not pairs_have_means(tags.num_tags):
        texts["pairs"] = (
            f"{tags.num_tags} tags have more pairs than the {MOST_SLOTS:,} that a mean is kept of: "
            "tags/angle and tags/angle_ratio are left out; tags/scale and tags/residual rest on "
            "co-moments."
        )
    if evidence.num_samples and not tags.moments and not _has_too_many(evidence):
        texts["single_tags"] = (
            "Every row has exactly one tag, so that nothing is logged of sets of tags. If that is so "
            "in all data, task='multiclass' with class numbers (target.argmax(-1)) measures NC1 to NC4."
        )
    return texts


def _has_too_many(evidence: TagEvidence) -> bool:
    return evidence.tag_tallies is not None and bool(evidence.tag_tallies.too_many)
