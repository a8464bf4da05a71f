"""`measure`: neural collapse of any network on any loader, in one call and one pass; no Trainer."""

import copy
import dataclasses
import logging
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset

from lightning_nc.dotted_path import import_function
from lightning_nc.measurement import Measurement
from lightning_nc.tasks import Settings, Task, make_task
from lightning_nc.tasks.stated import (
    checked_counts,
    checked_shots,
    checked_threshold,
    stated_penalties,
)
from lightning_nc.unchanged import eval_mode, same_buffers, same_random_states
from lightning_nc.values.covariance import Covariances, by_module
from lightning_nc.values.errors import NeuralCollapseWarning
from lightning_nc.values.recorded import HEAD, Recorded
from lightning_nc.values.stage import Stage
from lightning_nc.watch.arguments import arguments_of, signature_of
from lightning_nc.watch.graph_batch import find_graph
from lightning_nc.watch.labels import find_mask, find_target
from lightning_nc.watch.places import Forwards, Place, Places, of_stage
from lightning_nc.watch.watch import Watch

Function = str | Callable[[Any, Any], Any]

_STAGE = Stage("measure", "measure", ends_epoch=True, trains=True)
_IN_EVAL_MODE = "Call model.eval() before measuring, and model.train() after it."
_LOG = logging.getLogger("lightning_nc")


def measure(
    model: nn.Module, loader: Iterable[Any], classifier: str | bool | None = None,
    features: str | None = None, layers: Sequence[str] | Mapping[str, Any] = (), pool: str = "auto",
    target: Place | None = None, target_shift: int = 0, mask: Place | None = None,
    predicted: Function | None = None, task: str = "multiclass", num_classes: int | None = None,
    measures: Sequence[str] = ("default",), covariance: Covariances = "auto",
    ignore_index: int | None = -100, min_count: int = 1, forwards: Forwards = "last",
    device: torch.device | str | None = None, forward: Function | None = None, progress: bool = True,
    seed: int = 0, penalty: float | Mapping[str, float] | None = None,
    feature_penalty: float | None = None, class_counts: Sequence[int] | None = None,
    shots: Sequence[int] = (20, 100), threshold: float | None = None,
) -> Measurement:  # fmt: skip
    """Neural collapse of a network on labeled data, in eval mode, without gradients, in one pass.

    Nothing of the network is changed: weights, buffers, hooks and the mode of each submodule are the
    same afterwards, and so are the global random states. The rows of this process alone are measured.

    Args:
        model: Any module.
        loader: Gives batches: a DataLoader, a list, a generator.
        classifier: Dotted path to the last linear map. None: the one that runs last, if certain.
        features: Dotted path to the module whose output is the feature. None: the classifier's input.
        layers: More modules, by dotted path or glob; a mapping gives each its pool.
        pool: How an output with more than two dimensions becomes rows.
        target: Where the labels are: a position, a key, an attribute, a dotted path of these, or a
            function of the batch. None: under a usual name, else the second item.
        target_shift: 1: the label of a position is the next token's.
        mask: Likewise, which rows count.
        predicted: A function of the batch and of what the network returns: a class for each label.
        task: What a label is: "multiclass", "binary", "multilabel" or "regression" (docs/labels.md).
        num_classes: None: the classifier's rows.
        measures: Keys, globs, families ("layer"), "default", or functions by dotted path.
        covariance: "auto", "pooled", "per_class" or "none"; a mapping gives each layer its own, "" for
            the classifier's features.
        ignore_index: Label of rows to leave out, or None.
        min_count: Classes with fewer rows are left out.
        forwards: Which forward of the classifier counts, where several run on a batch.
        device: Where batches go. None: to the network, unless it is on several devices.
        forward: A function of model and batch that runs the network, or its dotted path. None: on a
            mapping as keywords, less labels that it does not take; on the first item of a sequence that
            is not the labels, or the batch itself, where nothing else could be meant.
        progress: Show a bar where the pass takes more than two seconds, in a terminal or a notebook.
        seed: Of the sample of rows; the global random state is never touched.
        penalty: Lambda of the classifier's weight and bias in the objective (docs/imbalance.md), for
            mse/*; a mapping gives "weight" and "bias" their own. None: not known.
        feature_penalty: Likewise, of the features; for tags/scale_2_predicted, nrc3/limit_distance and
            functions of your own, which get `penalties`.
        class_counts: Rows of each class in the training data, for imbalance/*. None: those of the
            loader.
        shots: Where few-shot classes end, and many-shot classes begin.
        threshold: Of several tags, a row has those whose sigmoid is above it. None: as many as it
            has, those with the highest scores.

    Returns:
        The values, which print as a table, and what they were computed from.

    Raises:
        ValueError: If settings, network and batches do not fit, or no row counts.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> batches = [(torch.randn(20, 4), torch.arange(20) % 3) for _ in range(2)]
        >>> measure(model, batches).values["nc0/num_samples"]
        40.0
    """
    _require_network_and_batches(model, loader)
    at_least_0 = {"target_shift": (target_shift, 0), "seed": (seed, 0)}
    _require_at_least(num_classes=(num_classes, 2), min_count=(min_count, 1), **at_least_0)
    whole, own = by_module(covariance)
    settings = Settings(
        num_classes, whole, ignore_index, _as_names(measures), seed=seed, min_count=min_count,
        measures_layers=bool(layers), own_covariances=own, keeps_all_rows=forwards != "all",
        penalties=stated_penalties(penalty, feature_penalty), class_counts=checked_counts(class_counts),
        shots=checked_shots(shots), threshold=checked_threshold(threshold),
    )  # fmt: skip
    places = Places(classifier, features, layers, pool, forwards, target, target_shift, mask, predicted)
    told: dict[str, str] = {}
    kind = make_task(task, settings, {**vars(settings), **vars(places)})
    watch = Watch(model, places, kind, told.__setitem__, _LOG.info)
    try:
        where = _device(model, device)
        with (
            same_random_states(*_devices(model)), same_buffers(model), eval_mode(model, _IN_EVAL_MODE),
            _bar(loader, progress) as batches,
        ):  # fmt: skip
            there = batches if where is None else (_moved(batch, where) for batch in batches)
            _run(there, watch, _way(model, forward, places, kind))
        recorded = watch.end(_STAGE, where or torch.device("cpu"), distributed=False, is_whole=True)
    finally:
        watch.detach()
    measurement = Measurement.of(recorded, watch.classifier_name)
    told.update(_notices(recorded, watch.classifier_name if classifier is None else None))
    for text in told.values():
        warnings.warn(text, NeuralCollapseWarning, stacklevel=2)
    return measurement


