"""Where in a network and in its batches there is something to measure."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from lightning_nc.dotted_path import import_function
from lightning_nc.watch.graph_batch import GRAPH_POOLS

Forwards = Literal["first", "last", "all", "concat"]
Place = str | int | Callable[[Any], Any]
"""Of something in a batch: a position, a key or attribute, a dotted path into it, or a function."""


@dataclass(frozen=True)
class Places:
    """Where in a network and in its batches there is something to measure.

    Attributes:
        classifier: Path to the last linear map, or to a parameter; None: found, and refused where that
            is doubtful. False: there is none.
        features: Path to the module whose output is the feature; None: the classifier's input is.
        layers: Paths or globs of further modules; a mapping gives each its pool, or several.
        pool: A name in :data:`~lightning_nc.watch.pools.POOLS`, a dotted function, or "auto".
        forwards: Which forward of a step counts when there are several.
        target: Where the labels are in a batch; a mapping gives each stage its own.
        target_shift: By how many positions the labels are ahead of their tokens.
        mask: Where a batch tells which rows count; a mapping gives each stage its own.
        predicted: A function of the batch and of what the step has returned, to a decision for each
            label.
    """

    classifier: str | bool | None = None
    features: str | None = None
    layers: Sequence[str] | Mapping[str, str | Sequence[str]] = ()
    pool: str = "auto"
    forwards: Forwards = "last"
    target: Place | Mapping[str, Place | None] | None = None
    target_shift: int = 0
    mask: Place | Mapping[str, Place | None] | None = None
    predicted: str | Callable[[Any, Any], Any] | None = None

    def __post_init__(self) -> None:
        known = get_args(Forwards)
        if self.forwards not in known:
            raise ValueError(f"Expected forwards to be one of {known}, but got {self.forwards!r}.")
        if isinstance(self.predicted, str):
            import_function(self.predicted, "predicted")
        if self.classifier is True:
            raise ValueError(
                "Expected classifier to be the dotted path of a linear map, None to have it found, or "
                "False for features without a head, but got True."
            )
        if self.features is None and self.classifier is False:
            raise ValueError(
                "Expected features with classifier=False, but got none: without a head there is no "
                "input of it. Set features to the dotted path of the module whose output is the "
                "feature."
            )
        if self.features is not None and self.classifier is None:
            raise ValueError(
                f"Expected a classifier with features={self.features!r}, but got none: where the "
                "head's input is not looked at, which head it is cannot be found. Set classifier to "
                "the dotted path of the last linear map or its weight, or to False for features "
                "without one."
            )

    def require_stages(self, names: Iterable[str]) -> None:
        """Raise a ValueError unless stages that will run have a target and a mask.

        Args:
            names: Of the stages.

        Raises:
            ValueError: If a mapping leaves out one of them.
        """
        for name in names:
            of_stage(self.target, name, "target")
            of_stage(self.mask, name, "mask")

    @property
    def names_graphs(self) -> bool:
        """Whether some layer has a pool of graphs."""
        of_layers = self.layers.values() if isinstance(self.layers, Mapping) else ()
        pools = ([each] if isinstance(each, str) else each for each in (self.pool, *of_layers))
        return any(pool in GRAPH_POOLS for each in pools for pool in each)

    @property
    def head(self) -> str | None:
        """The path of the classifier, where one was named."""
        return self.classifier if isinstance(self.classifier, str) else None


def of_stage(given: Any, stage: str, argument: str) -> Any:
    """What is given for a stage.

    Args:
        given: For all stages, or a mapping from the names of stages; that of "train_online" serves
            "train" as well, which shows the same data.
        stage: The name of a stage.
        argument: The name of the setting, for the message.

    Returns:
        What is given.

    Raises:
        ValueError: If a mapping leaves out the stage.

    Example:
        >>> of_stage({"train_online": "a", "val": "b"}, "train", "mask"), of_stage("a", "val", "mask")
        ('a', 'a')
    """
    if not isinstance(given, Mapping):
        return given
    name = "train_online" if stage == "train" and stage not in given else stage
    if name not in given:
        raise ValueError(
            f"Expected {argument} for each stage that runs, but got it for {', '.join(given)} and not "
            f"for {stage!r}. Add {stage!r} to {argument}, with None where there is nothing to set."
        )
    return given[name]
