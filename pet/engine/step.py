"""TrainStep: forward, accumulation, backward, clipping, scaling and update in one path."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pet.engine.events import EventStorage, Scalar
from pet.engine.parallel import drop_gradients, needs_all_gradients, no_sync
from pet.utils import comm
from pet.utils.logger import LOGGER, logging_rank

ForwardTrain = Callable[[nn.Module, Any], dict[str, dict[str, Tensor]]]
Clip = Callable[[Sequence[nn.Parameter]], Tensor | None]
_WINDOW = 1000  # updates among which skipped ones are counted


def make_clip(clip_type: str, value: float, norm_type: float = 2.0) -> Clip:
    """A function that clips gradients in place and returns the total norm before clipping where it is known.

    Args:
        clip_type: ``value`` clamps every element, ``norm`` the norm of each parameter, ``full_model`` the norm of all.
        value: the limit.
        norm_type: order of the norm; ``float("inf")`` for the maximum.
    """
    if clip_type == "full_model":
        return lambda parameters: comm.whole(nn.utils.clip_grad_norm_(parameters, value, norm_type))
    if clip_type == "value":
        return lambda parameters: nn.utils.clip_grad_value_(parameters, value)
    if clip_type == "norm":

        def clip_each(parameters: Sequence[nn.Parameter]) -> None:
            for parameter in parameters:
                nn.utils.clip_grad_norm_(parameter, value, norm_type)

        return clip_each
    raise ValueError(f"clip_type is '{clip_type}'; expected value, norm or full_model")


@dataclass
class SkipPolicy:
    """Skip an update whose loss or gradient is not finite, on all ranks together.

    Attributes:
        max_skips: skipped updates in a row after which the run ends with an error.
        max_per_1000: skipped updates among the newest 1,000 after which it does.
    """

    max_skips: int
    max_per_1000: int = _WINDOW


def describe_samples(samples: Mapping[int, Sequence[int]], limit: int = 16) -> str:
    """Sample ids as text, at most ``limit`` of each rank."""
    parts = [f"{list(ids[:limit])}{' ...' if len(ids) > limit else ''} (rank {rank})" for rank, ids in samples.items()]
    return ", ".join(parts)


class TrainStep:
    """One optimizer update from a window of micro-batches; call it with ``(window, after_backward, storage)``.

    The gradient of a window of n equal micro-batches is that of one batch of their sizes together (for losses that are
    means over samples; BatchNorm still sees each micro-batch by itself). Gradients are exchanged once for each window.

    Args:
        model: the model, wrapped for distributed training or not.
        optimizer: steps all trainable parameters.
        forward_train: ``(model, batch) -> {"losses": {name: scalar}, "metrics": {name: scalar}}``.
        device: batches are moved there.
        amp_dtype: type for autocast; ``None`` computes in float32.
        init_scale: first loss scale; a scaler is used with float16 only.
        clip: from ``make_clip``; ``None`` leaves gradients alone.
        skip: what to do with non-finite losses; ``None`` leaves the check to FiniteGuard on log steps.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        forward_train: ForwardTrain,
        *,
        device: torch.device | str = "cpu",
        amp_dtype: torch.dtype | None = None,
        init_scale: float = 65536.0,
        clip: Clip | None = None,
        skip: SkipPolicy | None = None,
    ) -> None:
        self.model, self.optimizer = model, optimizer
        self.device, self.amp_dtype = torch.device(device), amp_dtype
        self._forward_train = forward_train if amp_dtype is None else torch.autocast(self.device.type, amp_dtype)(forward_train)
        self._clip, self._skip = clip, skip
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._buffers = list(model.buffers()) if skip else []
        self.scaler = torch.amp.GradScaler(self.device.type, init_scale) if amp_dtype == torch.float16 else None
        if self.scaler is not None:
            # A fused optimizer would skip by itself, but then torch's SGD, if its first step is skipped, starts from
            # uninitialised momenta.
            optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
        self.skipped_updates = self.skipped_in_a_row = 0
        self._newest_skips: deque[int] = deque()
        self._needs_all_gradients, self._checked_unused = needs_all_gradients(model), False

    def __call__(
        self, window: Sequence[Any], after_backward: Callable[[EventStorage], None], storage: EventStorage
    ) -> dict[str, Scalar]:
        """Run the update and return detached metrics of the window: losses, ``total_loss``, metrics, ``grad_norm``."""
        storage.samples.append((storage.iteration, [batch.ids for batch in window]))
        kept = [buffer.clone() for buffer in self._buffers] if self._buffers else []
        for parameter in self._parameters:  # what zero_grad does, without its profiling
            parameter.grad = None
        metrics: dict[str, Scalar] = {}
        finite, share = True, 1.0 / len(window)
        *others, last = window
        for batch in others:
            with no_sync(self.model):
                finite = self._backward(batch, metrics, share, finite, is_last=False)
        finite = self._backward(last, metrics, share, finite, is_last=True)
        storage.update_skipped = not (finite and self._update(metrics, after_backward, storage))
        if self._skip is not None or self.scaler is not None:
            self._count_skips(storage, kept, metrics)
            storage.put_scalar("skipped_updates", self.skipped_updates, smoothing_hint=False)
        return metrics

    def _backward(self, batch: Any, metrics: dict[str, Scalar], share: float, finite: bool, is_last: bool) -> bool:
        """Forward and backward of one micro-batch; whether the window is finite so far."""
        total = self._forward(batch, metrics, share)
        if self._skip is not None:
            finite = self._agree_finite(finite, total, is_last)
        if finite:
            (total if self.scaler is None else self.scaler.scale(total)).backward()  # type: ignore[no-untyped-call]
        return finite

    def _forward(self, batch: Any, metrics: dict[str, Scalar], share: float) -> Tensor:
        """Loss of one micro-batch times its share of the window; adds the detached values to ``metrics``."""
        outputs = self._forward_train(self.model, batch.to(self.device, non_blocking=True))
        losses = outputs["losses"]
        if not losses:
            raise ValueError('forward_train returned no loss; expected {"losses": {name: scalar tensor}, "metrics": {...}}')
        first, *others = losses.values()
        total: Tensor = sum(others, first)
        values = {**losses, **outputs["metrics"], "total_loss": total}
        if share == 1.0:
            for name, value in values.items():
                metrics[name] = value.detach()
            return total
        for name, value in values.items():
            value = value.detach() * share
            metrics[name] = metrics[name] + value if name in metrics else value
        return total * share

    def _update(self, metrics: dict[str, Scalar], after_backward: Callable[[EventStorage], None], storage: EventStorage) -> bool:
        """Clip and step; whether the weights changed."""
        if self._needs_all_gradients or not self._checked_unused:
            self._check_unused(storage.iteration)
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        after_backward(storage)
        if self._skip is not None and self.scaler is None and not self._gradients_finite():
            return False
        if self._clip is not None:
            norm = self._clip(self._parameters)
            if norm is not None:
                metrics["grad_norm"] = norm
        if self.scaler is None:
            self.optimizer.step()
            return True
        before = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return self.scaler.get_scale() >= before

    def _agree_finite(self, finite: bool, total: Tensor, is_last: bool) -> bool:
        """Whether the window is finite so far: on this rank, and at the last micro-batch on all ranks."""
        finite = finite and bool(torch.isfinite(total))
        return not comm.agree_max(int(not finite)) if is_last else finite

    def _gradients_finite(self) -> bool:
        """Decided alike on all ranks: their gradients are equal, or those of all shards are looked at."""
        return comm.all_finite(p.grad for p in self._parameters if p.grad is not None)

    def _count_skips(self, storage: EventStorage, kept: list[Tensor], metrics: dict[str, Scalar]) -> None:
        if storage.update_skipped:
            drop_gradients(self.model)
            self.skipped_updates += 1
            self.skipped_in_a_row += 1
            self._newest_skips.append(storage.iteration)
            while self._newest_skips[0] <= storage.iteration - _WINDOW:
                self._newest_skips.popleft()
            with torch.no_grad():
                for buffer, value in zip(self._buffers, kept, strict=True):
                    buffer.copy_(value)
            if self._skip is not None:
                self._report_skip(storage, metrics, self._skip)
        else:
            self.skipped_in_a_row = 0

    def _report_skip(self, storage: EventStorage, metrics: dict[str, Scalar], policy: SkipPolicy) -> None:
        """Take what is not finite out of ``metrics``; say rank, value and samples, or end the run. Called by every rank."""
        bad = [name for name, value in metrics.items() if isinstance(value, Tensor) and not bool(torch.isfinite(value))]
        for name in bad:
            del metrics[name]
        by_rank = comm.all_gather((bad, storage.samples_of(storage.iteration)))
        names = sorted({name for bad, _ in by_rank for name in bad if name != "total_loss"})
        samples = describe_samples({rank: ids for rank, (bad, ids) in enumerate(by_rank) if bad or not names})
        what = f"{', '.join(names) or 'the gradient'} not finite; samples {samples}"
        in_a_row, recent = self.skipped_in_a_row, len(self._newest_skips)
        logging_rank(
            f"update {storage.iteration} is skipped on all ranks: {what}; {in_a_row} in a row, {recent} of the newest "
            f"{_WINDOW}, {self.skipped_updates} in all",
            logging.WARNING,
        )
        reached = ""
        if in_a_row >= policy.max_skips:
            reached = f"{in_a_row} updates in a row were not finite (SOLVER.NON_FINITE.MAX_SKIPS)"
        elif recent > policy.max_per_1000:
            reached = f"{recent} of the newest {_WINDOW} updates were not finite (SOLVER.NON_FINITE.MAX_SKIPS_PER_1000)"
        if reached:
            raise FloatingPointError(
                f"{reached}; in the last one, update {storage.iteration}, {what}. Lower SOLVER.OPTIMIZER.BASE_LR, clip "
                "gradients, or check these samples"
            )

    def _check_unused(self, update: int) -> None:
        """Name parameters without a gradient: where ranks wait for all of them, the others of this update were not exchanged."""
        self._checked_unused = True
        missing = [p for p in self._parameters if p.grad is None]
        if not missing:
            return
        names = {id(p): name for name, p in comm.unwrap(self.model).named_parameters()}
        unused = [names.get(id(p), "?") for p in missing]
        message = (
            f"{len(unused)} trainable parameters got no gradient in update {update}: {', '.join(unused[:8])}"
            f"{' ...' if len(unused) > 8 else ''}. Freeze or remove them"
        )
        if self._needs_all_gradients:
            raise RuntimeError(f"{message}, or set MISC.FIND_UNUSED_PARAMETERS True if the model uses parts in turn")
        LOGGER.warning(message)

    def state_dict(self) -> dict[str, Any]:
        """Scaler and counters."""
        return {
            "scaler": self.scaler.state_dict() if self.scaler is not None else {},
            "skipped_updates": self.skipped_updates,
            "skipped_in_a_row": self.skipped_in_a_row,
            "newest_skips": list(self._newest_skips),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore; a run with float16 needs a saved scaler."""
        if self.scaler is not None:
            if not state["scaler"]:
                raise KeyError("the checkpoint holds no loss scale (it was trained without float16); resume without float16")
            self.scaler.load_state_dict(state["scaler"])
        self.skipped_updates, self.skipped_in_a_row = state["skipped_updates"], state["skipped_in_a_row"]
        self._newest_skips = deque(state["newest_skips"])
