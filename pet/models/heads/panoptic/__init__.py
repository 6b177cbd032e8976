"""Panoptic heads: instances and a semantic map become one map of segments."""

from __future__ import annotations

from typing import Any

from torch import nn

from pet.models.registry import PANOPTIC_HEADS, construct, import_files


def build_panoptic_head(name: str, num_things: int, num_stuff: int, options: dict[str, Any] | None = None) -> nn.Module:
    """The panoptic head called ``name``.

    It is called with the instances of one picture (dict of ``boxes``, ``scores``, ``labels``, ``masks``) and its semantic
    map (H, W), and returns ``(ids, segments)``: see ``pet.models.heads.panoptic.merge.Merge``.

    Args:
        num_things: classes of the instances.
        num_stuff: classes of the semantic map, without the one that stands for all things.
        options: keyword arguments of the head's constructor.
    """
    what = f"MODEL.GLOBAL_HEAD.PANOSEG.{name.upper()}"
    return construct(PANOPTIC_HEADS.find(name), what, options or {}, num_things, num_stuff)


import_files(__name__, __path__)
