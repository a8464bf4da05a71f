"""What is refused, and by what words."""

import pytest
import torch
from support.problems import unchecked_shapes

from lightning_nc import (
    LinearClassifier,
    NeuralCollapse,
)

pytestmark = pytest.mark.usefixtures("small_backlog")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_classes": 0}, "Expected num_classes to be at least 1, but got 0"),
        ({"num_features": -1}, "Expected num_features to be at least 1, but got -1"),
        ({"covariance": "diagonal"}, r"one of \('auto', 'pooled', 'per_class', 'none'\), but got"),
        ({"measures": ["nc1/cdmv"]}, r"but got 'nc1/cdmv'. Did you mean 'nc1/cdnv'"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with unchecked_shapes(), pytest.raises(ValueError, match=message):
        NeuralCollapse(**{"num_classes": 3, "num_features": 4, **settings})


@pytest.mark.parametrize(
    ("features", "target", "extra", "message"),
    [
        ((5, 3), (5,), {}, r"Expected features of shape \(B, 4\), but got \(5, 3\). Are they the clas"),
        ((4,), (4,), {}, r"Expected features of shape \(B, 4\), but got \(4,\)"),
        ((5, 4), (6,), {}, r"one label per feature, but got 5 features and labels of shape \(6,\). Do "
                           r"they come from the same forward, "),
        ((6, 4), (3,), {}, r"but got 6 features and labels of shape \(3,\). Do they come from"),
        ((2, 3, 4), (2,), {}, r"but got 6 features and labels of shape \(2,\)"),
        ((5, 4), (5, 3), {}, r"These look like one-hot or soft labels \(mixup\?\): pass hard labels"),
        ((5, 4), (5,), {"logits": torch.zeros(4, 3)},
         "one decision per label, but got logits for 4 rows and 5 labels. Do logits, features and"),
        ((5, 4), (5,), {"logits": torch.zeros(3)}, "but got logits for 3 rows and 5 labels"),
        ((5, 4), (5,), {"predicted": torch.zeros(2, dtype=torch.long)}, "one decision per label"),
        ((5, 4), (5,), {"classifier": LinearClassifier(torch.zeros(3, 5))},
         r"a classifier of shape \(3, 4\), but got \(3, 5\). Are the features its input"),
        ((5, 4), (5,), {"classifier": LinearClassifier(torch.zeros(1, 4))},
         r"a classifier of shape \(3, 4\), but got \(2, 4\)"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_and_changes_nothing(features, target, extra, message):
    metric = NeuralCollapse(3, 4)
    with pytest.raises(ValueError, match=message):
        metric.update(torch.zeros(features), torch.zeros(target, dtype=torch.long), **extra)
    assert int(metric.statistics().num_samples) == 0
    assert metric.evidence().sample.seen == 0


@pytest.mark.parametrize("soft", [0.5, 1.25, float("nan")])
def test_soft_labels_are_refused_at_once(soft):
    metric = NeuralCollapse(3, 4)
    message = f"floats that are not whole numbers, such as {soft}. Are these soft labels"
    with pytest.raises(ValueError, match=message):
        metric.update(torch.zeros(3, 4), torch.tensor([0.0, 1.0, soft]))
