"""Unmodified models of other packages: measured right, trained as without, or refused with a remedy."""

import pytest
from graph_cells import GRAPHS
from package_cells import PACKAGES
from support.problems import unchecked_shapes
from text_cells import TEXT
from vision_cells import VISION
from watched_model import check

MODELS = (*VISION, *TEXT, *GRAPHS, *PACKAGES)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_an_unmodified_model_is_measured_as_it_is(model, tmp_path, monkeypatch):
    for package in model.packages:
        pytest.importorskip(package, exc_type=ImportError)
    monkeypatch.chdir(tmp_path)  # some of them write into the folder that they run in
    with unchecked_shapes():  # they draw from the global random state
        check(model)
