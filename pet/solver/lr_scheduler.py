"""Learning rate as a pure function of the number of the update (``docs/decisions/002-lr-schedule.md``).

``factor(update) = warm-up x policy``; the learning rate of a group is its ``initial_lr`` times the factor. Updates count from 1.
Nothing here knows about processes, micro-batches or the past, so the rate is the same for any number of either, and after a
resume.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch

from pet.config import CfgNode
from pet.utils.logger import logging_rank
from pet.utils.registry import Registry


@dataclass(frozen=True)
class Schedule:
    """A schedule in updates; a pure function from update to factor.

    Attributes:
        policy: name of a registered policy.
        max_iter: number of updates of the run.
        warmup_iter: updates of the warm-up, less than ``max_iter``.
        warmup_factor: factor at the first update of the warm-up.
        warmup_method: ``"LINEAR"`` rises from the factor to 1, ``"CONSTANT"`` stays at it.
        steps: updates done before each drop of STEP and STEP_COSINE, ascending.
        gamma: factor of each drop.
        power: exponent of POLY.
        min_factor: factor that COSINE, STEP_COSINE and POLY fall to, in [0, 1].
        pct_start, div_factor, final_div_factor: shape of ONECYCLE, as in ``torch.optim.lr_scheduler.OneCycleLR``.
    """

    policy: str
    max_iter: int
    warmup_iter: int = 0
    warmup_factor: float = 0.1
    warmup_method: str = "LINEAR"
    steps: tuple[int, ...] = ()
    gamma: float = 0.1
    power: float = 0.9
    min_factor: float = 0.0
    pct_start: float = 0.3
    div_factor: float = 25.0
    final_div_factor: float = 1e4

    def __post_init__(self) -> None:
        if self.warmup_iter >= self.max_iter:
            raise ValueError(
                f"the warm-up takes {self.warmup_iter} of {self.max_iter} updates, so BASE_LR is never reached; shorten "
                "SOLVER.SCHEDULER.WARM_UP_EPOCHS (WARM_UP_ITERS) or lengthen TOTAL_EPOCHS (TOTAL_ITERS)"
            )
        if list(self.steps) != sorted(self.steps):
            raise ValueError(f"SOLVER.SCHEDULER.STEPS must ascend, not {self.steps} updates")
        if self.policy == "STEP_COSINE" and not (self.steps and self.steps[-1] < self.max_iter):
            raise ValueError(f"STEP_COSINE needs a last one of SOLVER.SCHEDULER.STEPS before the end; they are {self.steps}")
        if self.policy == "ONECYCLE" and self.warmup_iter:
            raise ValueError(
                "ONECYCLE has a warm-up of its own (PCT_START); set WARM_UP_EPOCHS None and WARM_UP_ITERS 0 (SOLVER.SCHEDULER)"
            )
        _ = self._curves  # an unknown name is refused here

    @classmethod
    def from_cfg(cls, cfg: CfgNode, iter_per_epoch: int) -> Schedule:
        """Read ``SOLVER.SCHEDULER``, with epochs turned into updates."""
        in_epochs = cfg.TOTAL_EPOCHS is not None
        max_iter = cfg.TOTAL_EPOCHS * iter_per_epoch if in_epochs else cfg.TOTAL_ITERS
        if max_iter < 1:
            raise ValueError("the length of the training is not set; set SOLVER.SCHEDULER.TOTAL_EPOCHS or TOTAL_ITERS")
        return cls(
            cfg.POLICY,
            max_iter,
            cfg.WARM_UP_ITERS if cfg.WARM_UP_EPOCHS is None else round(cfg.WARM_UP_EPOCHS * iter_per_epoch),
            cfg.WARM_UP_FACTOR,
            cfg.WARM_UP_METHOD,
            tuple(round(step * (iter_per_epoch if in_epochs else 1)) for step in cfg.STEPS),
            cfg.GAMMA,
            cfg.LR_POW,
            cfg.MIN_LR_FACTOR,
            cfg.ONECYCLE.PCT_START,
            cfg.ONECYCLE.DIV_FACTOR,
            cfg.ONECYCLE.FINAL_DIV_FACTOR,
        )

    @cached_property
    def _curves(self) -> tuple[Curve, Curve]:
        return POLICIES.get(self.policy), WARM_UPS.get(self.warmup_method)

    def factor(self, update: int) -> float:
        """Learning rate of an update (1-based), relative to the base; after the last update it stays where it is."""
        if update < 1:
            raise ValueError(f"updates count from 1, not {update}")
        done = min(update, self.max_iter) - 1
        policy, warm_up = self._curves
        return policy(self, done) if done >= self.warmup_iter else policy(self, done) * warm_up(self, done)

    def progress(self, done: int, start: int) -> float:
        """Share of the updates from ``start`` to the end that are done, in [0, 1); 0 before ``start``."""
        return max(done - start, 0) / (self.max_iter - start)


# A policy and a warm-up map (schedule, number of updates done) to a factor.
Curve = Callable[[Schedule, int], float]
POLICIES: Registry[Curve] = Registry("learning-rate policy", "pet.solver.lr_scheduler")
WARM_UPS: Registry[Curve] = Registry("warm-up method", "pet.solver.lr_scheduler")


@WARM_UPS.register("LINEAR")
def _linear_warm_up(schedule: Schedule, done: int) -> float:
    return schedule.warmup_factor + (1.0 - schedule.warmup_factor) * done / schedule.warmup_iter


@WARM_UPS.register("CONSTANT")
def _constant_warm_up(schedule: Schedule, done: int) -> float:
    return schedule.warmup_factor


@POLICIES.register("CONSTANT")
def _constant(schedule: Schedule, done: int) -> float:
    return 1.0


@POLICIES.register("STEP")
def _step(schedule: Schedule, done: int) -> float:
    return math.pow(schedule.gamma, bisect_right(schedule.steps, done))


@POLICIES.register("COSINE")
def _cosine(schedule: Schedule, done: int) -> float:
    return _half_cosine(1.0, schedule.min_factor, schedule.progress(done, schedule.warmup_iter))


@POLICIES.register("STEP_COSINE")
def _step_cosine(schedule: Schedule, done: int) -> float:
    """Drops at all steps but the last; from the last one, a cosine takes over at the height reached."""
    height = math.pow(schedule.gamma, bisect_right(schedule.steps[:-1], done))
    return _half_cosine(height, schedule.min_factor, schedule.progress(done, schedule.steps[-1]))


@POLICIES.register("POLY")
def _poly(schedule: Schedule, done: int) -> float:
    remaining = 1.0 - schedule.progress(done, schedule.warmup_iter)
    return schedule.min_factor + (1.0 - schedule.min_factor) * math.pow(remaining, schedule.power)


@POLICIES.register("ONECYCLE")
def _one_cycle(schedule: Schedule, done: int) -> float:
    """Two cosine phases, up and down. Source: ``torch.optim.lr_scheduler.OneCycleLR``, arXiv 1708.07120."""
    low, peak, last = 1.0 / schedule.div_factor, schedule.pct_start * schedule.max_iter - 1.0, schedule.max_iter - 1
    if done <= peak:
        return _half_cosine(low, 1.0, done / peak if peak else 1.0)
    return _half_cosine(1.0, low / schedule.final_div_factor, (done - peak) / (last - peak))


def _half_cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * progress))


class LearningRateScheduler:
    """Writes the learning rate of the next update into the groups of an optimizer.

    The constructor, ``step`` and ``load_state_dict`` write; everything else only reads. The base rate of a group is its
    ``initial_lr`` (set by ``Optimizer``; else its ``lr``) when the scheduler is built, so a BASE_LR changed before a resume
    counts.

    Args:
        optimizer: its groups' ``lr`` is written.
        cfg: the node ``SOLVER``.
        iter_per_epoch: updates of an epoch, at least 1.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, cfg: CfgNode, iter_per_epoch: int) -> None:
        if iter_per_epoch < 1:
            raise ValueError(f"iter_per_epoch is {iter_per_epoch}; an epoch has at least one update")
        self.optimizer, self.iter_per_epoch = optimizer, iter_per_epoch
        self.schedule = Schedule.from_cfg(cfg.SCHEDULER, iter_per_epoch)
        self._threshold = cfg.SCHEDULER.LOG_LR_CHANGE_THRESHOLD
        self.base_lr: float = cfg.OPTIMIZER.BASE_LR
        self.base_lrs = [float(group.setdefault("initial_lr", group["lr"])) for group in optimizer.param_groups]
        self._go_to(1)

    @property
    def iteration(self) -> int:
        """The next update, 1-based; its learning rate is the one in the groups."""
        return self._iteration

    @property
    def max_iter(self) -> int:
        """The last update of the run."""
        return self.schedule.max_iter

    @property
    def warmup_iter(self) -> int:
        """Updates of the warm-up."""
        return self.schedule.warmup_iter

    def factor(self, update: int) -> float:
        """Learning rate of an update (1-based), relative to the base."""
        return self.schedule.factor(update)

    def get_lr(self) -> list[float]:
        """Learning rate of the next update for each group."""
        factor = self.factor(self._iteration)
        return [base * factor for base in self.base_lrs]

    def step(self) -> None:
        """Go to the next update."""
        before = self._factor
        self._go_to(self._iteration + 1)
        if self._iteration - 1 in self.schedule.steps:
            self._log_change(before)

    def state_dict(self) -> dict[str, int]:
        """The counter; the schedule itself is in the config."""
        return {"iteration": self._iteration}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue at a saved update and write its learning rate at once."""
        if "iteration" not in state or state["iteration"] < 1:
            raise ValueError(f"the saved state of the scheduler needs 'iteration', 1 or more; it is {state}")
        self._go_to(int(state["iteration"]))

    def describe(self, in_epochs: bool = True) -> str:
        """Horizon, in both units or in updates alone, and the shape of the curve, for the log."""
        schedule = self.schedule
        epochs = f"{schedule.max_iter / self.iter_per_epoch:,.6g} epochs = " if in_epochs else ""
        text = f"{epochs}{schedule.max_iter:,} updates; BASE_LR {self.base_lr:g}, {schedule.policy}"
        if schedule.policy.startswith("STEP") and schedule.steps:
            text += f" x {schedule.gamma:g} after {', '.join(f'{step:,}' for step in schedule.steps)} updates"
        if schedule.warmup_iter:
            text += f"; warm-up {schedule.warmup_method} from x {schedule.warmup_factor:g} over {schedule.warmup_iter:,} updates"
        return text

    def curve(self, num: int = 100) -> list[tuple[int, float]]:
        """At most ``num`` (>= 2) points ``(update, learning rate)``, evenly spaced from the first to the last update."""
        last = self.max_iter - 1
        updates = sorted({1 + round(last * index / (num - 1)) for index in range(num)})
        return [(update, self.rate(update)) for update in updates]

    def rate(self, update: int) -> float:
        """Learning rate of an update (1-based) for a group at BASE_LR."""
        return self.base_lr * self.factor(update)

    def landmarks(self) -> list[tuple[str, int]]:
        """Updates (1-based) where the curve begins, changes its course and ends, each with what happens there."""
        schedule = self.schedule
        found = [("the first update", 1)]
        if schedule.warmup_iter:
            found += [("the last of the warm-up", schedule.warmup_iter), ("after the warm-up", schedule.warmup_iter + 1)]
        if schedule.policy.startswith("STEP"):
            found += [(what, step + after) for step in schedule.steps for after, what in enumerate(("before a step", "after it"))]
        inside = [(what, update) for what, update in found if 1 <= update <= self.max_iter]
        return [*inside, ("the last update", self.max_iter)]

    def _go_to(self, update: int) -> None:
        self._iteration = update
        factor = self._factor = self.schedule.factor(update)
        for group, base in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = base * factor

    def _log_change(self, before: float) -> None:
        """Log a step above the threshold; a smooth curve has none, and every line of the log tells its rate."""
        low, high = sorted((before, self._factor))
        if self._iteration - 1 > self.warmup_iter and high > low * self._threshold:
            rates = f"{self.base_lr * before:.4g} -> {self.base_lr * self._factor:.4g}"
            logging_rank(f"learning rate {rates} from update {self._iteration:,}")


def learning_rates(cfg: CfgNode, iter_per_epoch: int) -> LearningRateScheduler:
    """The scheduler of ``SOLVER`` without a model, to look at its curve."""
    weight = torch.nn.Parameter(torch.zeros(1))
    return LearningRateScheduler(torch.optim.SGD([weight], lr=cfg.OPTIMIZER.BASE_LR), cfg, iter_per_epoch)
