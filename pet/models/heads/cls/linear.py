"""The linear classifier."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from pet.models.layers.pool import pool
from pet.models.registry import CLS_HEADS


@CLS_HEADS.register("linear")
class LinearHead(nn.Module):
    """Global average pooling (of a map), dropout and one linear layer on the last level.

    Weights start from N(0, 0.01), as in arXiv 1706.02677, section 5.1.

    Args:
        channels: of each level; the last is used.
        num_classes: number of logits.
        dropout: probability.
    """

    def __init__(self, channels: Sequence[int], num_classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels[-1], num_classes)
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)

    def forward(self, levels: list[Tensor]) -> Tensor:
        """The last level, a map (N, C, H, W), tokens (N, L, C) or a vector (N, C), to logits (N, num_classes)."""
        logits: Tensor = self.fc(self.dropout(pool(levels[-1])))
        return logits
