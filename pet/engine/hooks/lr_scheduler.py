"""LRScheduler: the learning rate of the next update."""

from __future__ import annotations

from typing import Any

import torch

from pet.engine.events import EventStorage
from pet.engine.hooks.base import Hook, Phase


class LRScheduler(Hook):
    """Records ``lr`` of the update that was made, then moves the schedule to the next one.

    An update that was skipped counts like any other: counter, schedule and data advance together.

    Args:
        optimizer: the first group without its own factor is the one recorded.
        scheduler: has ``step()``.
    """

    phase = Phase.UPDATE

    def __init__(self, optimizer: torch.optim.Optimizer, scheduler: Any) -> None:
        # By place: loading a state replaces the groups.
        self._place = next((i for i, group in enumerate(optimizer.param_groups) if group.get("lr_factor", 1.0) == 1.0), 0)
        self._optimizer, self._scheduler = optimizer, scheduler

    def after_step(self, storage: EventStorage) -> None:
        """Record and advance."""
        storage.put_scalar("lr", self._optimizer.param_groups[self._place]["lr"], smoothing_hint=False)
        self._scheduler.step()
