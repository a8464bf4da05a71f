"""The examples run, and print and write what they promise."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The program with each loss, side by side: where it runs, and what it prints."""
    folder = tmp_path_factory.mktemp("digits")
    running = {}
    for loss in ("ce", "mse"):
        command = [sys.executable, str(EXAMPLES / "digits.py"), "--loss", loss, "--epochs", "12"]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        running[loss] = subprocess.Popen(command, cwd=folder, **streams)
    printed = {}
    for loss, process in running.items():
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        printed[loss] = out
    return folder, printed


@pytest.mark.parametrize("loss", ["ce", "mse"])
def test_digits_prints_its_table_and_writes_tensorboard_files(loss, digits):
    folder, printed = digits
    out = printed[loss]
    for stage in ("train", "train_online", "val"):
        table = out.split(f"\n{stage}: ")[1]
        nc1 = [float(x) for x in re.search(r"NC1 tr\(Sw Sb\+\)/C(.*)", table)[1].split()]
        assert len(nc1) >= 6
        assert nc1[-1] < nc1[0]
        accuracy = [float(x) for x in re.search(r"accuracy(.*)", table)[1].split()]
        assert accuracy[-1] > 0.9
    assert "tensorboard --logdir runs/digits" in out
    [folder] = (folder / "runs" / "digits" / loss).iterdir()
    tags = EventAccumulator(str(folder)).Reload().Tags()["scalars"]
    for stage in ("train", "train_online", "val"):
        assert f"nc1/within_between_pinv/{stage}" in tags
        assert f"nc4/ncc_mismatch/{stage}" in tags
