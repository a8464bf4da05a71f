"""The example of three canonical networks: a short run, whole runs, and the reader of CIFAR-10."""

import importlib
import os
import pickle
import re
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from support.examples import EXAMPLES, run, verdicts

from lightning_nc import History

LOSSES = ("CE", "MSE")
FILES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
all_architectures = pytest.mark.skipif(
    os.environ.get("LIGHTNING_NC_ALL_ARCHITECTURES") != "1",
    reason="minutes more: set LIGHTNING_NC_ALL_ARCHITECTURES=1",
)


@pytest.fixture
def example(monkeypatch):
    """The example as a module."""
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("canonical_networks")


def require_collapse(out, architecture, but=()):
    """The training accuracy reaches 1, and from there to the end NC1 to NC4 fall, with either loss."""
    found = verdicts(out)
    for loss in LOSSES:
        name = f"{architecture}, {loss}"
        must = [
            text for text in found if re.match(rf"{name}: (training accuracy reaches 1|NC\d, )", text)
        ]
        assert len(must) == 5
        missed = [text for text in must if not found[text]]
        assert all(text.startswith(but) for text in missed), missed
        table = out.split(f"\n{name}: the terminal phase begins after ")[1]
        accuracy, nc1, *_ = re.findall(r"^(?:accuracy|NC\d .*?) {2,}(.*)$", table, re.MULTILINE)
        assert float(accuracy.split()[2]) == 1
        _, start, end, *_ = map(float, nc1.split())
        assert end < start


@pytest.mark.full
def test_a_short_run_reaches_the_terminal_phase_and_collapses_in_it(tmp_path):
    out = run("canonical_networks", tmp_path, "--quick")
    # one image of the 640 may be left, which MSE has not moved at the end
    require_collapse(out, "vgg", but=("vgg, MSE: NC4",))
    *_, mismatch = re.findall(r"^NC4 mismatch +\S+ +\S+ +(\S+)", out, re.MULTILINE)
    assert float(mismatch) < 0.01
    assert len(verdicts(out)) == 14
    with Image.open(tmp_path / "canonical_networks.png") as image:
        assert min(image.size) > 700
        assert len(set(image.convert("L").tobytes())) > 20


@pytest.mark.full
@all_architectures
@pytest.mark.parametrize("architecture", ["vgg", "resnet", "densenet"])
def test_a_whole_run_collapses_in_its_terminal_phase(architecture, tmp_path):
    out = run("canonical_networks", tmp_path, "--architecture", architecture)
    print(out)
    require_collapse(out, architecture)


def test_the_terminal_phase_begins_where_the_accuracy_stays_1(example):
    def begins(*accuracies):
        history = History()
        for epoch, accuracy in enumerate(accuracies):
            history = history.extended(3 * epoch, epoch, {"nc0/accuracy/train": float(accuracy)})
        return example.Run("vgg", "ce", history).terminal

    assert begins(0.9, 1, 1) == 4
    assert begins(1, 1) == 1
    assert begins(1, 0.9995, 1, 1) == 7
    assert begins(1, 1, 0.9995) is None


@pytest.mark.parametrize(
    ("name", "parameters", "width"),
    # as in the literature, less the biases before BatchNorm, which changes nothing
    [("resnet", 11_173_962, 512), ("vgg", 9_413_066, 512), ("densenet", 1_019_722, 448)],
)
def test_the_papers_networks_have_their_size(example, name, parameters, width):
    network = example.PAPER.networks[name]()
    assert sum(each.numel() for each in network.parameters()) == parameters
    assert network[-1].in_features == width
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def written(folder, rows=4):
    """Files in the format of CIFAR-10: pickles of Python 2, whose keys are its strings."""
    folder.mkdir()
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (6, rows, 3, 32, 32), dtype=np.uint8)
    labels = random.integers(0, 10, (6, rows))
    for name, pixels, label in zip(FILES, images, labels, strict=True):
        content = {"data": pixels.reshape(rows, -1), "labels": label.tolist()}
        whole = pickle.dumps(content, protocol=2)
        for key in (b"data", b"labels"):
            ours = b"X" + len(key).to_bytes(4, "little") + key
            assert whole.count(ours) == 1
            whole = whole.replace(ours, b"U" + bytes([len(key)]) + key)
        (folder / name).write_bytes(whole)
    return torch.tensor(images), torch.tensor(labels)


def test_cifar10_is_read_in_order_and_normalized_by_the_training_images(example, tmp_path):
    pixels, labels = written(tmp_path / "data")
    images = example.cifar10(tmp_path / "data")
    train, test = pixels[:5].flatten(0, 1).double(), pixels[5].double()
    mean = train.mean((0, 2, 3)).view(3, 1, 1)
    spread = (train - mean).square().mean((0, 2, 3)).sqrt().view(3, 1, 1)
    for (read, targets), own, own_targets in [
        (images.train.tensors, train, labels[:5].flatten()), (images.test.tensors, test, labels[5]),
    ]:  # fmt: skip
        torch.testing.assert_close(read.double(), (own - mean) / spread, rtol=1e-4, atol=1e-5)
        assert torch.equal(targets, own_targets)


def test_cifar10_says_which_files_are_missing_and_where_they_come_from(example, tmp_path):
    written(tmp_path / "data")
    (tmp_path / "data" / "data_batch_3").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"Expected the six files .* has no data_batch_3\. .*Unpack"
    ):
        example.cifar10(tmp_path / "data")


def test_cifar10_refuses_another_data_set(example, tmp_path):
    written(tmp_path / "data")
    content = {b"data": np.zeros((1, 3072), np.uint8), b"fine_labels": [0]}
    (tmp_path / "data" / "data_batch_1").write_bytes(pickle.dumps(content))
    with pytest.raises(
        ValueError, match=r"Expected .*b'labels'.*but got the keys .*fine_labels.*CIFAR-100"
    ):
        example.cifar10(tmp_path / "data")


@pytest.mark.parametrize(
    ("given", "got"),
    [
        (["--protocol", "paper"], "--protocol paper and no --data"),
        (["--data", "cifar10", "data"], "--protocol narrow and --data cifar10"),
        (["--protocol", "paper", "--data", "svhn", "data"], "--protocol paper and --data svhn"),
    ],
)
def test_a_protocol_without_its_data_is_refused(example, given, got, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["canonical_networks.py", *given])
    with pytest.raises(SystemExit):
        example.arguments()
    assert f"but got {got}. " in re.sub(r"\s+", " ", capsys.readouterr().err)


@pytest.mark.slow
def test_the_papers_protocol_runs_on_files_in_its_format(tmp_path):
    written(tmp_path / "data")
    given = [
        "--protocol",
        "paper",
        "--data",
        "cifar10",
        "data",
        "--architecture",
        "vgg",
        "--epochs",
        "1",
    ]
    out = run("canonical_networks", tmp_path, *given, "--loss", "ce")
    assert "vgg, CE: the terminal phase has not begun" in out
    assert list(tmp_path.glob("runs/canonical_networks/vgg_ce/*/events*"))
