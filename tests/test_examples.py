"""The examples run, and print and write what they promise."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name, *arguments, cwd):
    out = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        cwd=cwd, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert out.returncode == 0, out.stderr
    return out.stdout


@pytest.mark.parametrize("loss", ["ce", "mse"])
def test_digits_prints_its_table_and_writes_tensorboard_files(loss, tmp_path):
    out = run("digits.py", "--loss", loss, "--epochs", "12", cwd=tmp_path)
    for stage in ("train", "train_online", "val"):
        table = out.split(f"\n{stage}: ")[1]
        nc1 = [float(x) for x in re.search(r"NC1 tr\(Sw Sb\+\)/C(.*)", table)[1].split()]
        assert len(nc1) >= 6
        assert nc1[-1] < nc1[0]
        accuracy = [float(x) for x in re.search(r"accuracy(.*)", table)[1].split()]
        assert accuracy[-1] > 0.9
    assert "tensorboard --logdir runs/digits" in out
    [folder] = (tmp_path / "runs" / "digits" / loss).iterdir()
    tags = EventAccumulator(str(folder)).Reload().Tags()["scalars"]
    for stage in ("train", "train_online", "val"):
        assert f"nc1/within_between_pinv/{stage}" in tags
        assert f"nc4/ncc_mismatch/{stage}" in tags
