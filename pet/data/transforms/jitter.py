"""Crops and zooms for detection: SSD's crop and expand, and large scale jitter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pet.data.structures import Sample
from pet.data.transforms.annotations import Size, crop_target
from pet.data.transforms.base import TRANSFORMS
from pet.data.transforms.geometry import as_size, crop_image, crop_sample, pad_sample, resize_sample, size_of

# Mean colour of ImageNet, RGB: zero once a picture is normalised.
MEAN_COLOUR = (124, 116, 104)
_TRIALS = 40
_ROUNDS = 50


@TRANSFORMS.register("min_iou_random_crop")
class MinIouRandomCrop:
    """Cut out a random part that overlaps enough with some object.

    A threshold is drawn, or the whole picture. The part must have at least this IoU with one of the objects whose centre lies
    in it; after 40 attempts another threshold is drawn. Objects whose centre lies outside the part are dropped.

    Args:
        thresholds: smallest IoU; 0 allows every part that holds the centre of an object.
        min_scale: shortest side of the part, as a share of the picture's.
        ratio: range of width / height of the part.
        prob: probability for a picture.

    Source: arXiv 1512.02325, section 2.2.
    """

    def __init__(
        self,
        thresholds: Sequence[float] = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9),
        min_scale: float = 0.3,
        ratio: Sequence[float] = (0.5, 2.0),
        prob: float = 1.0,
    ) -> None:
        if not all(0.0 <= v <= 1.0 for v in thresholds):
            raise ValueError(f"THRESHOLDS is {tuple(thresholds)}; expected values of 0 to 1")
        if not 0.0 < min_scale <= 1.0:
            raise ValueError(f"MIN_SCALE is {min_scale}; it must be above 0 and at most 1")
        self.thresholds, self.min_scale, self.ratio, self.prob = tuple(thresholds), min_scale, tuple(ratio), prob

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        if rng.random() >= self.prob or len(sample.target.get("boxes", ())) == 0:
            return sample
        boxes = sample.target["boxes"]
        for _ in range(_ROUNDS):
            drawn = int(rng.integers(len(self.thresholds) + 1))
            if drawn == len(self.thresholds):
                return sample
            part = self._choose(size_of(sample), boxes, self.thresholds[drawn], rng)
            if part is not None:
                return _crop_by_centres(sample, part)
        return sample

    def _choose(
        self, size: Size, boxes: npt.NDArray[np.float32], threshold: float, rng: np.random.Generator
    ) -> npt.NDArray[np.int64] | None:
        """The first of the drawn parts (x1, y1, x2, y2) that fulfils the conditions."""
        limits = np.array([size[1], size[0]])
        sides = np.maximum(limits * rng.uniform(self.min_scale, 1.0, (_TRIALS, 2)), 1).astype(np.int64)
        corners = ((limits - sides + 1) * rng.random((_TRIALS, 2))).astype(np.int64)
        parts = np.concatenate([corners, corners + sides], 1)
        ratios = sides[:, 0] / sides[:, 1]
        overlaps = np.where(_centres_inside(boxes, parts), _ious(parts, boxes), -1.0).max(1)
        good = (ratios >= self.ratio[0]) & (ratios <= self.ratio[1]) & (overlaps >= threshold)
        return parts[int(good.argmax())] if good.any() else None


def _centres_inside(boxes: npt.NDArray[Any], parts: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """(T, K): whether the centre of each box lies inside each part."""
    centres = ((boxes[:, :2] + boxes[:, 2:]) / 2)[None]
    return np.asarray(((centres > parts[:, None, :2]) & (centres < parts[:, None, 2:])).all(-1))


def _ious(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Intersection over union of boxes (T, 4) and (K, 4): (T, K)."""
    a, b = first[:, None].astype(np.float64), second[None].astype(np.float64)
    inner = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None).prod(-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - inner
    return np.asarray(inner / np.maximum(union, 1e-9))


def _crop_by_centres(sample: Sample, part: npt.NDArray[np.int64]) -> Sample:
    left, top, right, bottom = part.tolist()
    size = (bottom - top, right - left)
    keep = _centres_inside(sample.target["boxes"], part[None])[0]
    return replace(
        sample, image=crop_image(sample.image, top, left, size), target=crop_target(sample.target, top, left, size, keep)
    )


@TRANSFORMS.register("ssd_crop_and_expand")
class SsdCropAndExpand:
    """SSD's augmentation of scale: the picture somewhere on a larger canvas, then a part that overlaps with an object.

    Args:
        prob: probability of the larger canvas; the part is always drawn ("the whole picture" is one of the choices).
        max_scale: sides of the canvas are drawn from 1 to this many times those of the picture.
        thresholds, min_scale, ratio: of the part, see ``MinIouRandomCrop``.
        fill: colour of the canvas, RGB.

    Source: arXiv 1512.02325, sections 2.2 and 3.6.
    """

    def __init__(
        self,
        prob: float = 0.5,
        max_scale: float = 4.0,
        thresholds: Sequence[float] = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9),
        min_scale: float = 0.3,
        ratio: Sequence[float] = (0.5, 2.0),
        fill: Sequence[int] = MEAN_COLOUR,
    ) -> None:
        if max_scale < 1.0:
            raise ValueError(f"MAX_SCALE is {max_scale}; it must be at least 1")
        self.prob, self.max_scale, self.fill = prob, max_scale, tuple(fill)
        self._crop = MinIouRandomCrop(thresholds, min_scale, ratio)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        if rng.random() < self.prob:
            height, width = size_of(sample)
            scale = rng.uniform(1.0, self.max_scale)
            size = (int(height * scale), int(width * scale))
            top, left = int(rng.integers(size[0] - height + 1)), int(rng.integers(size[1] - width + 1))
            sample = pad_sample(sample, top, left, size, self.fill)
        return self._crop(sample, rng)


