"""DryRun: a run that ends before its first update."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import nn

from pet.config import CfgNode
from pet.engine.events import EventStorage, get_event_storage
from pet.engine.hooks.base import Hook, Phase
from pet.engine.plan import existing_parent, mib, period_of, planned_files
from pet.utils import comm
from pet.utils.logger import logging_rank


class DryRun(Hook):
    """Ends a run before its first update and says what it would have done.

    Args:
        cfg, model, optimizer, loader, ema: of the run.
    """

    phase = Phase.TIMING

    def __init__(self, cfg: CfgNode, model: nn.Module, optimizer: torch.optim.Optimizer, loader: Any, ema: Any = None) -> None:
        self._cfg, self._model, self._optimizer, self._loader, self._ema = cfg, model, optimizer, loader, ema

    def before_train(self) -> None:
        """Read the first batch, and let the optimizer make its state: all sizes are then real ones."""
        storage = get_event_storage()
        storage.request_stop("dry run", by_all_ranks=True)
        started = perf_counter()
        if storage.iteration <= storage.max_iter:
            with closing(iter(self._loader)) as windows:
                window = next(windows)
            self._read = f"the first batch was read in {perf_counter() - started:.1f} s ({_shapes(window)})"
        else:
            self._read = "nothing is left to do: this run has reached its end"
        for parameter in (p for group in self._optimizer.param_groups for p in group["params"]):
            parameter.grad = torch.zeros_like(parameter)
        self._optimizer.step()

    def after_train(self, storage: EventStorage) -> None:
        """Print the plan."""
        if not storage.failed:
            logging_rank("Dry run\n" + "\n".join(f"  {line}" for line in self._plan(storage)))

    def _plan(self, storage: EventStorage) -> list[str]:
        per_epoch, last = self._loader.iter_per_epoch, storage.max_iter
        model = comm.unwrap(self._model).state_dict()
        gradients = [p.grad for p in self._model.parameters() if p.grad is not None]
        optimizer, ema = mib(self._optimizer.state_dict()), mib(self._ema.state_dict()) if self._ema is not None else 0.0
        file, count = mib(model) + optimizer + ema, planned_files(self._cfg, last, per_epoch)
        evaluations, _ = period_of(self._cfg.EVAL.PERIOD_EPOCHS, self._cfg.EVAL.PERIOD_ITERS, per_epoch)
        measured = -(-last // evaluations) if evaluations else 1
        folder = Path(self._cfg.history("MISC.CKPT")[-2][0])
        free = shutil.disk_usage(existing_parent(folder)).free / 2**20
        return [
            f"updates {storage.iteration} to {last}, {per_epoch} in an epoch, {last / per_epoch:.4g} epochs",
            self._read,
            f"evaluations: {measured if self._cfg.EVAL.ENABLED else 0}",
            f"memory for weights, gradients and optimizer: {mib(model) + mib(gradients) + optimizer + ema:.0f} MiB; activations "
            "come on top (--check computes one update)",
            f"checkpoints of {file:.1f} MiB, at most {count} at a time: {file * count:.0f} MiB, of {free:.0f} MiB free",
            f"nothing was written to {folder}",
        ]


def _shapes(window: Any) -> str:
    return ", ".join(str(tuple(batch.images.shape)) for batch in window)
