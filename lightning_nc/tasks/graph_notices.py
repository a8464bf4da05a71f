"""What to tell the user about several graphs."""

from collections.abc import Mapping

from lightning_nc.tasks.notices import about_outcomes, about_rows
from lightning_nc.values.graphs import GraphEvidence
from lightning_nc.values.outcome import Outcome


def about_graphs(evidence: GraphEvidence, outcomes: Mapping[str, Outcome]) -> dict[str, str]:
    """Sentences on what is measured instead of the ordinary keys, and on graphs that do not count.

    Args:
        evidence: What the measures were computed from, all ranks together.
        outcomes: What has become of them, by key.

    Returns:
        Texts by the kind of notice; of a layer only what is its own.
    """
    texts = about_outcomes(outcomes)
    if evidence.tallies is None:
        return texts | _about_values(evidence)
    texts["several graphs"] = (
        f"The rows are the nodes of {evidence.num_graphs:,} graphs. Pooled, they have other class "
        "means than each graph: nc0/* to nc4/*, and what else rests on one set of class means, are not "
        "logged; graph/* are averages over graphs of what each gives. For the ordinary keys, measure "
        "one graph: a loader that holds it alone. Are these parts of one graph (clusters, samples)? "
        "Then measure that as a whole."
    )
    if evidence.single:
        texts["single"] = (
            f"{evidence.single:,} of {evidence.num_graphs:,} graphs have nodes of fewer than two "
            "classes that count, and nothing to compare: they are left out of graph/*."
        )
    if evidence.incomplete:
        texts["incomplete"] = (
            f"{evidence.incomplete:,} of {evidence.num_graphs:,} graphs lack a class of "
            f"{len(evidence.class_counts)}: they are measured on the classes that they have."
        )
    texts |= about_rows(evidence.tallies, len(evidence.class_counts))
    return texts | _about_values(evidence)


def _about_values(evidence: GraphEvidence) -> dict[str, str]:
    """Of graphs of several classes that have no value all the same."""
    expected = evidence.num_graphs - evidence.single
    missing = expected - int(evidence.graphs.count("within_between_ratio_log10"))
    if missing <= 0:
        return {}
    return {
        "no value": (
            f"{missing:,} of {evidence.num_graphs:,} graphs have no NC1 and are left out of its "
            "average: their features are NaN, equal within each class, or have the same mean in all "
            "classes, or too few nodes have neighbors."
        )
    }
