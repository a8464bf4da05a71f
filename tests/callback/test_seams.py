"""What is new enters from outside by a file or a line: task, measure, picture, pool and stage."""

import pytest
import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.loggers import CSVLogger
from matplotlib.figure import Figure
from support import toy_task
from support.training import BATCH, ROWS, Network, digits, fit, trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_nc import ClassStatistics, NeuralCollapseCallback, NeuralCollapseWarning
from lightning_nc.figures import PICTURES, Picture
from lightning_nc.functional import MEASURES, Measure
from lightning_nc.tasks import TASKS
from lightning_nc.values import STAGES, Stage, UndefinedMeasure
from lightning_nc.watch.pools import POOLS


class Regressor(Network):
    """Learns a number, and notes the features that it had for it."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(16, 1)

    def training_step(self, batch, batch_idx):
        return self.note("train_online", batch)

    def note(self, stage, batch):
        x, y = batch
        h = self.features(x)
        predicted = self.fc(h)[:, 0]
        self.noted.setdefault((stage, self.current_epoch), []).append((h.detach().clone(), y.clone()))
        return (predicted - y).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-3)

    def distance(self, stage, epoch):
        """Between the means of the groups, by hand."""
        h, y = (torch.cat([row[i] for row in self.noted[stage, epoch]]) for i in range(2))
        odd = h.argmax(1) % 2 == 1
        return float((y[odd].double().mean() - y[~odd].double().mean()).abs())


def numbers(first=0, rows=ROWS):
    x, y = digits(first, rows).tensors
    return DataLoader(TensorDataset(x, y.float() + 0.25), BATCH)


def regress(callback, **settings):
    seed_everything(0, verbose=False)
    module = Regressor()
    return fit(module, [callback], train=numbers(), val=numbers(ROWS, 96), **settings), module


@pytest.fixture
def grouped(monkeypatch):
    monkeypatch.setitem(TASKS, "grouped", toy_task.Grouped)
    monkeypatch.setitem(MEASURES, "toy/spread", toy_task.MEASURE)


def test_a_task_is_a_file_and_a_line(grouped):
    callback = NeuralCollapseCallback(task="grouped")
    run, module = regress(callback)
    logged = {key for key in run.callback_metrics if key.startswith(("nc", "toy"))}
    assert logged == {"toy/spread/train_online", "toy/spread/val"}
    for stage in ("train_online", "val"):
        value = float(run.callback_metrics[f"toy/spread/{stage}"])
        assert value == pytest.approx(module.distance(stage, 1), rel=1e-6)
        assert value > 0.1


def test_a_task_from_outside_resumes(grouped, tmp_path):
    callback = NeuralCollapseCallback(task="grouped")
    run, _ = regress(callback)
    run.save_checkpoint(tmp_path / "run.ckpt")
    again = NeuralCollapseCallback(task="grouped")
    more = trainer([again], max_epochs=4)
    more.fit(Regressor(), numbers(), numbers(ROWS, 96), ckpt_path=tmp_path / "run.ckpt")
    history = again.history["toy/spread/val"]
    assert [row.epoch for row in history] == [0, 1, 2, 3]
    assert history[:2] == callback.history["toy/spread/val"]


def regress_on_rank(rank, folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TASKS, "grouped", toy_task.Grouped)
        patch.setitem(MEASURES, "toy/spread", toy_task.MEASURE)
        callback = NeuralCollapseCallback(task="grouped")
        run, module = regress(callback, strategy="ddp", devices=2, default_root_dir=folder)
    return {k: float(v) for k, v in run.callback_metrics.items()}, module.noted["val", 1]


@pytest.mark.ddp
def test_a_task_from_outside_is_merged_over_ranks(two_processes, tmp_path):
    (first, rows), (second, others) = two_processes.run(regress_on_rank, str(tmp_path))
    assert first["toy/spread/val"] == second["toy/spread/val"]
    both = Regressor()
    both.noted["val", 1] = [*rows, *others]
    assert first["toy/spread/val"] == pytest.approx(both.distance("val", 1), rel=1e-6)
    alone = Regressor()
    alone.noted["val", 1] = rows
    assert first["toy/spread/val"] != pytest.approx(alone.distance("val", 1), rel=1e-3)


def widest(means_frame):
    """The largest norm of a class mean."""
    return means_frame.norms.max()


def test_a_measure_is_a_function_and_a_line(monkeypatch):
    line = Measure("toy/widest", widest, ("means_frame",), "the largest norm of a mean", "", "")
    monkeypatch.setitem(MEASURES, "toy/widest", line)
    callback = NeuralCollapseCallback(layers=["neck"])
    run = fit(Network(), [callback])
    for place in ("val", "train_online", "val/neck"):
        norms = callback.statistics[place].frame.norms
        value = float(run.callback_metrics[f"toy/widest/{place}"])
        assert value == pytest.approx(float(norms.max()))


def shift(statistics, references):
    """How far the global mean has moved since the last epoch of training."""
    if "train_online" not in references:
        raise UndefinedMeasure("there was no training yet")
    return (statistics.global_mean - references["train_online"].statistics.global_mean).norm()


@pytest.fixture
def stages():
    before = list(STAGES)
    yield STAGES
    STAGES[:] = before


def test_a_measure_may_ask_for_what_another_stage_has_left(monkeypatch, stages):
    line = Measure("toy/shift", shift, ("statistics", "references"), "of the global mean", "", "")
    monkeypatch.setitem(MEASURES, "toy/shift", line)
    place = next(i for i, stage in enumerate(stages) if stage.name == "val")
    stages[place] = Stage("val", "validate", references=("train_online",))
    module, callback = Network(), NeuralCollapseCallback(measures=["toy/shift"])
    with pytest.warns(NeuralCollapseWarning, match="toy/shift left out: there was no training yet"):
        fit(module, [callback])
    means = []
    for noted in (module.noted["val", 1], module.noted["train_online", 0]):
        h, y = (torch.cat([row[i] for row in noted]) for i in range(2))
        means.append(ClassStatistics.from_batch(h, y, 10).global_mean)
    [entry] = callback.history["toy/shift/val"]
    assert entry.epoch == 1
    assert entry.value == pytest.approx(float((means[0] - means[1]).norm()), rel=1e-5)


def largest(x):
    return x.flatten(2).amax(2)


class Convolutions(Network):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(1, 12, 3, padding=1)
        self.hidden = nn.Linear(12 * 64, 32)

    def features(self, x):
        maps = self.conv(self.frozen_norm(x)[:, None]).relu()
        return self.neck(self.norm(self.hidden(maps.flatten(1)))).relu()


def test_a_pool_is_a_line(monkeypatch):
    monkeypatch.setitem(POOLS, "largest", largest)
    callback = NeuralCollapseCallback(layers={"conv": "largest"})
    fit(Convolutions(), [callback])
    assert callback.statistics["val/conv"].num_features == 12


class TwoLoaders(Network):
    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        return self.note("val", batch)


def test_a_stage_is_a_line(stages):
    stages.append(Stage("holdout", "validate", loader=1))
    loaders = [DataLoader(digits(ROWS, 96), BATCH), DataLoader(digits(400, 48), BATCH)]
    run = fit(TwoLoaders(), [NeuralCollapseCallback()], val=loaders)
    assert float(run.callback_metrics["nc0/num_samples/holdout"]) == 48
    assert float(run.callback_metrics["nc0/num_samples/val"]) == 96
    assert "nc0/num_samples/val_1" not in run.callback_metrics


@pytest.fixture
def pictures():
    before = dict(PICTURES)
    PICTURES.clear()
    yield PICTURES
    PICTURES.clear()
    PICTURES.update(before)


def test_a_picture_is_a_file_and_a_line(monkeypatch, pictures, tmp_path):
    monkeypatch.setattr("lightning_nc.report.gallery.AFFORDED", float("inf"))
    drawn = []

    def draw(evidence, look, ax):
        drawn.append((look.stage, evidence.num_classes))
        return Figure(figsize=(1, 1)), None

    pictures["toy"] = Picture("toy", draw, needs=("statistics",), animated=True)
    pictures["unmet"] = Picture("unmet", draw, needs=("group_means",))
    logger = CSVLogger(tmp_path)
    fit(Network(), [NeuralCollapseCallback(figures_every_n_epochs=1)], logger=logger)
    assert set(drawn) == {("train_online", 10), ("val", 10)}
    files = {path.parent.relative_to(logger.log_dir).as_posix() for path in tmp_path.rglob("*.png")}
    assert files == {"neural_collapse/toy/train_online", "neural_collapse/toy/val"}
    gifs = {path.name for path in tmp_path.rglob("*.gif")}
    assert gifs == {"train_online.gif", "val.gif"}
