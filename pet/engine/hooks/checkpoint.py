"""Checkpoint: save at a period, at the end and before an early stop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from pet.engine.checkpointer import CheckPointer
from pet.engine.events import EventStorage
from pet.engine.hooks.base import Hook, Phase
from pet.engine.launch import EXIT_FAILED


class Checkpoint(Hook):
    """Saves when due, at the last update, and when the run is asked to stop; never after a failure.

    A checkpoint may be written while the run goes on. When the run ends, in whatever way, the newest one is durable; one that
    could not be written ends the run, as soon as the ranks agree on it.

    Args:
        checkpointer, model, optimizer, scheduler: as for ``CheckPointer.save``.
        periods: updates between two saves; several may apply (snapshots, and evaluations that choose the best).
        infix: ``iter`` or ``epoch``: how the files are numbered.
        check: called on every rank before a save; raises if the state must not be written.
    """

    phase = Phase.SAVE

    def __init__(
        self,
        checkpointer: CheckPointer,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        scheduler: Any,
        periods: Sequence[int],
        infix: str = "iter",
        check: Callable[[EventStorage], None] | None = None,
    ) -> None:
        self._checkpointer = checkpointer
        self._arguments = (model, optimizer, scheduler)
        self._periods, self._infix, self._check = tuple(periods), infix, check

    def after_step(self, storage: EventStorage) -> None:
        """Save when due or when the run is about to stop."""
        if self._checkpointer.write_failed:
            storage.request_stop("a checkpoint could not be written", EXIT_FAILED)
        if storage.stop is not None or storage.is_due(*self._periods):
            self._save(storage)

    def after_train(self, storage: EventStorage) -> None:
        """Save what a stop after this phase left unsaved, and wait until it is durable."""
        if storage.failed:
            self._checkpointer.finish()
        else:
            self._save(storage)
            self._checkpointer.wait()

    def _save(self, storage: EventStorage) -> None:
        if storage.last_update <= self._checkpointer.last_saved:
            return
        if self._check is not None:
            self._check(storage)
        storage.flush()
        per_epoch = storage.iter_per_epoch
        self._checkpointer.meta["epoch"] = round(storage.last_update / per_epoch, 4) if per_epoch else 0.0
        ends_epoch = per_epoch and storage.last_update % per_epoch == 0
        by_epoch = self._infix == "epoch" and ends_epoch
        number = storage.last_update // per_epoch if by_epoch else storage.last_update
        self._checkpointer.save(*self._arguments, infix="epoch" if by_epoch else "iter", number=number)
