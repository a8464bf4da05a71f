"""A file that is loaded as statistics is one, or the error says what it is."""

import pickle

import pytest
import torch
from torch import nn

from lightning_nc import ClassStatistics


def saved(tmp_path, **changed):
    """A file of statistics, of which some entries were changed; ``...`` takes one away."""
    path = tmp_path / "statistics.pt"
    h = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
    ClassStatistics.from_batch(h, torch.arange(12) % 3, 3, "per_class").save(path)
    content = {**torch.load(path, weights_only=True), **changed}
    torch.save({name: value for name, value in content.items() if value is not ...}, path)
    return path


def refused(path, text):
    with pytest.raises(ValueError, match=text) as told:
        ClassStatistics.load(path)
    message = str(told.value)
    assert message.startswith(f"Expected a file that ClassStatistics.save wrote, but {str(path)!r} is ")
    assert message.endswith("Save the statistics once more, with statistics.save(path).")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (nn.Linear(2, 2).state_dict(), r"holds 'weight', 'bias'\. Is it a model's state dict"),
        (torch.eye(2), r"holds a Tensor\. Was it written by torch\.save"),
        ([1, 2], "holds a list"),
        (
            {},
            r"without 'counts', 'means', 'scatter', 'sums_of_squares'\. Was it written by another ver",
        ),
        (nn.Linear(2, 2), r"torch\.load refuses \(UnpicklingError\)\. Was it cut short, or written by"),
    ],
    ids=["state dict", "tensor", "list", "nothing", "module"],
)
def test_another_file_of_torch_is_refused(content, text, tmp_path):
    torch.save(content, tmp_path / "other.pt")
    refused(tmp_path / "other.pt", text)


@pytest.mark.parametrize(
    "content",
    [pickle.dumps({"counts": [1]}), b"epoch,loss\n0,1.5\n", b"", b"\x80\x02", bytes(300)],
    ids=["pickle", "text", "empty", "start of a pickle", "zeros"],
)
def test_bytes_of_another_kind_are_refused(content, tmp_path):
    (tmp_path / "other").write_bytes(content)
    refused(tmp_path / "other", "torch.load refuses")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_file_that_was_cut_short_is_refused(share, tmp_path):
    path = saved(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    refused(path, "Was it cut short")


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"sums_of_squares": ...}, r"without 'sums_of_squares'\. Was it written by another version"),
        ({"means": ..., "scatter": ...}, "without 'means', 'scatter'"),
        ({"means": None}, "whose 'means' is a NoneType"),
        ({"counts": [4, 4, 4]}, "whose 'counts' is a list"),
        ({"counts": torch.ones(2, dtype=torch.int64)},
         r"'counts' is int64 of shape \(2,\) in the place of integers of shape \(3\)"),
        ({"counts": torch.ones(3)}, r"'counts' is float32 of shape \(3,\) in the place of integers"),
        ({"means": torch.zeros(3)}, r"'means' is float32 of shape \(3,\) in the place of floats"),
        ({"scatter": torch.eye(5)}, r"'scatter' is float32 of shape \(5, 5\) in the place .* \(4, 4\)"),
        ({"scatter": torch.eye(4).long()}, "'scatter' is int64"),
        ({"sums_of_squares": torch.ones(4)}, "'sums_of_squares' .* Do its tensors come from different"),
        ({"class_scatter": torch.ones(2, 4, 4)}, r"'class_scatter' .* \(3, 4, 4\)"),
        ({"more": torch.ones(1)}, "holds 'more'"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_belong_together_are_refused(changed, text, tmp_path):
    refused(saved(tmp_path, **changed), text)


def test_what_may_be_missing_may_be_missing(tmp_path):
    loaded = ClassStatistics.load(saved(tmp_path, scatter=None, class_scatter=...))
    assert loaded.scatter is None
    assert loaded.class_scatter is None
    assert loaded.counts.tolist() == [4, 4, 4]


def test_a_file_that_is_not_there_is_not_found(tmp_path):
    with pytest.raises(FileNotFoundError):
        ClassStatistics.load(tmp_path / "nothing.pt")
    with pytest.raises(OSError, match="directory"):
        ClassStatistics.load(tmp_path)
