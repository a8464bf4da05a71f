"""What a run knows of its training data, and in which stages keys for unequal counts are logged."""

from collections.abc import Mapping
from typing import Any

from lightning_nc.tasks.task import Around
from lightning_nc.values.evidence import Evidence
from lightning_nc.values.recorded import HEAD, Recorded
from lightning_nc.values.stage import Stage
from lightning_nc.values.training import Training


class Census:
    """Rows of each class in training: of the first whole epoch that a run has measured.

    Whether a stage has keys for unequal counts is decided where it first ends, and stays so for the
    run, so that no key comes or goes.

    Attributes:
        training: What is known.
        glimpse: What the first epoch has shown so far, where nothing else is known.
        joined: Whether those keys are logged, by stage.
    """

    def __init__(self) -> None:
        self.training = self.glimpse = Training()
        self.joined: dict[str, bool] = {}

    def around(
        self, stage: Stage, references: Mapping[str, Mapping[str, Evidence]], is_whole: bool
    ) -> Around:
        """What is known where a stage ends.

        Args:
            stage: The stage.
            references: The evidence of other stages, by stage and module.
            is_whole: Whether its rows are a whole epoch.

        Returns:
            The same on all ranks.
        """
        known = self.glimpse if self.training.counts is None and not stage.trains else self.training
        by_head, joins = not stage.weights_move, self.joined.get(stage.name)
        return Around(references, by_head, known, stage.trains, is_whole, joins)

    def note(self, stage: Stage, recorded: Recorded) -> None:
        """Take up what a stage has come to.

        Args:
            stage: The stage.
            recorded: What it has come to.
        """
        head = recorded.evidence.get(HEAD)
        if head is None or not head.num_samples:
            return
        if stage.trains and head.training is not None:
            self.training = head.training.to("cpu")
        self.joined.setdefault(stage.name, "unequal_counts" in head.occasions)

    def state_dict(self) -> dict[str, Any]:
        """In primitives and tensors."""
        return {"training": self.training.state_dict(), "joined": dict(self.joined)}

    @classmethod
    def from_state_dict(cls, state: Any) -> "Census | None":
        """Of what :meth:`state_dict` has given.

        Args:
            state: The state.

        Returns:
            The same; None of an empty state.

        Raises:
            ValueError: If it is no such state.
        """
        if state == {}:
            return None
        given = state if isinstance(state, Mapping) else {"training": state}
        training, joined = Training.from_state_dict(given.get("training", {})), given.get("joined", {})
        if not isinstance(joined, Mapping) or not all(isinstance(v, bool) for v in joined.values()):
            raise ValueError(
                "Expected the stages with keys for unequal counts to be a dict of booleans, but got "
                f"{type(joined).__name__}."
            )
        census = cls()
        census.training, census.joined = training, dict(joined)
        return census
