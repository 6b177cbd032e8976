"""EMA: an average of the weights after every update."""

from __future__ import annotations

from typing import Any

from pet.engine.events import EventStorage
from pet.engine.hooks.base import Hook, Phase


class EMA(Hook):
    """Updates the averaged weights; an update that was skipped changes neither weights nor average.

    Args:
        ema: a ``pet.solver.ema.ModelEMA`` (its state is tracked by the CheckPointer as ``ema``).
    """

    phase = Phase.UPDATE

    def __init__(self, ema: Any) -> None:
        self._ema = ema

    def after_step(self, storage: EventStorage) -> None:
        """Average."""
        if not storage.update_skipped:
            self._ema.update()
