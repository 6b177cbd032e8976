"""AverageBuffers: one set of BatchNorm statistics for all processes."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pet.engine.events import EventStorage
from pet.engine.hooks.base import Hook, Phase
from pet.utils import comm


class AverageBuffers(Hook):
    """Replaces running means and variances by their mean over the processes, in one exchange after every update.

    The variance of the means of the processes is left out, as everywhere in running statistics of small batches.

    Args:
        model: its BatchNorm layers that keep running statistics.
    """

    phase = Phase.UPDATE

    def __init__(self, model: nn.Module) -> None:
        self._layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]

    def after_step(self, storage: EventStorage) -> None:
        """Average; frozen layers, whose statistics stand still, are left out."""
        layers = [layer for layer in self._layers if layer.training]
        if layers:
            comm.average_tensors([t for layer in layers for t in (layer.running_mean, layer.running_var) if t is not None])
