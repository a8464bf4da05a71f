"""The table of logged keys: what is measured, by which function, from what, and what to expect."""

from lightning_nc.functional.measure import OCCASIONS as OCCASIONS
from lightning_nc.functional.measure import Measure as Measure
from lightning_nc.functional.table.collapse import COLLAPSE
from lightning_nc.functional.table.depth import DEPTH
from lightning_nc.functional.table.graphs import GRAPHS
from lightning_nc.functional.table.imbalance import IMBALANCE
from lightning_nc.functional.table.regression import REGRESSION
from lightning_nc.functional.table.tags import TAGS

MEASURES: dict[str, Measure] = {
    line.key: line for line in (*COLLAPSE, *TAGS, *REGRESSION, *GRAPHS, *DEPTH, *IMBALANCE)
}
"""The measures by their logged key, in the order of the dashboard."""
