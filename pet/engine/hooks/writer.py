"""PeriodicWriter: hands the storage to the writers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pet.engine.events import EventStorage
from pet.engine.hooks.base import Hook, Phase
from pet.engine.writers import EventWriter


class PeriodicWriter(Hook):
    """Writes scalars on log steps (first, last, every DISPLAY_ITER) and results and pictures when there are any.

    Every rank needs the hook, because values are reduced over the ranks; only rank 0 has writers.
    """

    phase = Phase.WRITE

    def __init__(self, writers: Sequence[EventWriter]) -> None:
        self._writers = list(writers)

    def after_step(self, storage: EventStorage) -> None:
        """Write when due."""
        if storage.evaluation_interrupted:
            return
        if storage.is_log_step:
            storage.flush()
            for writer in self._writers:
                writer.write_scalars(storage)
        if storage.evaluations or storage.images:
            for writer in self._writers:
                writer.write_results(storage)

    def after_train(self, storage: EventStorage) -> None:
        """Close the writers."""
        for writer in self._writers:
            writer.close()

    def state_dict(self) -> dict[str, Any]:
        """State of the writers by class name, from rank 0."""
        return {"writers": {type(writer).__name__: writer.state_dict() for writer in self._writers}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore."""
        for writer in self._writers:
            name = type(writer).__name__
            if name in state["writers"]:
                writer.load_state_dict(state["writers"][name])
            elif writer.state_dict():
                raise KeyError(name)
