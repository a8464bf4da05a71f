"""What is told of the places that are measured."""

from collections.abc import Collection, Iterable, Sequence

from lightning_nc.watch.capture import Capture
from lightning_nc.watch.stack import feeding, find_stack

NO_ROWS = (
    "Expected at least one row with a label that counts, but got none: nothing is logged. Is the data "
    "loader empty, or is every label ignore_index?"
)
NO_KEYS = (
    "Expected measures that these rows have, but got others alone, and nothing is logged: graph/* are "
    "of several graphs whose nodes have labels. Add 'default' to measures."
)


def features(capture: Capture) -> str:
    """Where the feature is a module's output: by what the network is taken to decide."""
    by = f"with W of {capture.classifier_name!r}; the network is taken to decide by W h + b, where "
    by += "`predicted` does not say otherwise"
    by = by if capture.linear is not None else "without a head"
    return f"Neural collapse is measured at {capture.measured}, {by}."


def silence(capture: Capture) -> str:
    """Why no forward may have been seen, and what to do."""
    if capture.feature is not None:
        return (
            f"Expected features={capture.feature.given!r} to run in a step, but its hook never fired. "
            "Is it unused, or does a copy of the network run in its place (averaged weights)? Set "
            "features to a module that runs."
        )
    name = f"{capture.classifier_name!r}" if capture.classifier_name else "any nn.Linear"
    return (
        f"Expected the forward of {name} to run in a step, but its hook never fired. Is it "
        "unused, applied as a function (F.linear with its weight), called with its input as a "
        "keyword, or does a copy of the network run in its place (averaged weights)? Was the "
        "network, or another of its class, compiled and run before the Trainer started (call "
        "torch._dynamo.reset() before each run, or set "
        "torch._dynamo.config.skip_nnmodule_hook_guards = False before compiling)? Give the "
        "dotted path of the layer that runs as `classifier`; of one that is applied as a function, "
        "set features to the module whose output it is applied to as well."
    )


def no_weights(capture: Capture) -> str:
    """Why keys that need the weight that a layer's input meets are those of the classifier alone."""
    named = ", ".join(map(repr, list(capture.layers)[:3]))
    return (
        f"No weight is known at the layers {named}, ...: of the keys layer/* those that need one are "
        "the classifier's alone. Name the nn.Linear or convolution itself, as 'name:in', or all of "
        "them as '**:in'; a grouped one, and one with a forward of its own, has none that is known."
    )


def head(capture: Capture, looked_for: Sequence[str]) -> str:
    """Which layers make up the linear head.

    Args:
        capture: With a classifier that is known, and a head that a forward has settled.
        looked_for: The layers that were taken for a part of it before the classifier was known.

    Returns:
        A sentence.

    Raises:
        ValueError: If the head ends in another classifier than was expected before it was known.
    """
    found = [layer.name for layer in find_stack(capture.modules, capture.classifier_name)]
    if found != list(looked_for):
        if not looked_for and capture.classifier_name == capture.named:
            raise ValueError(
                "Expected the widths of the layers in front of the classifier to be known before the "
                f"run, but {found[0].removesuffix('.in')!r} is lazy. Run the network on a batch first."
            )
        raise ValueError(
            "Expected the linear head to end in the last nn.Linear of the network, but the classifier "
            f"is {capture.classifier_name!r}. Set classifier={capture.classifier_name!r}, so that the "
            "layers in front of it are measured."
        )
    paths = [capture.layers[name].path for name in capture.depth.stack]
    listed = [*paths, capture.classifier_name or ""]
    before = feeding(capture.modules, listed[0])
    ends = "" if before is None else f" It ends before {before!r}, which has a bias."
    return f"The linear head is M = {len(listed)}: {', '.join(map(repr, listed))}.{ends}"


def has_one_row(capture: Capture) -> bool:
    """Whether the classifier is the single row of a binary head."""
    return capture.linear is not None and capture.linear.rows == 1


def looks_at_head(capture: Capture, needs: Collection[str]) -> bool:
    """Whether measures ask of which layers the head consists, and it is no single row."""
    asks = bool({"product", "linear_head"} & set(needs))
    return asks and capture.linear is not None and not has_one_row(capture)


def doubt_of_head(capture: Capture, needs: Collection[str]) -> str:
    """Why it is not certain how many layers the classifier's head has, a clause; empty where it is.

    Args:
        capture: Hooks on the network.
        needs: The parts of the evidence that the measures rest on that were asked for.

    Returns:
        The clause.
    """
    if has_one_row(capture):
        return "the classifier has a single row, and these geometries one for each class"
    if capture.linear is None or looks_at_head(capture, needs):
        return ""
    before = find_stack(capture.modules, capture.classifier_name, of_one_row=True)
    if not before:
        return ""
    named = ", ".join(repr(layer.path) for layer in before)
    return (
        f"{named} without a bias come right before the classifier, and may be a part of its head, "
        "whose geometry depends on its layers; measures=['default', 'imbalance'] looks at them"
    )


def silent_layers(names: Iterable[str]) -> str:
    """A sentence on layers that did not run.

    Args:
        names: The layers.

    Returns:
        The sentence.

    Example:
        >>> silent_layers(["aside"])[:38]
        "Expected the layers 'aside' to run in "
    """
    return (
        f"Expected the layers {', '.join(map(repr, names))} to run in each forward before the "
        "classifier does, but they did not: nothing is logged of them. Are they unused, or "
        "used after the classifier?"
    )
