"""From accumulators to evidence: of this rank, or of all ranks together."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from torch import Tensor

from lightning_nc.functional.counts import Count
from lightning_nc.stream.accumulator import Accumulator
from lightning_nc.stream.kept_classifier import KeptClassifier
from lightning_nc.stream.sync import Part, Ranks, add_up, merge_ranks
from lightning_nc.tasks.task import Task
from lightning_nc.values.classifier import LinearClassifier
from lightning_nc.values.errors import RankFailed
from lightning_nc.values.evidence import Evidence
from lightning_nc.values.recorded import HEAD

References = Mapping[str, Mapping[str, Evidence]]


def evidence_of(
    task: Task,
    accumulators: Mapping[str, Accumulator | None],
    classifier: KeptClassifier,
    ranks: Ranks | None = None,
    references: References | None = None,
    failed: bool = False,
    names: str = "",
    by_head: bool = False,
) -> dict[str, Evidence]:
    """What the modules of a stage have come to; every rank has to call it.

    Args:
        task: What their labels mean.
        accumulators: By module, in the same order on all ranks; None where this rank has seen no batch.
        classifier: What the features of :data:`HEAD` have met.
        ranks: Who merges; None: this rank alone.
        references: The evidence of other stages, by stage and module.
        failed: This rank cannot take part with its data.
        names: Paths of the modules, the same on all ranks; "" where this rank has seen none.
        by_head: Whether decisions that nobody saw are those of the classifier.

    Returns:
        Evidence by module, less the modules of which no rank has seen a batch.

    Raises:
        RankFailed: On all ranks, if one of them could not take part with its data.
        RanksDiffer: On all ranks, if their modules differ.
    """
    if ranks is not None and ranks.several:
        return _of_all_ranks(
            task, accumulators, classifier, ranks, references or {}, failed, names, by_head
        )
    if failed:
        raise RankFailed("This rank could not take part with its data.")
    head = classifier.value() if classifier.is_kept else None
    evidence = {}
    for name, each in accumulators.items():
        if each is not None:
            value = each.value(head if name == HEAD else None)
            value = _complete(task, value, name, references or {}, by_head)
            counts = {count: c.function(value, value) for count, c in task.counts.items()}
            evidence[name] = replace(value, counts=counts)
    return evidence


def _of_all_ranks(
    task: Task,
    accumulators: Mapping[str, Accumulator | None],
    classifier: KeptClassifier,
    ranks: Ranks,
    references: References,
    failed: bool,
    names: str,
    by_head: bool,
) -> dict[str, Evidence]:
    def blank(i: int, sizes: tuple[int, ...]) -> Part:
        if i < len(accumulators):
            return task.accumulator(sizes, ranks.device)
        return KeptClassifier.blank(sizes, ranks.device)

    parts = [*accumulators.values(), classifier if classifier.is_kept else None]
    error = _failure_of(accumulators)
    try:
        *modules, kept = merge_ranks(parts, blank, ranks, failed or error is not None, names)
    except RankFailed as told:
        raise told from error
    head = kept and LinearClassifier(*kept.sums)
    own, merged = {}, {}
    for name, part in zip(accumulators, modules, strict=True):
        if part is not None:
            own[name] = part.own
            whole = part.own.merged(part.sums, part.rest, head if name == HEAD else None)
            merged[name] = _complete(task, whole, name, references, by_head)
    return _counted(task, own, merged, ranks)


def _counted(
    task: Task, own: Mapping[str, Accumulator], merged: dict[str, Evidence], ranks: Ranks
) -> dict[str, Evidence]:
    """What can be counted only now, over each rank's own rows."""

    def over_own_rows(name: str, count: Count) -> Tensor:
        return count.function(own[name].own(), merged[name])

    asked = [(name, count) for name in merged for count in task.counts.values()]
    totals = iter(add_up([(partial(over_own_rows, *each), each[1].size) for each in asked], ranks))
    return {
        name: replace(each, counts={count: next(totals) for count in task.counts})
        for name, each in merged.items()
    }


def _failure_of(accumulators: Mapping[str, Accumulator | None]) -> Exception | None:
    """A rank that cannot read its own states tells the others, and raises after them."""
    try:
        for each in accumulators.values():
            if each is not None:
                each.settle()
    except Exception as error:
        return error
    return None


def _complete(
    task: Task, evidence: Evidence, name: str, references: References, by_head: bool
) -> Evidence:
    """With what the user has asked for, and what other stages have left of the same module."""
    of_module = {s: found[name] for s, found in references.items() if name in found}
    return task.complete(replace(evidence, references=of_module), by_head)
