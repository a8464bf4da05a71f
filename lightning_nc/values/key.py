"""The name of a logged value: the only place that joins or splits its parts."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Key:
    """``nc1/cdnv/val/backbone``: measure, stage, layer, and what the callback puts before all of them.

    Pictures have the group ``neural_collapse`` in the place of a measure's.

    Attributes:
        measure: Group and name, such as "nc1/cdnv".
        stage: The name of a stage; "" for what belongs to the whole run.
        layer: A measured layer; "" for the classifier's input.
        prefix: Put before it as it is.

    Example:
        >>> str(Key("nc1/cdnv", "val", "body.0", prefix="mine/"))
        'mine/nc1/cdnv/val/body.0'
        >>> Key.parse("nc1/cdnv/val")
        Key(measure='nc1/cdnv', stage='val', layer='', prefix='')
        >>> Key.parse("loss"), Key.parse("nc1/cdnv/val", prefix="mine/")
        (None, None)
    """

    measure: str
    stage: str = ""
    layer: str = ""
    prefix: str = ""

    def __str__(self) -> str:
        return self.prefix + "/".join(part for part in (self.measure, self.stage, self.layer) if part)

    @classmethod
    def parse(cls, text: str, prefix: str = "") -> "Key | None":
        """The key that has this text, or None if it is none of ours."""
        parts = text.removeprefix(prefix).split("/", 3)
        if not text.startswith(prefix) or len(parts) < 3:
            return None
        group, name, stage, *layer = parts
        return cls(f"{group}/{name}", stage, "".join(layer), prefix)

    @property
    def group(self) -> str:
        """Such as "nc1"."""
        return self.measure.partition("/")[0]

    @property
    def name(self) -> str:
        """The measure less its group, such as "cdnv"."""
        return self.measure.partition("/")[2]


def keys_in(texts: Iterable[str], prefix: str = "") -> Iterator[tuple[str, Key]]:
    """Those of some texts that are keys, with what they say.

    Example:
        >>> [key.stage for _, key in keys_in(["loss", "nc1/cdnv/val"])]
        ['val']
    """
    for text in texts:
        key = Key.parse(text, prefix)
        if key is not None:
            yield text, key
