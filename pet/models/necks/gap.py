"""Global average pooling of all levels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pet.models.layers.pool import pool
from pet.models.registry import NECKS


@NECKS.register("gap")
class GlobalAveragePool(nn.Module):
    """Average every level over its pixels and put the results side by side, so that a head sees all of them.

    Args:
        channels: of each level.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.channels = (sum(channels),)

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """Maps (N, C_i, H_i, W_i) to one vector (N, sum of C_i)."""
        return [torch.cat([pool(level) for level in levels], dim=1)]
