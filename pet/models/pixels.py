"""Normalisation of pixels on the device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

FORMATS = ("rgb", "bgr", "rgb255", "bgr255")


class PixelNormalizer(nn.Module):
    """uint8 RGB images to what the network sees.

    The constants are not part of a checkpoint: they come from the config.

    Args:
        mean, std: of the three channels, in the range and order of ``image_format``.
        image_format: ``rgb``, ``bgr`` (0 to 1), ``rgb255`` or ``bgr255`` (0 to 255).
        normalize: subtract the mean and divide by the deviation; otherwise only order and range change.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float], image_format: str, normalize: bool = True) -> None:
        super().__init__()
        if image_format not in FORMATS:
            raise ValueError(f"DATA.FORMAT.IMAGE is '{image_format}'; allowed: {', '.join(FORMATS)}")
        self.flip = image_format.startswith("bgr")
        scale = 1.0 if image_format.endswith("255") else 255.0
        if not normalize:
            mean, std = (0.0,) * 3, (1.0,) * 3
        # (x / scale - mean) / std in one subtraction and one division
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1) * scale, persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1) * scale, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) RGB, uint8 or float from 0 to 255, to float32."""
        if self.flip:
            images = images.flip(1)
        return (images - self.mean) / self.std
