"""Nodes of graphs: their neighborhoods, and the graphs that would admit exact collapse."""

from lightning_nc.functional.graph.block_model import planted_regular_graph as planted_regular_graph
from lightning_nc.functional.graph.block_model import (
    sample_stochastic_block_model as sample_stochastic_block_model,
)
from lightning_nc.functional.graph.expected import between_factor as between_factor
from lightning_nc.functional.graph.expected import (
    condition_probability_bound as condition_probability_bound,
)
from lightning_nc.functional.graph.expected import (
    condition_probability_bound_log10 as condition_probability_bound_log10,
)
from lightning_nc.functional.graph.expected import effective_within_ratio as effective_within_ratio
from lightning_nc.functional.graph.expected import expected_adjacency_ratio as expected_adjacency_ratio
from lightning_nc.functional.graph.matching import overlaps as overlaps
from lightning_nc.functional.graph.measured import condition_gaps as condition_gaps
from lightning_nc.functional.graph.measured import signal_to_noise as signal_to_noise
from lightning_nc.functional.graph.measured import values_of_features as values_of_features
from lightning_nc.functional.graph.measured import within_between_pinv as within_between_pinv
from lightning_nc.functional.graph.measured import within_between_ratio as within_between_ratio
from lightning_nc.functional.graph.neighborhoods import condition_gap as condition_gap
from lightning_nc.functional.graph.neighborhoods import neighborhood_mean as neighborhood_mean
from lightning_nc.functional.graph.neighborhoods import overlap as overlap
from lightning_nc.functional.graph.spectral import SparseSymmetric as SparseSymmetric
from lightning_nc.functional.graph.spectral import bethe_hessian as bethe_hessian
from lightning_nc.functional.graph.spectral import bethe_hessian_steps as bethe_hessian_steps
from lightning_nc.functional.graph.spectral import laplacian_steps as laplacian_steps
from lightning_nc.functional.graph.spectral import leading_eigenvector as leading_eigenvector
from lightning_nc.functional.graph.spectral import normalized_laplacian as normalized_laplacian
from lightning_nc.functional.graph.spectral import (
    projected_power_iteration as projected_power_iteration,
)
