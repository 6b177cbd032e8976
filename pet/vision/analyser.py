"""The analyser for the vision domain, and the image size it should assume."""

from __future__ import annotations

from torch import nn

from pet.analyser import Analyser as SharedAnalyser
from pet.config import CfgNode

__all__ = ["Analyser", "RCNNAnalyser", "input_size"]

_RATIO = 1.6  # width / height of the image that is assumed where only the shorter side is fixed: 1280 x 800, as others count


class Analyser(SharedAnalyser):
    """The shared analyser; ``describe`` assumes the size of the images that ``cfg`` makes.

    Box heads are counted for 1000 proposals, mask and keypoint heads for 100 detections; what follows from the boxes (sorting,
    non-maximum suppression, RoIAlign) is not counted.
    """

    def __init__(self, cfg: CfgNode, model: nn.Module, param_details: bool = False) -> None:
        super().__init__(cfg, model, param_details, input_size(cfg))


RCNNAnalyser = Analyser  # the name in Pet v0.7


def input_size(cfg: CfgNode) -> tuple[int, int] | None:
    """(height, width) in pixels of a test image, a multiple of TEST.SIZE_DIVISIBILITY; ``None`` if nothing fixes it."""
    test = cfg.TEST
    if "center_crop" in test.TRANSFORMS:
        height, width = test.CENTER_CROP.CROP_SCALES
    elif "resize" in test.TRANSFORMS:
        scale, limit = test.RESIZE.SCALE, test.RESIZE.MAX_SIZE
        height, width = scale if isinstance(scale, tuple) else (scale, min(round(_RATIO * scale), limit or 1 << 30))
    else:
        return None
    step = max(test.SIZE_DIVISIBILITY, 1)
    return -(-height // step) * step, -(-width // step) * step
