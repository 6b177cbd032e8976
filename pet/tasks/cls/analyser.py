"""The analyser for classification, and the image size it should assume."""

from __future__ import annotations

from torch import nn

from pet.analyser import Analyser as SharedAnalyser
from pet.config import CfgNode

__all__ = ["Analyser", "RCNNAnalyser", "input_size"]

# Transform that fixes the size -> section and key that hold it; TRAIN.RESIZE has SCALES where TEST.RESIZE has SCALE.
_SIZE_KEYS = {
    "resize": ("RESIZE", "SCALE"),
    "center_crop": ("CENTER_CROP", "CROP_SCALES"),
    "random_crop": ("RANDOM_CROP", "CROP_SCALES"),
    "random_resized_crop": ("RANDOM_RESIZED_CROP", "SIZE"),
}


class Analyser(SharedAnalyser):
    """The shared analyser; ``describe`` assumes the size of the images that ``cfg`` makes."""

    def __init__(self, cfg: CfgNode, model: nn.Module, param_details: bool = False) -> None:
        super().__init__(cfg, model, param_details, input_size(cfg))


RCNNAnalyser = Analyser  # the name in Pet v0.7


def input_size(cfg: CfgNode) -> tuple[int, int] | None:
    """(height, width) in pixels that the network sees; ``None`` if no transform fixes it.

    What the last resize or crop of the test makes, else that of the training.
    """
    for phase in (cfg.TEST, cfg.TRAIN):
        names = [name for name in phase.TRANSFORMS if name in _SIZE_KEYS]
        if names:
            return _size_after(phase, names[-1])
    return None


def _size_after(phase: CfgNode, transform: str) -> tuple[int, int]:
    section, key = _SIZE_KEYS[transform]
    size = phase[section].get(key, phase[section].get(f"{key}S"))
    while isinstance(size, tuple) and isinstance(size[0], tuple):  # a choice of several: the first
        size = size[0]
    return (size, size) if isinstance(size, int) else (size[0], size[-1])
