"""TrainStep: forward, accumulation, backward, clipping, scaling and update in one path."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pet.engine.events import EventStorage, Scalar
from pet.utils import comm
from pet.utils.logger import LOGGER

ForwardTrain = Callable[[nn.Module, Any], dict[str, dict[str, Tensor]]]
Clip = Callable[[Sequence[nn.Parameter]], Tensor | None]


def make_clip(clip_type: str, value: float, norm_type: float = 2.0) -> Clip:
    """A function that clips gradients in place and returns the total norm before clipping where it is known.

    Args:
        clip_type: ``value`` clamps every element, ``norm`` the norm of each parameter, ``full_model`` the norm of all.
        value: the limit.
        norm_type: order of the norm; ``float("inf")`` for the maximum.
    """
    if clip_type == "full_model":
        return lambda parameters: nn.utils.clip_grad_norm_(parameters, value, norm_type)
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
    """

    max_skips: int


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
        self._no_sync = model.no_sync if isinstance(model, DistributedDataParallel) else nullcontext
        self._checked_unused = False

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
            with self._no_sync():
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
        if not self._checked_unused:
            self._check_unused()
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
        """Gradients are equal on all ranks, so the ranks decide alike without an exchange."""
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        return bool(torch.isfinite(nn.utils.get_total_norm(gradients, float("inf"))))

    def _count_skips(self, storage: EventStorage, kept: list[Tensor], metrics: dict[str, Scalar]) -> None:
        if storage.update_skipped:
            self.skipped_updates += 1
            self.skipped_in_a_row += 1
            with torch.no_grad():
                for buffer, value in zip(self._buffers, kept, strict=True):
                    buffer.copy_(value)
            if self._skip is not None:
                self._drop_non_finite(storage, metrics)
        else:
            self.skipped_in_a_row = 0

    def _drop_non_finite(self, storage: EventStorage, metrics: dict[str, Scalar]) -> None:
        bad = [name for name, value in metrics.items() if isinstance(value, Tensor) and not bool(torch.isfinite(value))]
        for name in bad:
            del metrics[name]
        ids = storage.samples_of(storage.iteration)
        LOGGER.warning(
            f"update {storage.iteration} is skipped on all ranks: not finite here: {', '.join(bad) or 'nothing'}; samples {ids}; "
            f"{self.skipped_in_a_row} in a row, {self.skipped_updates} in all"
        )
        if self._skip is not None and self.skipped_in_a_row >= self._skip.max_skips:
            raise FloatingPointError(
                f"{self.skipped_in_a_row} updates in a row were not finite (SOLVER.NON_FINITE.MAX_SKIPS); the last samples were "
                f"{ids}. Lower SOLVER.OPTIMIZER.BASE_LR, clip gradients, or check these samples"
            )

    def _check_unused(self) -> None:
        """After the first backward: parameters without a gradient make ranks wait for ever, so name them now."""
        self._checked_unused = True
        names = {id(p): name for name, p in comm.unwrap(self.model).named_parameters()}
        unused = [names.get(id(p), "?") for p in self._parameters if p.grad is None]
        if not unused:
            return
        message = (
            f"{len(unused)} trainable parameters got no gradient in the first update: {', '.join(unused[:8])}"
            f"{' ...' if len(unused) > 8 else ''}. Freeze or remove them"
        )
        if isinstance(self.model, DistributedDataParallel) and not self.model.find_unused_parameters:
            raise RuntimeError(f"{message}, or set MISC.FIND_UNUSED_PARAMETERS True if the model uses parts in turn")
        LOGGER.warning(message)

    def state_dict(self) -> dict[str, Any]:
        """Scaler and counters."""
        return {
            "scaler": self.scaler.state_dict() if self.scaler is not None else {},
            "skipped_updates": self.skipped_updates,
            "skipped_in_a_row": self.skipped_in_a_row,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore; a run with float16 needs a saved scaler."""
        if self.scaler is not None:
            if not state["scaler"]:
                raise KeyError("the checkpoint holds no loss scale (it was trained without float16); resume without float16")
            self.scaler.load_state_dict(state["scaler"])
        self.skipped_updates, self.skipped_in_a_row = state["skipped_updates"], state["skipped_in_a_row"]
