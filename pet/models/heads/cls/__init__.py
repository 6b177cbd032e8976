"""Heads of image classification."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from pet.models.registry import CLS_HEADS, construct, import_files


def build_cls_head(
    name: str, channels: Sequence[int], num_classes: int, dropout: float, options: dict[str, Any] | None = None
) -> nn.Module:
    """The classification head called ``name``: called with the list of levels, it returns logits (N, num_classes).

    Args:
        channels: of each level.
        dropout: probability of the dropout before the last layer.
        options: further keyword arguments of the head's constructor.
    """
    what = "MODEL.GLOBAL_HEAD.CLS.OPTIONS"
    return construct(CLS_HEADS.find(name), what, options or {}, channels, num_classes, dropout=dropout)


import_files(__name__, __path__)
