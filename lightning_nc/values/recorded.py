"""What a stage has come to."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from lightning_nc.values.evidence import Evidence
from lightning_nc.values.outcome import Outcome

HEAD = ""
"""Name of the measured module whose features are the classifier's input."""

_NAMED = 3  # at most so many layers by their names


@dataclass(frozen=True, eq=False)
class Recorded:
    """Of all ranks together, by measured module; :data:`HEAD` is the classifier's input.

    Attributes:
        evidence: What was measured.
        outcomes: What has become of the measures, by module and key.
        notices: What to tell the user, by kind and module, of which the text says nothing.
    """

    evidence: dict[str, Evidence] = field(default_factory=dict)
    outcomes: dict[str, dict[str, Outcome]] = field(default_factory=dict)
    notices: dict[tuple[str, str], str] = field(default_factory=dict)

    def told(self, known: Collection[tuple[str, str]] = ()) -> Iterator[tuple[list[str], str, str]]:
        """What is to be told, in one text where it is the same of several layers.

        Args:
            known: Kinds and modules of which it was told before.

        Yields:
            The modules, the kind and the text.

        Example:
            >>> recorded = Recorded(notices={("few", "a"): "Few.", ("few", "b"): "Few."})
            >>> list(recorded.told())
            [(['a', 'b'], 'few', "Layers 'a', 'b': Few.")]
        """
        together: dict[tuple[str, str, bool], list[str]] = {}
        for (kind, module), text in self.notices.items():
            if (kind, module) not in known:
                together.setdefault((kind, text, module == HEAD), []).append(module)
        for (kind, text, of_head), modules in together.items():
            yield modules, kind, text if of_head else f"{_named(modules)}: {text}"


def _named(layers: list[str]) -> str:
    some = ", ".join(map(repr, layers[:_NAMED]))
    more = f" and {len(layers) - _NAMED} more" if len(layers) > _NAMED else ""
    return f"Layer{'s' if len(layers) > 1 else ''} {some}{more}"
