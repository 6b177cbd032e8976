"""Semantic heads: a class for every cell of a feature map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from pet.models.registry import SEMSEG_HEADS, construct, import_files


def build_semseg_head(name: str, channels: Sequence[int], num_classes: int, options: dict[str, Any] | None = None) -> nn.Module:
    """The semantic head called ``name``: called with the list of levels, it returns logits (N, num_classes, h, w) at its stride.

    Args:
        channels: of each level, finest first; heads that look at one level take the last.
        num_classes: number of logits; for panoptic segmentation the stuff classes and one for all things.
        options: keyword arguments of the head's constructor.
    """
    what = f"MODEL.GLOBAL_HEAD.SEMSEG.{name.upper()}"
    return construct(SEMSEG_HEADS.find(name), what, options or {}, channels, num_classes)


import_files(__name__, __path__)
