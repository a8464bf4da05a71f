"""What a stage has come to."""

from dataclasses import dataclass, field

from lightning_nc.values.evidence import Evidence
from lightning_nc.values.outcome import Outcome

HEAD = ""
"""Name of the measured module whose features are the classifier's input."""


@dataclass(frozen=True, eq=False)
class Recorded:
    """Of all ranks together, by measured module; :data:`HEAD` is the classifier's input.

    Attributes:
        evidence: What was measured.
        outcomes: What has become of the measures, by module and key.
        notices: What to tell the user, by kind and module.
    """

    evidence: dict[str, Evidence] = field(default_factory=dict)
    outcomes: dict[str, dict[str, Outcome]] = field(default_factory=dict)
    notices: dict[tuple[str, str], str] = field(default_factory=dict)
