"""Detection heads on whole feature maps: they find objects without a second stage, or propose regions for one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from pet.models.registry import DET_HEADS, construct, import_files


def build_det_head(name: str, channels: Sequence[int], num_classes: int, options: dict[str, Any] | None = None) -> nn.Module:
    """The detection head called ``name``.

    It is called with ``(levels, images, targets=None)`` and returns ``(instances, losses)``: a list with one dict an
    image, and a dict of scalars. ``makes_proposals`` says whether the instances are proposals (``boxes``, ``scores``;
    in training and evaluation) or detections (``boxes``, ``scores``, ``labels``; in evaluation only). ``nms_thresh`` and
    ``detections_per_img`` are what test-time augmentation merges the boxes of several views with.

    Args:
        channels: of each level.
        num_classes: classes of the data set, without background.
        options: keyword arguments of the head's constructor.
    """
    what = f"MODEL.GLOBAL_HEAD.DET.{name.upper()}"
    return construct(DET_HEADS.find(name), what, options or {}, channels, num_classes)


import_files(__name__, __path__)
