"""Several pictures and their instances in one: copy-paste, mosaic, mixup for detection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from pet.data.masks import InstanceMasks
from pet.data.structures import Sample
from pet.data.transforms.annotations import (
    INSTANCES,
    Target,
    has_area,
    join_instances,
    pad_target,
    select_instances,
)
from pet.data.transforms.base import TRANSFORMS
from pet.data.transforms.color import blend
from pet.data.transforms.geometry import as_size, crop_sample, pad_sample, resize_sample, size_of
from pet.data.transforms.jitter import fit_size, random_part

_GREY = (114, 114, 114)


def _check_alike(name: str, sample: Sample, partners: Sequence[Sample]) -> None:
    """Refuse samples whose instances are labelled differently: joined they would lose rows."""
    kinds = {key for key in (*INSTANCES, "semseg") if key in sample.target}
    for partner in partners:
        others = {key for key in (*INSTANCES, "semseg") if key in partner.target}
        if others != kinds:
            raise ValueError(
                f"{name} cannot join samples {sample.id} and {partner.id}, which carry different labels: {sorted(kinds)} and "
                f"{sorted(others)}; data sets trained together must be labelled alike"
            )


@TRANSFORMS.register("copy_paste")
class CopyPaste:
    """Paste some objects of another picture. Put it after what fixes the size, e.g. "efficient_det_resize_crop" and a flip.

    The partner is scaled and padded to the size of the picture. What the pasted objects cover is taken out of the masks below,
    whose boxes are drawn anew; objects without a pixel left are dropped. Covered visible keypoints count as hidden.

    Args:
        prob: probability for a picture.
        share: probability for each object of the partner to be pasted.

    Source: arXiv 2012.07177, section 3 (simple copy-paste, without blending of the edges).
    """

    num_partners = 1

    def __init__(self, prob: float = 0.5, share: float = 0.5) -> None:
        if not 0.0 <= share <= 1.0:
            raise ValueError(f"SHARE is {share}; allowed are 0 to 1")
        self.prob, self.share = prob, share

    def combine(self, sample: Sample, partners: list[Sample], rng: np.random.Generator) -> Sample:
        """``sample`` with objects of the only partner on top."""
        for one in (sample, *partners):
            if "masks" not in one.target:
                raise ValueError("copy_paste needs instance masks, which the data set does not have; remove it from TRANSFORMS")
        _check_alike("copy_paste", sample, partners)
        size = size_of(sample)
        partner = resize_sample(partners[0], fit_size(size_of(partners[0]), size))
        partner = pad_sample(partner, 0, 0, size)
        chosen = select_instances(partner.target, rng.random(len(partner.target["masks"])) < self.share)
        cover = chosen["masks"].to_bitmaps().any(0)
        if not cover.any():
            return sample
        image = sample.image.copy()
        cv2.copyTo(np.ascontiguousarray(partner.image), cover.view(np.uint8), image)
        target = join_instances([occlude(sample.target, cover), chosen])
        if "semseg" in target:
            target["semseg"] = np.where(cover, partner.target["semseg"], target["semseg"])
        return replace(sample, image=image, target=target)


def occlude(target: Target, cover: npt.NDArray[np.bool_]) -> Target:
    """Labels of a picture of which ``cover`` (H, W) is hidden; untouched masks stay polygons."""
    masks: InstanceMasks = target["masks"]
    pixels = masks.to_bitmaps()
    touched = np.flatnonzero((pixels & cover).any((1, 2)))
    result = dict(target)
    if len(touched):
        visible = InstanceMasks.from_bitmaps(pixels[touched] & ~cover)
        order = np.arange(len(masks))
        order[touched] = len(masks) + np.arange(len(touched))
        result["masks"] = InstanceMasks.concatenate([masks, visible]).select(order)
        boxes = visible.boxes()
        if "boxes" in target:
            result["boxes"] = target["boxes"].copy()
            result["boxes"][touched] = boxes
        keep = np.ones(len(masks), bool)
        keep[touched] = has_area(boxes)
        result = select_instances(result, keep)
    if "keypoints" in target:
        result["keypoints"] = _hide_points(result["keypoints"], cover)
    return result


def _hide_points(keypoints: npt.NDArray[np.float32], cover: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    points = keypoints.copy()
    x = np.clip(points[..., 0].astype(np.int64), 0, cover.shape[1] - 1)
    y = np.clip(points[..., 1].astype(np.int64), 0, cover.shape[0] - 1)
    points[cover[y, x] & (points[..., 2] == 2), 2] = 1
    return points


@TRANSFORMS.register("mosaic")
class Mosaic:
    """Four pictures around a random point.

    Each is scaled to fit into ``size``, aspect kept. The result is twice as large as ``size``: follow it with "random_crop",
    "resize" or "efficient_det_resize_crop".

    Args:
        size: (height, width) in pixels that each picture is scaled to.
        center_range: range of the point where the four meet, in units of ``size``.
        fill: colour of what no picture covers, RGB.
        prob: probability for a picture.

    Source: arXiv 2004.10934, section 3.3; arXiv 2107.08430 (YOLOX) for the geometry.
    """

    num_partners = 3

    def __init__(
        self,
        size: Any = (640, 640),
        center_range: Sequence[float] = (0.5, 1.5),
        fill: Sequence[int] = _GREY,
        prob: float = 1.0,
    ) -> None:
        if not 0.0 < center_range[0] <= center_range[1] < 2.0:
            raise ValueError(f"CENTER_RANGE is {tuple(center_range)}; expected (smallest, largest) between 0 and 2")
        self.size, self.center_range = as_size(size, "SIZE"), tuple(center_range)
        self.fill, self.prob = tuple(fill), prob

    def combine(self, sample: Sample, partners: list[Sample], rng: np.random.Generator) -> Sample:
        """The four samples: top left, top right, bottom left, bottom right."""
        _check_alike("mosaic", sample, partners)
        y, x = (int(side * rng.uniform(self.center_range[0], self.center_range[1])) for side in self.size)
        canvas = (2 * self.size[0], 2 * self.size[1])
        placed = [self._place(one, i, (y, x)) for i, one in enumerate((sample, *partners))]
        image = np.empty((*canvas, 3), np.uint8)
        image[:] = self.fill
        for part, top, left in placed:
            height, width = size_of(part)
            image[top : top + height, left : left + width] = part.image
        labels = [pad_target(part.target, top, left, canvas) for part, top, left in placed]
        target = join_instances(labels)
        if "semseg" in target:
            target["semseg"] = np.minimum.reduce([one["semseg"] for one in labels])
        return replace(sample, image=image, target=target)

    def _place(self, sample: Sample, which: int, centre: tuple[int, int]) -> tuple[Sample, int, int]:
        """One picture cut to its quarter, and the place of its corner on the canvas."""
        sample = resize_sample(sample, fit_size(size_of(sample), self.size))
        height, width = size_of(sample)
        above, before = which < 2, which % 2 == 0
        room_h = centre[0] if above else 2 * self.size[0] - centre[0]
        room_w = centre[1] if before else 2 * self.size[1] - centre[1]
        part = (min(height, room_h), min(width, room_w))
        # The corner next to the common point stays.
        sample = crop_sample(sample, height - part[0] if above else 0, width - part[1] if before else 0, part)
        return sample, centre[0] - part[0] if above else centre[0], centre[1] - part[1] if before else centre[1]


@TRANSFORMS.register("det_mixup")
class DetMixup:
    """Weighted mean of two pictures with the objects of both.

    The partner is scaled to fit the picture, aspect kept, then by a random factor, and cut or padded to the picture's size.

    Args:
        scale: range of the factor.
        alpha: the weight is drawn from Beta(alpha, alpha); 0: both weigh one half.
        fill: colour around the partner, RGB.
        prob: probability for a picture.

    Source: arXiv 1902.04103, section 3.1 (weights from Beta(1.5, 1.5)); arXiv 2107.08430 (YOLOX) for scale and equal weights.
    """

    num_partners = 1

    def __init__(
        self, scale: Sequence[float] = (0.5, 1.5), alpha: float = 0.0, fill: Sequence[int] = _GREY, prob: float = 1.0
    ) -> None:
        if not 0.0 < scale[0] <= scale[1]:
            raise ValueError(f"SCALE is {tuple(scale)}; expected (smallest, largest), above 0")
        if alpha < 0:
            raise ValueError(f"ALPHA is {alpha}; it must be 0 (equal weights) or above")
        self.scale, self.alpha, self.fill, self.prob = tuple(scale), alpha, tuple(fill), prob

    def combine(self, sample: Sample, partners: list[Sample], rng: np.random.Generator) -> Sample:
        """The mean of ``sample`` and the only partner."""
        _check_alike("det_mixup", sample, partners)
        if "semseg" in sample.target:
            raise ValueError("det_mixup cannot mix label maps (semseg); remove it from TRANSFORMS, or use mosaic or copy_paste")
        size = size_of(sample)
        factor = rng.uniform(self.scale[0], self.scale[1])
        partner = random_part(resize_sample(partners[0], fit_size(size_of(partners[0]), size, factor)), size, rng)
        partner = pad_sample(partner, 0, 0, size, self.fill)
        share = float(rng.beta(self.alpha, self.alpha)) if self.alpha else 0.5
        image = blend(np.ascontiguousarray(sample.image), np.ascontiguousarray(partner.image), share)
        return replace(sample, image=image, target=join_instances([sample.target, partner.target]))
