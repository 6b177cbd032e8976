"""Hooks for ``MISC.HOOKS`` that fail on purpose."""

from __future__ import annotations

import itertools
import os
import signal
from pathlib import Path
from typing import Any

from torch import nn

from pet.engine.checkpointer import CheckPointer
from pet.engine.events import EventStorage, get_event_storage
from pet.engine.hooks.base import Hook
from pet.evaluation.class_evaluators import ClassificationEvaluator
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


class Break(Hook):
    """Breaks one part of a run on one rank.

    Args:
        where: ``model``, ``data set``, ``hook``, ``evaluator`` or ``save``.
        how: ``raise`` an exception, or ``stop`` the process as SIGSTOP does.
        rank: on which.
        update: when; of a data set it is that sample which a process reads.
        model, loader, checkpointer: of the run.
    """

    def __init__(
        self, where: str, how: str, rank: int, update: int, model: nn.Module, loader: Any, checkpointer: CheckPointer
    ) -> None:
        self._where, self._how, self._update, self._reads = where, how, update, itertools.count(1)
        if comm.get_rank() != rank:
            self._where = ""
        elif where == "model":
            comm.unwrap(model).register_forward_pre_hook(self._before_forward)
        elif where == "data set":
            self._break_before(loader.dataset, "read")
        elif where == "evaluator":
            self._break_before(ClassificationEvaluator, "process")
        elif where == "save":
            self._break_before(checkpointer, "save")

    def _before_forward(self, module: nn.Module, inputs: Any) -> None:
        if module.training:
            self._break_when_due()

    def _break_before(self, owner: Any, name: str) -> None:
        method = getattr(owner, name)

        def call(*arguments: Any, **options: Any) -> Any:
            self._break_when_due()
            return method(*arguments, **options)

        setattr(owner, name, call)

    def _break_when_due(self) -> None:
        now = next(self._reads) if self._where == "data set" else get_event_storage().iteration
        if now != self._update:
            return
        if self._how == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        raise ArithmeticError(f"the {self._where} is broken on purpose")

    def after_step(self, storage: EventStorage) -> None:
        if self._where == "hook":
            self._break_when_due()


class LastUpdate(Hook):
    """Notes on every rank which update a stopped run ended with, in ``<folder of the run>/rank<N>.txt``."""

    def __init__(self, cfg: Any) -> None:
        self._folder = Path(cfg.MISC.CKPT)

    def after_train(self, storage: EventStorage) -> None:
        if storage.stop is not None:
            with open(self._folder / f"rank{comm.get_rank()}.txt", "a") as file:
                file.write(f"{storage.last_update} {storage.stop.status}\n")
