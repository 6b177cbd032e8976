"""Pooling of whatever a backbone returns."""

from __future__ import annotations

from torch import Tensor


def pool(features: Tensor) -> Tensor:
    """Average over positions: a map (N, C, H, W), tokens (N, L, C) or a vector (N, C) to (N, C)."""
    if features.ndim == 4:
        return features.mean((2, 3))
    return features.mean(1) if features.ndim == 3 else features
