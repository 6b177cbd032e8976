"""Necks: feature levels in, feature levels out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from pet.models.registry import NECKS, construct, import_files


def build_neck(name: str, channels: Sequence[int], options: dict[str, Any] | None = None) -> nn.Module | None:
    """The neck called ``name``, or ``None`` for the empty name.

    A neck is called with the list of levels and returns a list; its attribute ``channels`` describes that list.

    Args:
        channels: of each level the backbone returns.
        options: keyword arguments of the neck's constructor.
    """
    return construct(NECKS.find(name), "MODEL.NECK_OPTIONS", options or {}, channels) if name else None


import_files(__name__, __path__)
