"""Neural collapse of a regression: NRC1 to NRC3, and what the last two layers come to."""

from lightning_nc.functional.regression.features import (
    centered_rows_of_own_rows as centered_rows_of_own_rows,
)
from lightning_nc.functional.regression.features import feature_collapse as feature_collapse
from lightning_nc.functional.regression.features import (
    feature_collapse_centered as feature_collapse_centered,
)
from lightning_nc.functional.regression.features import outside_variance as outside_variance
from lightning_nc.functional.regression.features import row_space as row_space
from lightning_nc.functional.regression.features import row_space_centered as row_space_centered
from lightning_nc.functional.regression.gram import compared_grams as compared_grams
from lightning_nc.functional.regression.gram import gamma as gamma
from lightning_nc.functional.regression.gram import gram_distance as gram_distance
from lightning_nc.functional.regression.gram import gram_distance_at_zero as gram_distance_at_zero
from lightning_nc.functional.regression.limit import RegressionLimit as RegressionLimit
from lightning_nc.functional.regression.limit import limit_distance as limit_distance
from lightning_nc.functional.regression.limit import regression_limit as regression_limit
from lightning_nc.functional.regression.limit import surviving_directions as surviving_directions
from lightning_nc.functional.regression.linear import r2_linear as r2_linear
from lightning_nc.functional.regression.linear import r2_readout as r2_readout
