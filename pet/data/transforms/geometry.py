"""Resizing, cropping and flipping pictures; for data sets whose labels do not depend on the geometry."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np

from pet.data.structures import Image, Sample
from pet.data.transforms.base import TRANSFORMS

Size = tuple[int, int]  # (height, width)

INTERPOLATIONS = {
    "nearest": cv2.INTER_NEAREST,
    "linear": cv2.INTER_LINEAR,
    "cubic": cv2.INTER_CUBIC,
    "area": cv2.INTER_AREA,
    "lanczos": cv2.INTER_LANCZOS4,
}


def as_size(value: Any, key: str) -> Size:
    """``(height, width)`` from a pair or a single number."""
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or not all(isinstance(v, int) and v >= 1 for v in pair):
        raise ValueError(f"{key} is {value!r}; expected (height, width), two whole numbers of at least 1")
    return pair[0], pair[1]


def resize_image(image: Image, size: Size, interpolation: str = "linear") -> Image:
    """``image`` (H, W, 3) scaled to ``size``; as OpenCV does it, without smoothing (use "area" to shrink strongly)."""
    if image.shape[:2] == size:
        return image
    return np.asarray(cv2.resize(image, (size[1], size[0]), interpolation=INTERPOLATIONS[interpolation]), np.uint8)


def short_side_size(height: int, width: int, short: float, max_size: int = 0) -> Size:
    """Size whose shorter side is ``short`` and whose longer one is at most ``max_size`` (0: no limit), aspect kept."""
    scale = short / min(height, width)
    if max_size and scale * max(height, width) > max_size:
        scale = max_size / max(height, width)
    # The small term undoes the error of the division: 500 * (256 / 500) must not become 255.
    return max(int(height * scale + 1e-6), 1), max(int(width * scale + 1e-6), 1)


@TRANSFORMS.register("resize")
class Resize:
    """Scale the picture.

    Args:
        scales: with "choice", lengths of the shorter side, of which one is drawn; with "range", the smallest and the largest;
            with "force_size", (height, width) pairs, of which one is drawn and which is reached exactly. A single number
            or pair is a list of one.
        max_size: limit of the longer side in pixels; 0: none. Not with force_size.
        scales_sampling: "choice", "range", "scale_factor" or "force_size".
        scale_factor: range of the factor that both sides are multiplied by with "scale_factor".
        interpolation: "nearest", "linear", "cubic", "area" or "lanczos".
    """

    def __init__(
        self,
        scales: Any = (256,),
        max_size: int = 0,
        scales_sampling: str = "choice",
        scale_factor: Sequence[float] = (1.0, 1.0),
        interpolation: str = "linear",
    ) -> None:
        self.max_size, self.sampling, self.factor, self.interpolation = (
            max_size,
            scales_sampling,
            tuple(scale_factor),
            interpolation,
        )
        if scales_sampling == "force_size":
            pairs = (
                [scales] if isinstance(scales, int) or (len(scales) == 2 and all(isinstance(v, int) for v in scales)) else scales
            )
            self.scales: list[Any] = [as_size(pair, "SCALES") for pair in pairs]
        else:
            self.scales = [scales] if isinstance(scales, int) else list(scales)
            if not self.scales or not all(isinstance(v, int) and v >= 1 for v in self.scales):
                raise ValueError(
                    f"SCALES is {scales!r}; expected lengths of the shorter side, e.g. (256,); (height, width) pairs need "
                    "SCALES_SAMPLING force_size"
                )
        if scales_sampling == "range" and len(self.scales) != 2:
            raise ValueError(f"SCALES is {scales!r}; with SCALES_SAMPLING range it must be (smallest, largest)")

    def _size(self, height: int, width: int, rng: np.random.Generator) -> Size:
        if self.sampling == "scale_factor":
            factor = rng.uniform(self.factor[0], self.factor[1])
            return short_side_size(height, width, factor * min(height, width), self.max_size)
        if self.sampling == "range":
            return short_side_size(height, width, int(rng.integers(min(self.scales), max(self.scales) + 1)), self.max_size)
        scale = self.scales[int(rng.integers(len(self.scales)))] if len(self.scales) > 1 else self.scales[0]
        return scale if isinstance(scale, tuple) else short_side_size(height, width, scale, self.max_size)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        size = self._size(sample.image.shape[0], sample.image.shape[1], rng)
        return replace(sample, image=resize_image(sample.image, size, self.interpolation))


def pad_image(image: Image, top: int, bottom: int, left: int, right: int, fill: Sequence[int] = (0, 0, 0)) -> Image:
    """``image`` with a border of the colour ``fill`` (RGB); sizes in pixels."""
    if not (top or bottom or left or right):
        return image
    return np.asarray(cv2.copyMakeBorder(image, top, bottom, left, right, cv2.BORDER_CONSTANT, value=list(fill)), np.uint8)


def pad_to(image: Image, size: Size, fill: Sequence[int] = (0, 0, 0)) -> Image:
    """``image`` padded evenly so that it is at least ``size``."""
    down, right = max(size[0] - image.shape[0], 0), max(size[1] - image.shape[1], 0)
    return pad_image(image, down // 2, down - down // 2, right // 2, right - right // 2, fill)


def crop_image(image: Image, top: int, left: int, size: Size) -> Image:
    """The part of ``image`` that starts at (top, left); a view."""
    return image[top : top + size[0], left : left + size[1]]


@TRANSFORMS.register("random_crop")
class RandomCrop:
    """Cut out a random part; a picture that is too small is padded to the size first.

    Args:
        crop_scales: (height, width) of the part, or a list of such pairs of which one is drawn for each picture.
        padding: border added on each side before, in pixels.
        fill: colour of the border, RGB.
    """

    def __init__(self, crop_scales: Any = ((32, 32),), padding: int = 0, fill: Sequence[int] = (0, 0, 0)) -> None:
        single = isinstance(crop_scales, int) or all(isinstance(v, int) for v in crop_scales)
        self.sizes = [as_size(pair, "CROP_SCALES") for pair in ([crop_scales] if single else crop_scales)]
        self.padding, self.fill = padding, tuple(fill)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        size = self.sizes[int(rng.integers(len(self.sizes)))] if len(self.sizes) > 1 else self.sizes[0]
        p = self.padding
        image = pad_to(pad_image(sample.image, p, p, p, p, self.fill), size, self.fill)
        top = int(rng.integers(image.shape[0] - size[0] + 1))
        left = int(rng.integers(image.shape[1] - size[1] + 1))
        return replace(sample, image=crop_image(image, top, left, size))


@TRANSFORMS.register("center_crop")
class CenterCrop:
    """Cut out the middle; a picture that is too small is padded with black first.

    Args:
        crop_scales: (height, width) of the result in pixels.
    """

    def __init__(self, crop_scales: Any = (224, 224)) -> None:
        self.size = as_size(crop_scales, "CROP_SCALES")

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        image = pad_to(sample.image, self.size)
        top = round((image.shape[0] - self.size[0]) / 2.0)
        left = round((image.shape[1] - self.size[1]) / 2.0)
        return replace(sample, image=crop_image(image, top, left, self.size))


@TRANSFORMS.register("random_resized_crop")
class RandomResizedCrop:
    """Cut out a part of random area and aspect ratio and scale it to a fixed size.

    Ten attempts to fit a part into the picture; after that the largest part in the middle with an allowed ratio.

    Args:
        size: (height, width) of the result in pixels.
        scale: range of the area of the part, as a share of the picture.
        ratio: range of width / height of the part, drawn evenly on a logarithmic scale.
        interpolation: see ``Resize``.

    Source: arXiv 1409.4842, section 6; the choice of the part is that of torchvision's RandomResizedCrop.
    """

    def __init__(
        self,
        size: Any = (224, 224),
        scale: Sequence[float] = (0.08, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
        interpolation: str = "linear",
    ) -> None:
        self.size, self.scale, self.interpolation = as_size(size, "SIZE"), tuple(scale), interpolation
        self.ratio = tuple(ratio)
        if self.scale[0] > self.scale[1] or self.ratio[0] > self.ratio[1]:
            raise ValueError(f"SCALE {self.scale} and RATIO {self.ratio} must be (smallest, largest)")

    def choose(self, height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """The part for a picture of this size: (top, left, height, width)."""
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        for _ in range(10):
            area = height * width * rng.uniform(self.scale[0], self.scale[1])
            ratio = math.exp(rng.uniform(low, high))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
        h, w = height, width
        if width / height < self.ratio[0]:
            h = max(round(width / self.ratio[0]), 1)
        elif width / height > self.ratio[1]:
            w = max(round(height * self.ratio[1]), 1)
        return (height - h) // 2, (width - w) // 2, h, w

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        top, left, height, width = self.choose(sample.image.shape[0], sample.image.shape[1], rng)
        part = crop_image(sample.image, top, left, (height, width))
        return replace(sample, image=resize_image(part, self.size, self.interpolation))


@TRANSFORMS.register("random_horizontal_flip")
class RandomHorizontalFlip:
    """Mirror left and right with probability ``prob``."""

    def __init__(self, prob: float = 0.5) -> None:
        self.prob = prob

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        return replace(sample, image=sample.image[:, ::-1]) if rng.random() < self.prob else sample


@TRANSFORMS.register("random_vertical_flip")
class RandomVerticalFlip:
    """Mirror top and bottom with probability ``prob``."""

    def __init__(self, prob: float = 0.5) -> None:
        self.prob = prob

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        return replace(sample, image=sample.image[::-1]) if rng.random() < self.prob else sample