def _run(batches: Iterable[Any], watch: Watch, way: Callable[[Any], Any]) -> None:
    is_empty = True
    for batch in batches:
        is_empty = False
        with torch.no_grad():
            watch.open(batch, _STAGE)
            outputs = way(batch)
            watch.close(_STAGE, chooses=True, outputs=outputs)
    if is_empty:
        raise ValueError(
            "Expected at least one batch, but the loader gave none. Is its data set empty, does "
            "drop_last drop the only batch, or is it an iterator that was used up before?"
        )


def _notices(recorded: Recorded, found: str | None) -> dict[str, str]:
    """What to tell of the data; where the classifier was found, and the classes do not fit, a doubt."""
    doubt = f" Or is {found!r}, which was found by itself, not the classifier? Set `classifier`."
    doubtful = () if found is None else ("absent", "out_of_range")
    return {
        f"{kind} {modules}": text + doubt * (modules == [HEAD] and kind in doubtful)
        for modules, kind, text in recorded.told()
    }


def _as_names(measures: Sequence[str]) -> tuple[str, ...]:
    return (measures,) if isinstance(measures, str) else tuple(measures)


def _require_network_and_batches(model: Any, loader: Any) -> None:
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"Expected model to be an nn.Module, but got a {type(model).__name__}. Pass the network "
            "first and the loader second; of an object that holds a network, the network."
        )
    is_data_set = isinstance(loader, Dataset) and not isinstance(loader, IterableDataset)
    if is_data_set or not isinstance(loader, Iterable):
        raise ValueError(
            f"Expected loader to give batches, but got a {type(loader).__name__}. Is it a data set? "
            "Wrap it: torch.utils.data.DataLoader(dataset, batch_size=256)."
        )


