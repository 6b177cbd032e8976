"""Losses."""

from __future__ import annotations

from typing import Any

from torch import nn

from pet.models.registry import CLS_LOSSES, import_files


def build_cls_loss(name: str, **options: Any) -> nn.Module:
    """The classification loss called ``name``.

    It maps ``(logits, targets)`` to a scalar, and its method ``scores(logits)`` gives the probabilities it trains.
    """
    return CLS_LOSSES.find(name)(**options)


import_files(__name__, __path__)
