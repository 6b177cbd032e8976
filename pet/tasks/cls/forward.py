"""How a batch goes through the model."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from pet.data.structures import Batch
from pet.data.views import ViewBatch, views_of


def forward_train(model: nn.Module, batch: Batch) -> dict[str, Any]:
    """Losses and metrics of a batch; see ``GeneralizedCNN.forward``."""
    outputs: dict[str, Any] = model(batch.images, batch.targets)
    return outputs


def forward_test(model: nn.Module, batch: Batch | ViewBatch) -> dict[str, Any]:
    """Probabilities of a batch, see ``GeneralizedCNN.forward``; those of several views of a picture are averaged."""
    scores = [model(view.images)["scores"] for view in views_of(batch)]
    return {"scores": torch.stack(scores).mean(dim=0)}
