"""PreciseBN: BatchNorm statistics of the present weights over many batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from pet.engine.events import EventStorage
from pet.engine.hooks.base import Hook, Phase
from pet.engine.parallel import gathered
from pet.utils import comm
from pet.utils.rng import get_rng_state, set_rng_state


class PreciseBN(Hook):
    """Recomputes running statistics with ``fvcore.nn.precise_bn`` before a checkpoint is taken.

    Args:
        model: its BatchNorm layers in training mode are updated.
        forward_train: ``(model, batch)``, as for ``TrainStep``.
        batches: called with the update; yields micro-batches of this rank, the same ones for the same update.
        device: batches are moved there.
        period: updates between two computations; 0: only at the end.
        num_iter: batches to use.
    """

    phase = Phase.UPDATE

    def __init__(
        self,
        model: nn.Module,
        forward_train: Callable[[nn.Module, Any], Any],
        batches: Callable[[int], Iterable[Any]],
        device: torch.device | str,
        period: int,
        num_iter: int,
    ) -> None:
        self._forward = _BatchForward(comm.unwrap(model), forward_train, torch.device(device))
        self._batches, self._period, self._num_iter = batches, period, num_iter

    def after_step(self, storage: EventStorage) -> None:
        """Compute when due; the random numbers of the run are left as they were."""
        if not storage.is_due(self._period):
            return
        from fvcore.nn.precise_bn import get_bn_modules, update_bn_stats

        layers = get_bn_modules(self._forward)
        if not layers:
            return
        # fvcore replaces the buffers; the originals are kept, because optimizer steps and averages refer to them
        originals = [(layer, layer.running_mean, layer.running_var) for layer in layers]
        state = get_rng_state()
        try:
            with torch.no_grad(), gathered(self._forward.model):
                update_bn_stats(self._forward, self._batches(storage.iteration), self._num_iter)
                for layer, mean, variance in originals:
                    mean.copy_(layer.running_mean)
                    variance.copy_(layer.running_var)
                    layer.running_mean, layer.running_var = mean, variance
                comm.average_tensors(tensor for _, *pair in originals for tensor in pair)
        finally:
            set_rng_state(state)


class _BatchForward(nn.Module):
    """A module that takes a batch, as ``update_bn_stats`` calls it."""

    def __init__(self, model: nn.Module, forward_train: Callable[[nn.Module, Any], Any], device: torch.device) -> None:
        super().__init__()
        self.model, self._forward_train, self._device = model, forward_train, device
        self.training = model.training

    def forward(self, batch: Any) -> Any:
        return self._forward_train(self.model, batch.to(self._device))
