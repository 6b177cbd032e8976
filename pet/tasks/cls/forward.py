"""How a batch goes through the model."""

from __future__ import annotations

from typing import Any

from torch import nn

from pet.data.structures import Batch


def forward_train(model: nn.Module, batch: Batch) -> dict[str, Any]:
    """Losses and metrics of a batch; see ``GeneralizedCNN.forward``."""
    outputs: dict[str, Any] = model(batch.images, batch.targets)
    return outputs


def forward_test(model: nn.Module, batch: Batch) -> dict[str, Any]:
    """Probabilities of a batch; see ``GeneralizedCNN.forward``."""
    outputs: dict[str, Any] = model(batch.images)
    return outputs
