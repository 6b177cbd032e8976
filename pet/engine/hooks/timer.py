"""IterationTimer: how long an update takes."""

from __future__ import annotations

from time import perf_counter

from pet.engine.events import EventStorage
from pet.engine.hooks.base import Hook, Phase


class IterationTimer(Hook):
    """Records ``time``: seconds of an update with its data, without the other hooks that follow it."""

    phase = Phase.TIMING

    def __init__(self) -> None:
        self._start = 0.0

    def before_step(self, storage: EventStorage) -> None:
        """Start the clock."""
        self._start = perf_counter()

    def after_step(self, storage: EventStorage) -> None:
        """Record the time."""
        storage.put_scalar("time", perf_counter() - self._start)
