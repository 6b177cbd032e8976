"""Heads of the second stage: they look at regions one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from pet.models.registry import BOX_HEADS, KEYPOINT_HEADS, MASK_HEADS, construct, import_files


def build_box_head(name: str, channels: Sequence[int], num_classes: int, options: dict[str, Any] | None = None) -> nn.Module:
    """The box head called ``name``: called with ``(levels, images, proposals, targets=None)``.

    It returns in training the proposals it sampled and the losses, in evaluation the detections and no losses.
    ``nms_thresh`` and ``detections_per_img`` are what test-time augmentation merges the boxes of several views with.

    Args:
        channels: of each level.
        num_classes: classes of the data set, without background.
        options: keyword arguments of the head's constructor.
    """
    what = f"MODEL.ROI_HEAD.{name.upper()}"
    return construct(BOX_HEADS.find(name), what, options or {}, channels, num_classes)


def build_mask_head(
    name: str,
    channels: Sequence[int],
    num_classes: int,
    options: dict[str, Any] | None = None,
    box_head: nn.Module | None = None,
) -> nn.Module:
    """The mask head called ``name``: called with ``(levels, images, instances, targets=None)``.

    For test-time augmentation it has the two steps of a prediction: ``maps(levels, images, instances)``, a tensor (D, C, M, M)
    for each image that lies in the boxes, and ``attach(instances, maps)``.

    Args:
        channels, num_classes, options: as for ``build_box_head``.
        box_head: the model's box head. If it computes maps of regions (the last stage of the backbone, on C4), the mask
            head reads these maps: the layers are shared.
    """
    shared = getattr(box_head, "maps_of_regions", None)
    keywords = {} if shared is None else {"shared": shared}
    return construct(MASK_HEADS.find(name), "MODEL.ROI_HEAD.MASK", options or {}, channels, num_classes, **keywords)


def build_keypoint_head(name: str, channels: Sequence[int], num_classes: int, options: dict[str, Any] | None = None) -> nn.Module:
    """The keypoint head called ``name``; called and built like a mask head, but it shares nothing."""
    return construct(KEYPOINT_HEADS.find(name), "MODEL.ROI_HEAD.KEYPOINT", options or {}, channels, num_classes)


import_files(__name__, __path__)