@TRANSFORMS.register("efficient_det_resize_crop")
class EfficientDetResizeCrop:
    """Large scale jitter: scale by a random factor, then cut or pad to a fixed size.

    Args:
        size: (height, width) of the result in pixels.
        scale: range of the factor; with 1 the picture just fits into ``size``.
        interpolation: see ``Resize``.
        fill: colour below and to the right of a smaller picture, RGB.
        prob: probability of the factor; otherwise it is 1.

    Source: arXiv 1911.09070 (EfficientDet), section 5.1; arXiv 2012.07177, section 3, for the range 0.1 to 2.
    """

    def __init__(
        self,
        size: Any = (640, 640),
        scale: Sequence[float] = (0.1, 2.0),
        interpolation: str = "linear",
        fill: Sequence[int] = MEAN_COLOUR,
        prob: float = 1.0,
    ) -> None:
        if not 0.0 < scale[0] <= scale[1]:
            raise ValueError(f"SCALE is {tuple(scale)}; expected (smallest, largest), above 0")
        self.size, self.scale, self.interpolation = as_size(size, "SIZE"), tuple(scale), interpolation
        self.fill, self.prob = tuple(fill), prob

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        factor = rng.uniform(self.scale[0], self.scale[1]) if rng.random() < self.prob else 1.0
        sample = resize_sample(sample, fit_size(size_of(sample), self.size, factor), self.interpolation)
        return pad_sample(random_part(sample, self.size, rng), 0, 0, self.size, self.fill)


def fit_size(size: Size, room: Size, factor: float = 1.0) -> Size:
    """``size`` scaled, aspect kept, to ``factor`` times the largest that fits into ``room``."""
    scale = factor * min(room[0] / size[0], room[1] / size[1])
    return max(round(size[0] * scale), 1), max(round(size[1] * scale), 1)


def random_part(sample: Sample, room: Size, rng: np.random.Generator) -> Sample:
    """A part drawn at random of what does not fit into ``room``, along each side by itself."""
    height, width = size_of(sample)
    part = (min(height, room[0]), min(width, room[1]))
    top, left = int(rng.integers(height - part[0] + 1)), int(rng.integers(width - part[1] + 1))
    return crop_sample(sample, top, left, part) if part != (height, width) else sample
