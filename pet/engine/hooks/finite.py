"""FiniteGuard: a run whose loss is NaN or infinite ends with its cause."""

from __future__ import annotations

from typing import Any

import torch

from pet.engine.events import EventStorage
from pet.engine.hooks.base import Hook, Phase
from pet.utils import comm


class FiniteGuard(Hook):
    """Looks at the losses of all ranks whenever they are brought to the host (log steps and checkpoints).

    Between two looks nothing is synchronised with the device; the report names the first bad update all the same.

    Args:
        optimizer: its parameters are checked before a checkpoint is taken.
    """

    phase = Phase.UPDATE

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def after_step(self, storage: EventStorage) -> None:
        """Look on log steps."""
        if storage.is_log_step:
            self.check(storage)

    def check(self, storage: EventStorage) -> None:
        """Bring the values to the host and raise if a loss was not finite. Called by every rank."""
        storage.flush()
        if not storage.non_finite:
            return
        first = min(found.iteration for found in storage.non_finite)
        found = [f for f in storage.non_finite if f.iteration == first]
        names = sorted({name for f in found for name in f.names if name != "total_loss"}) or ["total_loss"]
        ids = comm.all_gather(storage.samples_of(first))
        samples = {f.rank: ids[f.rank] for f in found}
        raise FloatingPointError(
            f"{', '.join(names)} is not finite since update {first} on rank {', '.join(str(f.rank) for f in found)}; samples of "
            f"that update: {_spell(samples)}. Nothing was saved after it. Lower SOLVER.OPTIMIZER.BASE_LR, use a warm-up, clip "
            "gradients, check these samples, or set SOLVER.NON_FINITE.POLICY skip"
        )

    def check_weights(self, storage: EventStorage) -> None:
        """Raise instead of letting a checkpoint be written whose weights are not finite. Called by every rank."""
        self.check(storage)
        largest = torch.nn.utils.get_total_norm(self._parameters, float("inf"))
        if comm.agree_max(int(not bool(torch.isfinite(largest)))):
            raise FloatingPointError(
                f"weights are not finite after update {storage.iteration}, though its losses are; the checkpoint is not written. "
                "Lower SOLVER.OPTIMIZER.BASE_LR, use a warm-up, or clip gradients"
            )


def _spell(samples: dict[int, Any], limit: int = 16) -> str:
    parts = [f"{ids[:limit]}{' ...' if len(ids) > limit else ''} (rank {rank})" for rank, ids in samples.items()]
    return ", ".join(parts)
