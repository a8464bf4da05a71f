"""The seeded faults still fit the code; `python tests/faults.py` shows that each is noticed."""

import pytest
from faults import FAULTS, seed


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_can_be_seeded(fault, tmp_path):
    seed(fault, tmp_path)
    source = (tmp_path / "lightning_nc" / fault.file).read_text()
    assert fault.wrong in source
    compile(source, fault.file, "exec")
