"""Random erasing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pet.data.structures import Sample
from pet.data.transforms.base import TRANSFORMS

_IMAGENET_MEAN, _IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


@TRANSFORMS.register("random_erasing")
class RandomErasing:
    """Cover a rectangle of the picture.

    Args:
        prob: probability for a picture.
        area: range of the covered share of the picture.
        ratio: range of height / width of the rectangle, drawn evenly on a logarithmic scale.
        mode: "pixel" covers with normal noise around the mean colour, which is standard noise once the picture is
            normalised; "mean" with the mean colour.
        pixel_mean, pixel_std: RGB, 0 to 255.

    Source: arXiv 1708.04896, algorithm 1.
    """

    def __init__(
        self,
        prob: float = 0.25,
        area: Sequence[float] = (0.02, 1 / 3),
        ratio: Sequence[float] = (0.3, 3.3333),
        mode: str = "pixel",
        pixel_mean: Sequence[float] = _IMAGENET_MEAN,
        pixel_std: Sequence[float] = _IMAGENET_STD,
    ) -> None:
        if mode not in ("pixel", "mean"):
            raise ValueError(f"MODE is '{mode}'; allowed are pixel and mean")
        if area[0] > area[1] or ratio[0] > ratio[1]:
            raise ValueError(f"AREA {tuple(area)} and RATIO {tuple(ratio)} must be (smallest, largest)")
        self.prob, self.area, self.ratio, self.mode = prob, tuple(area), tuple(ratio), mode
        self._mean, self._std = np.array(pixel_mean), np.array(pixel_std)

    def choose(self, height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int] | None:
        """The rectangle (top, left, height, width), or ``None`` if ten attempts did not fit."""
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        for _ in range(10):
            area = height * width * rng.uniform(self.area[0], self.area[1])
            ratio = math.exp(rng.uniform(low, high))
            h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < h < height and 0 < w < width:
                return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
        return None

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        if rng.random() >= self.prob:
            return sample
        place = self.choose(sample.image.shape[0], sample.image.shape[1], rng)
        if place is None:
            return sample
        top, left, height, width = place
        image = sample.image.copy()  # it may be a view of the data set
        noise = rng.standard_normal((height, width, 3)) if self.mode == "pixel" else np.zeros((1, 1, 3))
        image[top : top + height, left : left + width] = np.clip(np.rint(self._mean + self._std * noise), 0, 255)
        return replace(sample, image=image)
