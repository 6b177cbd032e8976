"""Colour changes on uint8 pictures. Each function is checked against torchvision; results differ by rounding only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from pet.data.structures import Image, Sample
from pet.data.transforms.base import TRANSFORMS

_VALUES = np.arange(256, dtype=np.float32)


def apply_table(image: Image, table: npt.NDArray[Any]) -> Image:
    """Replace every value v by ``table[v]``, rounded and limited to 0 to 255; ``table`` is (256,) or (256, 3) for channels."""
    rounded = np.clip(np.rint(table), 0, 255).astype(np.uint8)
    return np.asarray(cv2.LUT(image, rounded.reshape(1, 256, -1) if rounded.ndim == 2 else rounded), np.uint8)


def blend(image: Image, other: Image, factor: float) -> Image:
    """``factor * image + (1 - factor) * other``, rounded and limited to 0 to 255."""
    return np.asarray(cv2.addWeighted(image, factor, other, 1.0 - factor, 0.0), np.uint8)


def to_gray(image: Image) -> Image:
    """Luminance 0.299 R + 0.587 G + 0.114 B: (H, W)."""
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)


def adjust_brightness(image: Image, factor: float) -> Image:
    """Multiply by ``factor`` >= 0; 1 changes nothing, 0 is black."""
    return apply_table(image, _VALUES * factor)


def adjust_contrast(image: Image, factor: float) -> Image:
    """Move away from (factor > 1) or towards (factor < 1) the mean luminance of the picture."""
    mean = cv2.mean(to_gray(image))[0]
    return apply_table(image, _VALUES * factor + (1.0 - factor) * mean)


def adjust_saturation(image: Image, factor: float) -> Image:
    """Move away from or towards the grey picture; 0 is grey, 1 changes nothing."""
    return blend(image, np.asarray(cv2.cvtColor(to_gray(image), cv2.COLOR_GRAY2RGB), np.uint8), factor)


def adjust_hue(image: Image, shift: float) -> Image:
    """Turn the colour circle by ``shift``, -0.5 to 0.5 of a whole turn."""
    # OpenCV's 8-bit hue has 180 steps, too coarse to come back within rounding.
    hsv = cv2.cvtColor(image.astype(np.float32) / 255.0, cv2.COLOR_RGB2HSV)
    hsv[..., 0] = np.mod(hsv[..., 0] + 360.0 * shift, 360.0)
    return np.asarray(np.clip(np.rint(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) * 255.0), 0, 255), np.uint8)


@TRANSFORMS.register("color_jitter")
class ColorJitter:
    """Change brightness, contrast, saturation and hue at random, in random order.

    Args:
        brightness, contrast, saturation: the factor is drawn from [max(0, 1 - x), 1 + x].
        hue: the shift is drawn from [-hue, hue], at most 0.5.
    """

    def __init__(self, brightness: float = 0.4, contrast: float = 0.4, saturation: float = 0.4, hue: float = 0.0) -> None:
        if not 0.0 <= hue <= 0.5:
            raise ValueError(f"HUE is {hue}; allowed are 0 to 0.5")
        changes = ((adjust_brightness, brightness), (adjust_contrast, contrast), (adjust_saturation, saturation))
        self._changes: list[tuple[Callable[[Image, float], Image], float, float]] = [
            (function, max(0.0, 1.0 - x), 1.0 + x) for function, x in changes if x > 0
        ]
        if hue > 0:
            self._changes.append((adjust_hue, -hue, hue))

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        image = sample.image
        for which in rng.permutation(len(self._changes)):
            function, low, high = self._changes[which]
            image = function(image, rng.uniform(low, high))
        return replace(sample, image=image)


@TRANSFORMS.register("photometric_distort")
class PhotometricDistort:
    """Colour changes of SSD: each is done or left out by a coin, contrast before or after the others.

    Args:
        brightness, contrast, saturation: range of the factor.
        hue: range of the shift in whole turns of the colour circle.
        prob: probability of each change and of a random order of the channels.

    Source: arXiv 1512.02325, section 2.2; ranges and order are those of torchvision's RandomPhotometricDistort.
    """

    def __init__(
        self,
        brightness: Sequence[float] = (0.875, 1.125),
        contrast: Sequence[float] = (0.5, 1.5),
        saturation: Sequence[float] = (0.5, 1.5),
        hue: Sequence[float] = (-0.05, 0.05),
        prob: float = 0.5,
    ) -> None:
        for key, values in (("BRIGHTNESS", brightness), ("CONTRAST", contrast), ("SATURATION", saturation), ("HUE", hue)):
            if len(values) != 2 or values[0] > values[1]:
                raise ValueError(f"{key} is {tuple(values)}; expected (smallest, largest)")
        if hue[0] < -0.5 or hue[1] > 0.5:
            raise ValueError(f"HUE is {tuple(hue)}; allowed are -0.5 to 0.5")
        self.prob = prob
        self._contrast = (adjust_contrast, contrast)
        self._others = ((adjust_saturation, saturation), (adjust_hue, hue))
        self._brightness = (adjust_brightness, brightness)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        contrast_first = rng.random() < 0.5
        changes = (self._contrast, *self._others) if contrast_first else (*self._others, self._contrast)
        image = sample.image
        for function, (low, high) in (self._brightness, *changes):
            if rng.random() < self.prob:
                image = function(image, rng.uniform(low, high))
        if rng.random() < self.prob:
            image = np.ascontiguousarray(image[..., rng.permutation(3)])
        return replace(sample, image=image)
