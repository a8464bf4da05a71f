"""What is logged of several tags per row: tags/*."""

from functools import partial

from lightning_nc.functional.measure import Measure
from lightning_nc.functional.tags import measured
from lightning_nc.values.tags import MOST_TAGS

_LI = "Li et al. 2024"


def _of_multiplicity(m: int) -> tuple[Measure, ...]:
    return (
        Measure(
            f"tags/scale_{m}", partial(measured.scale, multiplicity=m), ("tags",),
            f"C_{m}/C_1: rows with {m} tags by the sum of their tags' means (centered)", "", _LI,
        ),
        Measure(
            f"tags/residual_{m}", partial(measured.residual, multiplicity=m), ("tags",),
            f"share of rows with {m} tags that this leaves (centered)", "0", _LI,
        ),
        Measure(
            f"tags/rows_{m}", partial(measured.rows, multiplicity=m), ("tags",),
            f"rows with {m} tags", "", "", min_classes=0, of_layers=False,
        ),
    )  # fmt: skip


TAGS = (
    Measure(
        "tags/subset_accuracy", measured.subset_accuracy, ("tag_decisions",),
        "share of rows of which the network finds just the tags", "", "", min_classes=0,
        of_layers=False,
    ),
    Measure(
        "tags/iou", measured.iou, ("tag_decisions",),
        "mean softmax mass on the tags of a row", "1", _LI, min_classes=0, of_layers=False,
    ),
    Measure(
        "tags/angle_ratio", measured.angle_ratio, ("tags",),
        "angle between the mean of a pair of tags and the sum of the two means, over that of any two",
        "0", _LI, min_classes=3, headline="TWA",
    ),
    Measure(
        "tags/angle", measured.angle, ("tags",),
        "the angle above, in degrees", "0", _LI, min_classes=3,
    ),
    Measure(
        "tags/angle_ratio_centered", measured.angle_ratio_centered, ("tags",),
        "the ratio, centered by the mean of the single-tag means", "0", "", min_classes=3,
    ),
    Measure(
        "tags/pairs_seen", measured.pairs_seen, ("tags",),
        "pairs of tags that the angles rest on", "", "", min_classes=0, of_layers=False,
    ),
    *(measure for m in range(2, MOST_TAGS + 1) for measure in _of_multiplicity(m)),
    Measure(
        "tags/scale_2_predicted", measured.scale_2_predicted, ("weight", "row_penalty"),
        "C_2/C_1 by weights and feature_penalty, for features of both signs; loss summed over tags",
        "", _LI, min_classes=0, of_layers=False,
    ),
    Measure(
        "tags/scale_2_predicted_normalized", partial(measured.scale_2_predicted, normalized=True),
        ("weight", "row_penalty"), "the same for the loss averaged over tags", "", _LI,
        min_classes=0, of_layers=False,
    ),
)  # fmt: skip
