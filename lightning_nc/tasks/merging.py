"""From accumulators to evidence: of this rank, or of all ranks together."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from lightning_nc.functional.counts import Count
from lightning_nc.functional.deep_linear import partial_products
from lightning_nc.stream.accumulator import Accumulator
from lightning_nc.stream.graph_totals import GraphTotals
from lightning_nc.stream.kept_classifier import KeptClassifier, KeptMap
from lightning_nc.stream.sync import Part, Ranks, add_up, merge_ranks
from lightning_nc.tasks.task import Around, Task
from lightning_nc.values.classifier import LinearClassifier
from lightning_nc.values.errors import RankFailed
from lightning_nc.values.evidence import ClassEvidence, Evidence
from lightning_nc.values.recorded import HEAD
from lightning_nc.values.training import Training


@dataclass(frozen=True, eq=False)
class Modules:
    """What a stage has measured; every mapping in the same order on all ranks.

    Attributes:
        accumulators: By module; None where this rank has seen no batch.
        classifier: What the features of :data:`HEAD` have met.
        tasks: What the labels mean, with the settings of each module.
        weights: What the features of layers have met, by layer.
        stack: The layers of a linear head in their order, less the classifier at its end.
        names: Paths of the modules, the same on all ranks; "" where this rank has seen none.
        doubt: Why it is not certain what the head is, a clause; empty where it is.
        graphs: What the graphs of the stage have come to, where rows were nodes on this rank.
        has_several: Whether each graph has statistics of its own; None: where there are several.
    """

    accumulators: Mapping[str, Accumulator | None]
    classifier: KeptClassifier
    tasks: Mapping[str, Task]
    weights: Mapping[str, KeptMap] = field(default_factory=dict)
    stack: tuple[str, ...] = ()
    names: str = ""
    doubt: str = ""
    graphs: GraphTotals | None = None
    has_several: bool | None = None

    @property
    def maps(self) -> list[KeptMap]:
        """The classifier, and what layers have met."""
        return [self.classifier, *self.weights.values()]

    def place(self, name: str) -> tuple[int, int]:
        """The layer of the linear head that a module's features enter, from 1, and how many it has."""
        num_layers = len(self.stack) + 1
        return (self.stack.index(name) + 1 if name in self.stack else num_layers), num_layers

    def tells_apart(self, num_graphs: int) -> bool:
        """Whether so many graphs have statistics of their own."""
        return num_graphs > 1 if self.has_several is None else self.has_several and num_graphs > 0

    def failure(self) -> Exception | None:
        """A rank that cannot read its own states tells the others, and raises after them."""
        try:
            for each in self.accumulators.values():
                if each is not None:
                    each.settle()
            if self.graphs is not None:
                self.graphs.settle()
        except Exception as error:
            return error
        return None


@dataclass(frozen=True, eq=False)
class _Maps:
    """The maps that features have met, of all ranks."""

    classifier: LinearClassifier | None
    weights: Mapping[str, Tensor]
    products: Mapping[str, LinearClassifier]

    @classmethod
    def of(
        cls,
        classifier: LinearClassifier | None,
        weights: Mapping[str, Tensor],
        stack: tuple[str, ...],
    ) -> "_Maps":
        products: dict[str, LinearClassifier] = {}
        if classifier is not None and all(name in weights for name in stack):
            whole = partial_products([*(weights[name] for name in stack), classifier.weight])
            for name, product in zip(stack, whole[:-1], strict=True):
                products[name] = LinearClassifier(product, classifier.bias)
        return cls(classifier, weights, products)

    def head(self, name: str) -> LinearClassifier | None:
        """The classifier, where these are the features that it has met."""
        return self.classifier if name == HEAD else None


def evidence_of(
    modules: Modules,
    ranks: Ranks | None = None,
    around: Around | None = None,
    failed: bool = False,
    counts_rows: bool = True,
) -> dict[str, Evidence]:
    """What the modules of a stage have come to; every rank has to call it.

    Args:
        modules: What this rank has measured.
        ranks: Who merges; None: this rank alone.
        around: What else is known where the stage ends.
        failed: This rank cannot take part with its data.
        counts_rows: Whether to count, over the rows of each rank, what the measures ask for.

    Returns:
        Evidence by module, less the modules of which no rank has seen a batch.

    Raises:
        RankFailed: On all ranks, if one of them could not take part with its data.
        RanksDiffer: On all ranks, if their modules differ.
    """
    if ranks is not None and ranks.several:
        return _of_all_ranks(modules, ranks, around or Around(), failed, counts_rows)
    if failed:
        raise RankFailed("This rank could not take part with its data.")
    if modules.graphs is not None and modules.tells_apart(modules.graphs.num_graphs):
        return dict(modules.graphs.merged(modules.graphs.sums()))
    head = modules.classifier.value() if modules.classifier.is_kept else None
    weights = {n: kept.parameters[0].clone() for n, kept in modules.weights.items() if kept.is_kept}
    maps = _Maps.of(head, weights, modules.stack)
    some = {name: each for name, each in modules.accumulators.items() if each is not None}
    values = {name: each.value(maps.head(name)) for name, each in some.items()}
    evidence = _complete(modules, values, maps, around or Around())
    for name, value in evidence.items() if counts_rows else ():
        counts = modules.tasks[name].counts_on(value.occasions)
        counted = {count: each.function(value, value) for count, each in counts.items()}
        evidence[name] = replace(value, counts=counted)
    return evidence


