"""Functions named in a config."""

import pytest

from lightning_nc.dotted_path import import_function


@pytest.mark.parametrize("path", ["sqrt", "", ".math.sqrt", "math."])
def test_a_path_that_names_no_function_is_refused(path):
    with pytest.raises(ValueError, match="Expected pool to name a function that can be imported"):
        import_function(path, "pool")