def _require_at_least(**given: tuple[int | None, int]) -> None:
    for name, (value, least) in given.items():
        if value is not None and value < least:
            raise ValueError(f"Expected {name} to be at least {least}, but got {value}.")


def _bar(loader: Iterable[Any], progress: bool) -> AbstractContextManager[Iterable[Any]]:
    """The batches, under a bar where somebody looks; gone at the end."""
    if progress and ("ipykernel" in sys.modules or (sys.stderr is not None and sys.stderr.isatty())):
        with suppress(ImportError):
            from tqdm import tqdm

            return closing(tqdm(loader, "Neural collapse", unit="batch", leave=False, delay=2.0))
    return nullcontext(loader)


def _way(
    model: nn.Module, forward: Function | None, places: Places, task: Task
) -> Callable[[Any], Any]:
    """From a batch to what the network returns."""
    function = import_function(forward, "forward") if isinstance(forward, str) else forward
    if function is not None:
        return lambda batch: function(model, batch)
    takes = signature_of(model)

    def run(batch: Any) -> Any:
        args, keywords, doubt = arguments_of(batch, takes, _asides(batch, places, task))
        if not doubt:
            return model(*args, **keywords)
        place: Any = list(batch)[:1] if isinstance(batch, Mapping) else [0]
        if not isinstance(batch, Mapping | list | tuple):
            place = ".x" if find_graph(batch) is None else ".x, batch.edge_index"
        raise ValueError(
            f"Expected to be certain how the forward of {type(model).__name__} takes a "
            f"{type(batch).__name__} as batch, but {doubt}. It takes ({', '.join(takes.parameters)}). "
            "Set forward to a function of the model and the batch that calls it, such as "
            f"forward=lambda model, batch: model(batch{place})."
        )

    return run


def _asides(batch: Any, places: Places, task: Task) -> list[Any]:
    """What a batch has beside the inputs: labels and mask."""
    where = of_stage(places.mask, _STAGE.name, "mask")
    mask = None if where is None else find_mask(batch, where)
    where = of_stage(places.target, _STAGE.name, "target")
    labels = find_target(batch, where, mask, task.read, task.names_classes)
    return [each for each in (labels, mask) if each is not None]


def _devices(model: nn.Module) -> list[torch.device]:
    return list(dict.fromkeys(t.device for t in (*model.parameters(), *model.buffers())))


def _device(model: nn.Module, wanted: torch.device | str | None) -> torch.device | None:
    """Where batches go; None: they stay."""
    found = _devices(model)
    if wanted is None:
        return found[0] if len(found) == 1 else None
    place = torch.device(wanted)
    fitting = [d for d in found if d.type == place.type and place.index in (None, d.index)]
    if found and not fitting:
        raise ValueError(
            f"Expected the model on {place}, as device asks for, but it is on "
            f"{', '.join(map(str, found))}. Move it, model.to({str(place)!r}), or leave device out."
        )
    return fitting[0] if fitting else place


def _moved(value: Any, device: torch.device) -> Any:
    """A batch whose tensors are on a device; the one that was given stays as it is."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=device.type == "cuda")
    if callable(getattr(value, "to", None)) and not isinstance(value, type):
        return copy.copy(value).to(device)  # some move themselves
    if isinstance(value, Mapping):
        changed: Any = copy.copy(value)
        for key, item in value.items():
            changed[key] = _moved(item, device)
        return changed
    if isinstance(value, list | tuple):
        items = [_moved(item, device) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        made = copy.copy(value)
        for field in dataclasses.fields(value):
            object.__setattr__(made, field.name, _moved(getattr(value, field.name), device))
        return made
    return value
