"""The operations of AutoAugment and RandAugment, each with a strength from 0 to 1.

Source: arXiv 1805.09501, table 6, for the operations and their ranges.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from pet.data.structures import Image
from pet.data.transforms.color import adjust_brightness, adjust_contrast, adjust_saturation, apply_table, blend

# The original code fills uncovered parts with middle grey.
GRAY = (128, 128, 128)

_SHARPEN_BASE = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13.0


def warp(image: Image, matrix: Any, fill: Sequence[int] = GRAY, interpolation: int = cv2.INTER_LINEAR) -> Image:
    """Picture whose pixel centre (x, y) shows what ``image`` has at ``matrix @ (x, y, 1)``.

    Args:
        image: (H, W, 3) uint8.
        matrix: (2, 3), in coordinates where the first pixel reaches from 0 to 1.
        fill: RGB of parts that lie outside.
        interpolation: an OpenCV constant.
    """
    m = np.asarray(matrix, np.float64).copy()
    m[:, 2] += m[:, :2].sum(1) * 0.5 - 0.5  # OpenCV counts from the centre of the first pixel
    size = (image.shape[1], image.shape[0])
    flags = interpolation | cv2.WARP_INVERSE_MAP
    return np.asarray(
        cv2.warpAffine(image, m, size, flags=flags, borderMode=cv2.BORDER_CONSTANT, borderValue=list(fill)), np.uint8
    )


def shear_x(image: Image, amount: float) -> Image:
    """Shift each row by ``amount`` times its distance from the top."""
    return warp(image, [[1, amount, 0], [0, 1, 0]])


def shear_y(image: Image, amount: float) -> Image:
    """Shift each column by ``amount`` times its distance from the left."""
    return warp(image, [[1, 0, 0], [amount, 1, 0]])


def translate_x(image: Image, share: float) -> Image:
    """Shift sideways by ``share`` of the width, to whole pixels."""
    return warp(image, [[1, 0, -int(share * image.shape[1])], [0, 1, 0]])


def translate_y(image: Image, share: float) -> Image:
    """Shift up or down by ``share`` of the height, to whole pixels."""
    return warp(image, [[1, 0, 0], [0, 1, -int(share * image.shape[0])]])


def rotation_matrix(height: int, width: int, degrees: float) -> npt.NDArray[np.float64]:
    """Matrix for ``warp`` that turns a picture counter-clockwise around its middle."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    x, y = width / 2.0, height / 2.0
    return np.array([[c, -s, x - c * x + s * y], [s, c, y - s * x - c * y]])


def rotate(image: Image, degrees: float) -> Image:
    """Turn counter-clockwise around the middle."""
    return warp(image, rotation_matrix(image.shape[0], image.shape[1], degrees))


def adjust_sharpness(image: Image, factor: float) -> Image:
    """0 is smoothed, 1 unchanged, above 1 sharper; the outermost pixels stay."""
    smooth = image.copy()
    if min(image.shape[:2]) > 2:
        smooth[1:-1, 1:-1] = cv2.filter2D(image, -1, _SHARPEN_BASE)[1:-1, 1:-1]
    return blend(image, smooth, factor)


def posterize(image: Image, bits: int) -> Image:
    """Keep the upper ``bits`` (0 to 8) of each value."""
    return np.asarray(image & np.uint8(256 - (1 << (8 - bits))), np.uint8)


def solarize(image: Image, threshold: float) -> Image:
    """Invert the values from ``threshold`` on."""
    values = np.arange(256)
    return apply_table(image, np.where(values >= threshold, 255 - values, values))


def invert(image: Image) -> Image:
    """The negative."""
    return np.asarray(255 - image, np.uint8)


def auto_contrast(image: Image) -> Image:
    """Stretch each channel to the whole range."""
    low, high = image.min((0, 1)).astype(np.float32), image.max((0, 1)).astype(np.float32)
    flat = low == high
    low, scale = np.where(flat, 0, low), np.where(flat, 1, 255.0 / np.where(flat, 1, high - low))
    return apply_table(image, (np.arange(256)[:, None] - low) * scale)


def equalize(image: Image) -> Image:
    """Spread the values of each channel evenly (the integer rule of Pillow)."""
    tables = np.stack([_equalizing_table(np.bincount(image[..., c].ravel(), minlength=256)) for c in range(3)], 1)
    return apply_table(image, tables)


def _equalizing_table(histogram: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    present = histogram[histogram > 0]
    step = int(present.sum() - present[-1]) // 255
    if step == 0:
        return np.arange(256)
    before = np.cumsum(histogram) - histogram
    return np.asarray(np.minimum((before + step // 2) // step, 255))


def _signed(function: Callable[[Image, float], Image], largest: float) -> Callable[[Image, float, float], Image]:
    return lambda image, level, sign: function(image, sign * level * largest)


def _enhance(function: Callable[[Image, float], Image]) -> Callable[[Image, float, float], Image]:
    return lambda image, level, sign: function(image, 1.0 + sign * 0.9 * level)


def _fixed(function: Callable[[Image], Image]) -> Callable[[Image, float, float], Image]:
    return lambda image, level, sign: function(image)


# name -> function(image, level 0 to 1, sign -1 or 1)
OPERATIONS: dict[str, Callable[[Image, float, float], Image]] = {
    "identity": _fixed(lambda image: image),
    "shear_x": _signed(shear_x, 0.3),
    "shear_y": _signed(shear_y, 0.3),
    "translate_x": _signed(translate_x, 150.0 / 331.0),
    "translate_y": _signed(translate_y, 150.0 / 331.0),
    "rotate": _signed(rotate, 30.0),
    "brightness": _enhance(adjust_brightness),
    "color": _enhance(adjust_saturation),
    "contrast": _enhance(adjust_contrast),
    "sharpness": _enhance(adjust_sharpness),
    "posterize": lambda image, level, sign: posterize(image, 8 - round(4 * level)),
    "solarize": lambda image, level, sign: solarize(image, 255.0 * (1.0 - level)),
    "auto_contrast": _fixed(auto_contrast),
    "equalize": _fixed(equalize),
    "invert": _fixed(invert),
}
