"""What to tell the user about several graphs."""

from collections.abc import Mapping, Sequence

from lightning_nc.tasks.notices import about_outcomes, about_rows
from lightning_nc.values.graphs import QUANTITIES, GraphEvidence
from lightning_nc.values.outcome import Outcome


def several(evidence: GraphEvidence) -> str:
    """A sentence on what is measured in the place of the ordinary keys: good to know, and no fault."""
    return (
        f"The rows are the nodes of {evidence.num_graphs:,} graphs: graph/* are averages over graphs "
        "of what each gives. Pooled, nodes have other class means than in each graph, so nc0/* to "
        "nc4/* are not logged; for these, measure one graph alone in a loader."
    )


def about_graphs(
    evidence: GraphEvidence, outcomes: Mapping[str, Outcome], missing: Sequence[str] = ()
) -> dict[str, str]:
    """Sentences on keys that several graphs do not have, and on graphs that do not count.

    Args:
        evidence: What the measures were computed from, all ranks together.
        outcomes: What has become of them, by key.
        missing: Keys that were asked for by name and rest on one set of class means.

    Returns:
        Texts by the kind of notice; of a layer only what is its own.
    """
    # where no graph has two classes, that says it of all keys
    texts = {} if evidence.single == evidence.num_graphs else about_outcomes(outcomes)
    if evidence.tallies is None:
        return texts | _about_values(evidence)
    if missing:
        named = f"{', '.join(missing[:3])}{f' and {len(missing) - 3} more' if missing[3:] else ''}"
        texts["several graphs"] = (
            f"{named} left out: the rows are the nodes of {evidence.num_graphs:,} graphs, and pooled "
            "they have other class means than in each graph. For these keys, measure one graph alone "
            "in a loader; graph/* are averages over graphs. Are these parts of one graph (clusters, "
            "samples)? Then measure that as a whole."
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
    texts |= about_edges(evidence.isolated, evidence.strays)
    texts |= about_rows(evidence.tallies, len(evidence.class_counts))
    return texts | _about_values(evidence)


def about_edges(isolated: int, strays: int) -> dict[str, str]:
    """Sentences on nodes without neighbors, and on edges between nodes that are not there.

    Example:
        >>> list(about_edges(isolated=2, strays=0))
        ['isolated']
    """
    texts = {}
    if isolated:
        texts["isolated"] = (
            f"{isolated:,} nodes have no neighbor, and so no mean over neighbors: they are left out "
            "there. Are edges listed in one direction alone?"
        )
    if strays:
        texts["strays"] = (
            f"{strays:,} edges go to or come from nodes that are not in their batch: they count for no "
            "neighborhood. Are nodes left out without their edges?"
        )
    return texts


def _about_values(evidence: GraphEvidence) -> dict[str, str]:
    """Of graphs of several classes that have no value all the same."""
    expected = evidence.num_graphs - evidence.single
    counts = {each: int(evidence.graphs.count(each)) for each in QUANTITIES}
    rated = counts["within_between_ratio_log10"]
    most = {"within_between_ratio_log10": 0, "within_between_pinv_log10": rated}
    fewer = {key: n for key, n in counts.items() if 0 < n < most.get(key, expected)}
    texts = {}
    if fewer:
        named = ", ".join(f"graph/{key} on {count:,}" for key, count in fewer.items())
        texts["fewer graphs"] = (
            f"Of {expected:,} graphs with several classes, these rest on fewer: {named}. The others "
            "have no finite value of it, or labels or edges are missing."
        )
    if rated < expected:
        texts["no value"] = (
            f"{expected - rated:,} of {evidence.num_graphs:,} graphs have no NC1 and are left out of "
            "its average: their features are NaN, equal within each class, or have the same mean in "
            "all classes, or too few nodes have neighbors."
        )
    return texts
