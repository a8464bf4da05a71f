"""What is logged of several graphs, each of which has statistics of its own: graph/*."""

from lightning_nc.functional.graph.measured import (
    graphs_with,
    mean_over_graphs,
    standard_error_over_graphs,
)
from lightning_nc.functional.measure import Measure

_KOTHAPALLI = "Kothapalli et al. 2023"


def _average(
    quantity: str, summary: str, at_collapse: str = "", headline: str = "", of_layers: bool = True
) -> tuple[Measure, Measure]:
    """Two lines: an average over graphs, and its standard error."""
    key, source = f"graph/{quantity}", "" if quantity == "condition_gap" else _KOTHAPALLI
    return (
        Measure(
            key, mean_over_graphs(quantity), ("graphs",), f"mean over graphs of {summary}",
            at_collapse, source, default=False, joins="graphs", headline=headline, of_layers=of_layers,
        ),
        Measure(
            f"{key}_se", standard_error_over_graphs(quantity), ("graphs",),
            f"standard error of {key}", "", "", default=False, joins="graphs", of_layers=of_layers,
        ),
    )  # fmt: skip


GRAPHS = (
    Measure(
        "graph/num_graphs", graphs_with("within_between_ratio_log10"), ("graphs",),
        "graphs that the averages rest on", "", "", default=False, joins="graphs", of_layers=False,
    ),
    *_average("within_between_ratio_log10", "log10 of tr Sw / tr Sb", headline="log10 NC1"),
    *_average("within_between_pinv_log10", "log10 of tr(Sw Sb+)/C"),
    *_average("snr", "|W Hmean| / |W (H - Hmean)|"),
    *_average(
        "overlap", "accuracy less chance, for the best order of the classes", "1", of_layers=False
    ),
    *_average(
        "condition_gap", "how far a graph is from admitting exact collapse", "0", of_layers=False
    ),
)  # fmt: skip
