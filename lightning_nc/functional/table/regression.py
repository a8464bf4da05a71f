"""What is logged of a regression: nrc0/* to nrc3/*."""

from lightning_nc.functional import regression, size
from lightning_nc.functional.measure import Measure

_ANDRIOPOULOS = "Andriopoulos et al. 2024"
_DEEP = "Deep neural regression collapse 2026"

REGRESSION = (
    Measure(
        "nrc0/num_samples", size.num_rows, ("joint",), "rows that the figures rest on", "", "",
        min_classes=0, of_layers=False,
    ),
    Measure(
        "nrc0/r2_linear", regression.r2_linear, ("joint",),
        "R^2 of the best linear map from these features to the targets", "1", _DEEP, min_classes=0,
    ),
    Measure(
        "nrc0/r2_readout", regression.r2_readout, ("joint", "readout"),
        "R^2 of the network's own W h + b; far below r2_linear where the loss takes other targets", "1",
        "", min_classes=0,
    ),
    Measure(
        "nrc1/feature_collapse", regression.feature_collapse, ("joint",),
        "share of the normalized features outside of their n top directions", "0", _ANDRIOPOULOS,
        min_classes=0, headline="NRC1",
    ),
    Measure(
        "nrc1/outside_variance", regression.outside_variance, ("joint",),
        "share of the features' variance outside of their n top directions", "0", _DEEP,
        min_classes=0,
    ),
    Measure(
        "nrc1/feature_collapse_centered", regression.feature_collapse_centered,
        ("centered_rows", "joint"), "feature_collapse of the features less their mean", "0", "",
        min_classes=0,
    ),
    Measure(
        "nrc1/surviving_directions", regression.surviving_directions, ("limit_terms",),
        "directions of the targets that survive the stated penalties; needs both of them", "", "",
        min_classes=0, of_layers=False,
    ),
    Measure(
        "nrc2/row_space", regression.row_space, ("joint", "readout"),
        "share of the normalized features outside of the row space of W", "0", _ANDRIOPOULOS,
        min_classes=0, headline="NRC2",
    ),
    Measure(
        "nrc2/row_space_centered", regression.row_space_centered, ("centered_rows", "readout"),
        "row_space of the features less their mean", "0", "", min_classes=0,
    ),
    Measure(
        "nrc3/gram_distance", regression.gram_distance, ("joint", "readout"),
        "squared distance of normalized W W' and the targets' Sigma^(1/2) - gamma^(1/2) I", "0",
        _ANDRIOPOULOS, min_classes=0, headline="NRC3",
    ),
    Measure(
        "nrc3/gamma", regression.gamma, ("joint", "readout"),
        "the gamma of gram_distance, fitted", "", _ANDRIOPOULOS, min_classes=0,
    ),
    Measure(
        "nrc3/gram_distance_at_zero", regression.gram_distance_at_zero, ("joint", "readout"),
        "gram_distance with gamma = 0", "", _ANDRIOPOULOS, default=False, min_classes=0,
    ),
    Measure(
        "nrc3/limit_distance", regression.limit_distance, ("readout", "limit_terms"),
        "relative distance of W W' to the closed form of the stated penalties; needs both of them", "0",
        "", min_classes=0, of_layers=False,
    ),
)  # fmt: skip
