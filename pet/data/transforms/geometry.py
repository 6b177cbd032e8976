"""Resizing, cropping and flipping pictures together with their labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from pet.data.masks import mirror
from pet.data.structures import Image, Sample
from pet.data.transforms.annotations import (
    IGNORE_LABEL,
    Size,
    Target,
    crop_target,
    flip_target,
    pad_target,
    resize_target,
)
from pet.data.transforms.base import TRANSFORMS

_MAX_CROPS = 10

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


def resize_sample(sample: Sample, size: Size, interpolation: str = "linear") -> Sample:
    """Picture and labels scaled to ``size``; label maps always by the nearest pixel."""
    image = resize_image(sample.image, size, interpolation)
    return Sample(image, resize_target(sample.target, size_of(sample), size), sample.id)


def size_of(sample: Sample) -> Size:
    """(height, width) of the picture."""
    height, width = sample.image.shape[:2]
    return height, width


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
        return resize_sample(sample, self._size(*size_of(sample), rng), self.interpolation)


def pad_image(image: Image, top: int, bottom: int, left: int, right: int, fill: Sequence[int] = (0, 0, 0)) -> Image:
    """``image`` with a border of the colour ``fill`` (RGB); sizes in pixels."""
    if not (top or bottom or left or right):
        return image
    return np.asarray(cv2.copyMakeBorder(image, top, bottom, left, right, cv2.BORDER_CONSTANT, value=list(fill)), np.uint8)


def pad_sample(
    sample: Sample, top: int, left: int, size: Size, fill: Sequence[int] = (0, 0, 0), ignore_label: int = IGNORE_LABEL
) -> Sample:
    """Picture and labels at (top, left) of a canvas of ``size`` and of the colour ``fill``."""
    height, width = size_of(sample)
    if (height, width) == size:
        return sample
    image = pad_image(sample.image, top, size[0] - top - height, left, size[1] - left - width, fill)
    return Sample(image, pad_target(sample.target, top, left, size, ignore_label), sample.id)


def pad_to(sample: Sample, size: Size, fill: Sequence[int] = (0, 0, 0), ignore_label: int = IGNORE_LABEL) -> Sample:
    """Picture and labels padded evenly so that they are at least ``size``."""
    height, width = size_of(sample)
    down, right = max(size[0] - height, 0), max(size[1] - width, 0)
    if not (down or right):
        return sample
    return pad_sample(sample, down // 2, right // 2, (height + down, width + right), fill, ignore_label)


def crop_image(image: Image, top: int, left: int, size: Size) -> Image:
    """The part of ``image`` that starts at (top, left); a view."""
    return image[top : top + size[0], left : left + size[1]]


def crop_sample(sample: Sample, top: int, left: int, size: Size) -> Sample:
    """The part of picture and labels that starts at (top, left)."""
    image = crop_image(sample.image, top, left, size)
    return Sample(image, crop_target(sample.target, top, left, size), sample.id)


@TRANSFORMS.register("random_crop")
class RandomCrop:
    """Cut out a random part; a picture that is too small is padded to the size first.

    Args:
        crop_scales: (height, width) of the part, or a list of such pairs of which one is drawn for each picture.
        padding: border added on each side before, in pixels.
        fill: colour of the border, RGB.
        cat_max_ths: for semantic segmentation: a part of which one class covers more than this share is drawn again, up to
            ten times; 0: any part will do.
        ignore_label: label of the border in label maps; does not count for ``cat_max_ths``.
    """

    def __init__(
        self,
        crop_scales: Any = ((32, 32),),
        padding: int = 0,
        fill: Sequence[int] = (0, 0, 0),
        cat_max_ths: float = 0.0,
        ignore_label: int = IGNORE_LABEL,
    ) -> None:
        if not 0.0 <= cat_max_ths <= 1.0:
            raise ValueError(f"CAT_MAX_THS is {cat_max_ths}; allowed are 0 (off) to 1")
        single = isinstance(crop_scales, int) or all(isinstance(v, int) for v in crop_scales)
        self.sizes = [as_size(pair, "CROP_SCALES") for pair in ([crop_scales] if single else crop_scales)]
        self.padding, self.fill = padding, tuple(fill)
        self.cat_max_ths, self.ignore_label = cat_max_ths, ignore_label

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        size = self.sizes[int(rng.integers(len(self.sizes)))] if len(self.sizes) > 1 else self.sizes[0]
        (height, width), p = size_of(sample), self.padding
        sample = pad_sample(sample, p, p, (height + 2 * p, width + 2 * p), self.fill, self.ignore_label)
        sample = pad_to(sample, size, self.fill, self.ignore_label)
        return crop_sample(sample, *self._choose(sample, size, rng), size)

    def _choose(self, sample: Sample, size: Size, rng: np.random.Generator) -> tuple[int, int]:
        height, width = size_of(sample)
        attempts = _MAX_CROPS if self.cat_max_ths > 0 and "semseg" in sample.target else 1
        for _ in range(attempts):
            top, left = int(rng.integers(height - size[0] + 1)), int(rng.integers(width - size[1] + 1))
            if attempts == 1 or self._is_varied(sample.target, top, left, size):
                break
        return top, left

    def _is_varied(self, target: Target, top: int, left: int, size: Size) -> bool:
        counts = np.bincount(target["semseg"][top : top + size[0], left : left + size[1]].ravel(), minlength=256)
        counts[self.ignore_label] = 0
        return bool(0 < counts.max() <= self.cat_max_ths * counts.sum())


@TRANSFORMS.register("center_crop")
class CenterCrop:
    """Cut out the middle; a picture that is too small is padded with black first.

    Args:
        crop_scales: (height, width) of the result in pixels.
    """

    def __init__(self, crop_scales: Any = (224, 224)) -> None:
        self.size = as_size(crop_scales, "CROP_SCALES")

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        sample = pad_to(sample, self.size)
        height, width = size_of(sample)
        return crop_sample(sample, round((height - self.size[0]) / 2.0), round((width - self.size[1]) / 2.0), self.size)


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
        top, left, height, width = self.choose(*size_of(sample), rng)
        return resize_sample(crop_sample(sample, top, left, (height, width)), self.size, self.interpolation)


class _Flip:
    """What both flips share.

    Args:
        prob: probability for a picture.
        flip_pairs: keypoints that change places when the picture is mirrored.
    """

    horizontal = False

    def __init__(self, prob: float = 0.5, flip_pairs: Sequence[Sequence[int]] = ()) -> None:
        self.prob, self.flip_pairs = prob, tuple((int(a), int(b)) for a, b in flip_pairs)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        if rng.random() >= self.prob:
            return sample
        horizontal = self.horizontal
        target = flip_target(sample.target, size_of(sample), horizontal, not horizontal, self.flip_pairs)
        return Sample(mirror(sample.image, horizontal, not horizontal), target, sample.id)


@TRANSFORMS.register("random_horizontal_flip")
class RandomHorizontalFlip(_Flip):
    """Mirror left and right with probability ``prob``; options: see ``_Flip``."""

    horizontal = True


@TRANSFORMS.register("random_vertical_flip")
class RandomVerticalFlip(_Flip):
    """Mirror top and bottom with probability ``prob``; options: see ``_Flip``."""
