"""Hooks for ``MISC.HOOKS`` that fail on purpose."""

from __future__ import annotations

from pet.engine.events import EventStorage
from pet.engine.hooks.base import Hook
from pet.utils import comm


class RaiseOnLastRank(Hook):
    """Raises on the last rank."""

    def __init__(self, update: int) -> None:
        self._update = update

    def after_step(self, storage: EventStorage) -> None:
        if storage.iteration == self._update and comm.get_rank() == comm.get_world_size() - 1:
            raise ArithmeticError(f"the last rank fails in update {self._update}")


class MisspeltStage(Hook):
    """Would never be called."""

    def after_stp(self, storage: EventStorage) -> None:
        """Meant to be ``after_step``."""