def _of_all_ranks(
    modules: Modules, ranks: Ranks, around: Around, failed: bool, counts_rows: bool
) -> dict[str, Evidence]:
    names = list(modules.accumulators)

    def blank(i: int, sizes: tuple[int, ...]) -> Part:
        if i < len(names):
            return modules.tasks[names[i]].accumulator(sizes, ranks.device)
        if i == len(names) + len(modules.maps):
            return _blank_graphs(modules, sizes[0], ranks.device)
        return type(modules.maps[i - len(names)]).blank(sizes, ranks.device)

    maps = [each if each.is_kept else None for each in modules.maps]
    error = modules.failure()
    try:
        parts = [*modules.accumulators.values(), *maps, modules.graphs]
        merged = merge_ranks(parts, blank, ranks, failed or error is not None, modules.names)
    except RankFailed as told:
        raise told from error
    *of_maps, graphs = merged[len(names) :]
    if graphs is not None and modules.tells_apart(graphs.own.num_graphs_of(graphs.sums)):
        return dict(graphs.own.merged(graphs.sums))
    kept, *others = of_maps
    weights = {n: w.sums[0] for n, w in zip(modules.weights, others, strict=True) if w is not None}
    head = None if kept is None else LinearClassifier(*kept.sums)
    met = _Maps.of(head, weights, modules.stack)
    some = {n: p for n, p in zip(names, merged[: len(names)], strict=True) if p is not None}
    values = {n: p.own.merged(p.sums, p.rest, met.head(n)) for n, p in some.items()}
    whole = _complete(modules, values, met, around)
    if not counts_rows:
        return whole
    return _counted(modules.tasks, {n: p.own for n, p in some.items()}, whole, ranks)


def _blank_graphs(modules: Modules, num_classes: int, device: torch.device | str) -> GraphTotals:
    names = tuple(modules.accumulators)
    blank = modules.tasks[HEAD].graph_totals(num_classes, names, device)
    assert blank is not None  # another rank has some
    return blank


def _counted(
    tasks: Mapping[str, Task],
    own: Mapping[str, Accumulator],
    merged: dict[str, Evidence],
    ranks: Ranks,
) -> dict[str, Evidence]:
    """What can be counted only now, over each rank's own rows."""

    def over_own_rows(name: str, count: Count) -> Tensor:
        return count.function(own[name].own(), merged[name])

    counts = {name: tasks[name].counts_on(each.occasions) for name, each in merged.items()}
    asked = [
        (partial(over_own_rows, name, count), count.length(merged[name]))
        for name, of_module in counts.items()
        for count in of_module.values()
    ]
    totals = iter(add_up(asked, ranks))
    return {
        name: replace(each, counts={count: next(totals) for count in counts[name]})
        for name, each in merged.items()
    }


def _complete(
    modules: Modules, values: Mapping[str, Evidence], maps: _Maps, around: Around
) -> dict[str, Evidence]:
    """With what the user has asked for, what the features met, and what other stages have left."""
    head = values.get(HEAD)
    given = modules.tasks[HEAD].settings
    if given.class_counts is not None:
        around = replace(around, training=Training(torch.tensor(given.class_counts)))
    elif around.trains and head is not None and head.rows_by_kind is not None:
        shown = Training(head.rows_by_kind, around.is_whole and given.keeps_all_rows)
        around = replace(around, training=around.training.after(shown))
    complete = {}
    for name, value in values.items():
        of_module = {s: found[name] for s, found in around.references.items() if name in found}
        whole = modules.tasks[name].complete(replace(value, references=of_module), around)
        if isinstance(whole, ClassEvidence):
            weight, product = maps.weights.get(name), maps.products.get(name)
            whole = replace(
                whole, input_weight=weight, head_product=product, place=modules.place(name),
                doubt=modules.doubt,
            )  # fmt: skip
        complete[name] = whole
    return complete
