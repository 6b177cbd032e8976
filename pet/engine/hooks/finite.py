"""FiniteGuard: a run whose loss is NaN or infinite ends with its cause, or goes back to its newest checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pet.engine.events import EventStorage
from pet.engine.hooks.base import Hook, Phase
from pet.engine.step import describe_samples
from pet.utils import comm
from pet.utils.logger import logging_rank

_REMEDY = "Lower SOLVER.OPTIMIZER.BASE_LR, use a warm-up, clip gradients, check these samples"


@dataclass(frozen=True)
class Rollback:
    """Go back to the newest checkpoint instead of ending the run.

    Attributes:
        go_back: restores weights, averages, optimizer and loss scale of the newest good checkpoint, on every rank; returns the
            update it was taken at, or ``None`` if there is none.
        limit: how often in a run; then it ends after all.
    """

    go_back: Callable[[], int | None]
    limit: int


class FiniteGuard(Hook):
    """Looks at the losses of all ranks whenever they are brought to the host (log steps, evaluations and checkpoints).

    Between two looks nothing is synchronised with the device; the report names the first bad update all the same. What was
    looked at is what all ranks have exchanged, so that they decide alike.

    With ``rollback`` the run continues with the next update on the weights of the newest checkpoint. The counter, and with it
    the learning rate and the position in the data, only moves forwards: no sample between that checkpoint and the look is shown
    again, and hooks and logs need not forget anything. No checkpoint is ever taken of a state that was not looked at.

    Args:
        optimizer: its parameters are checked before a checkpoint is taken.
        rollback: what to do about values that are not finite; ``None``: end the run.
        periods: updates between two evaluations, before which to look, too.

    Attributes:
        rollbacks: how often this run went back.
    """

    phase = Phase.UPDATE

    def __init__(
        self, optimizer: torch.optim.Optimizer, rollback: Rollback | None = None, periods: Sequence[int] = ()
    ) -> None:
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._rollback, self._periods = rollback, tuple(periods)
        self.rollbacks = 0

    def after_step(self, storage: EventStorage) -> None:
        """Look on log steps and before evaluations."""
        if self._rollback is not None:
            storage.put_scalar("rollbacks", self.rollbacks, smoothing_hint=False)
        if storage.is_log_step or (self._periods and storage.is_due(*self._periods)):
            self.check(storage)

    def check(self, storage: EventStorage) -> None:
        """Bring the values to the host; if a loss was not finite, go back or raise. Called by every rank."""
        storage.flush()
        if not storage.non_finite:
            return
        first = min(found.iteration for found in storage.non_finite)
        found = [f for f in storage.non_finite if f.iteration == first]
        names = sorted({name for f in found for name in f.names if name != "total_loss"}) or ["total_loss"]
        ids = comm.all_gather(storage.samples_of(first))
        samples = describe_samples({f.rank: ids[f.rank] for f in found})
        ranks = ", ".join(str(f.rank) for f in found)
        problem = f"{', '.join(names)} is not finite since update {first} on rank {ranks}; samples of that update: {samples}"
        self._answer(problem, storage)

    def check_weights(self, storage: EventStorage) -> None:
        """Go back or raise instead of letting a checkpoint be written whose weights are not finite. Called by every rank."""
        self.check(storage)
        if comm.agree_max(int(not comm.all_finite(self._parameters))):
            self._answer(f"weights are not finite after update {storage.iteration}, though its losses are", storage)

    def _answer(self, problem: str, storage: EventStorage) -> None:
        if self._rollback is None:
            raise FloatingPointError(
                f"{problem}. Nothing was saved after it. {_REMEDY}, or set SOLVER.NON_FINITE.POLICY skip or rollback"
            )
        if self.rollbacks >= self._rollback.limit:
            raise FloatingPointError(
                f"{problem}. The run went back {self.rollbacks} times (SOLVER.NON_FINITE.MAX_ROLLBACKS), so this is no accident "
                f"of a few samples. Nothing was saved after it. {_REMEDY}"
            )
        update = self._rollback.go_back()
        if update is None:
            raise FloatingPointError(f"{problem}. There is no checkpoint yet to go back to (SOLVER.SNAPSHOT_ITER). {_REMEDY}")
        self.rollbacks += 1
        storage.forget_non_finite()
        logging_rank(
            f"{problem}. Rollback {self.rollbacks} of at most {self._rollback.limit}: weights and optimizer are again those "
            f"after update {update}; the run continues with update {storage.iteration + 1}, no sample in between is shown again",
            logging.WARNING,
        )

    def state_dict(self) -> dict[str, Any]:
        """How often the run went back."""
        return {"rollbacks": self.rollbacks}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore."""
        self.rollbacks = state["rollbacks"]
