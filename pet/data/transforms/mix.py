"""Mixup and cutmix: a sample mixed with another one of the data set."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from pet.data.structures import Sample
from pet.data.transforms.base import TRANSFORMS
from pet.data.transforms.color import blend

Scores = npt.NDArray[np.float32]


def to_scores(sample: Sample, num_classes: int) -> Sample:
    """The sample with its ``label`` turned into ``scores``: (num_classes,) float32 with a one at the label."""
    if "scores" in sample.target:
        return sample
    if "label" not in sample.target:
        raise ValueError("the data set has no labels; it can be predicted, but not mixed or trained on")
    label = sample.target["label"]
    if not 0 <= label < num_classes:
        raise ValueError(f"label {label} does not fit MODEL.GLOBAL_HEAD.CLS.NUM_CLASSES {num_classes}")
    scores: Scores = np.zeros(num_classes, np.float32)
    scores[label] = 1.0
    target = {name: value for name, value in sample.target.items() if name != "label"}
    return replace(sample, target={**target, "scores": scores})


class _Mix:
    """What mixup and cutmix share.

    Every sample leaves with ``scores`` instead of ``label``, mixed or not, so that a batch is uniform. A sample is mixed at most
    once: of mixup with PROB 0.5 followed by cutmix with PROB 1.0, each gets half of the samples.
    """

    def __init__(self, num_classes: int, alpha: float, prob: float) -> None:
        if not alpha > 0:
            raise ValueError(f"ALPHA is {alpha}; it must be above 0")
        self.num_classes, self.alpha, self.prob = num_classes, alpha, prob

    def soften(self, sample: Sample) -> Sample:
        return to_scores(sample, self.num_classes)

    def _check(self, sample: Sample, partner: Sample) -> None:
        if sample.image.shape != partner.image.shape:
            (h, w), (other_h, other_w) = sample.image.shape[:2], partner.image.shape[:2]
            raise ValueError(
                f"mixup and cutmix need pictures of one size, but got {h}x{w} and {other_h}x{other_w}; "
                "put 'random_resized_crop', or 'resize' and 'center_crop', before them"
            )


def _mixed_scores(sample: Sample, partner: Sample, share: float) -> dict[str, Scores]:
    scores = share * sample.target["scores"] + (1.0 - share) * partner.target["scores"]
    return {**sample.target, "scores": scores.astype(np.float32)}


@TRANSFORMS.register("mixup")
class Mixup(_Mix):
    """Weighted mean of two pictures and of their labels.

    Args:
        num_classes: length of the scores.
        alpha: the weight is drawn from Beta(alpha, alpha).
        prob: probability for a sample.

    Source: arXiv 1710.09412.
    """

    def __init__(self, num_classes: int, alpha: float = 0.8, prob: float = 0.5) -> None:
        super().__init__(num_classes, alpha, prob)

    def mix(self, sample: Sample, partner: Sample, rng: np.random.Generator) -> Sample:
        """The mean of two softened samples of equal size."""
        self._check(sample, partner)
        share = float(rng.beta(self.alpha, self.alpha))
        image = blend(np.ascontiguousarray(sample.image), np.ascontiguousarray(partner.image), share)
        return replace(sample, image=image, target=_mixed_scores(sample, partner, share))


@TRANSFORMS.register("cutmix")
class Cutmix(_Mix):
    """A rectangle of another picture; the labels are mixed by area.

    Args:
        num_classes: length of the scores.
        alpha: the share of the first picture is drawn from Beta(alpha, alpha); 1 means evenly.
        prob: probability for a sample.

    Source: arXiv 1905.04899, algorithm 1.
    """

    def __init__(self, num_classes: int, alpha: float = 1.0, prob: float = 0.5) -> None:
        super().__init__(num_classes, alpha, prob)

    def mix(self, sample: Sample, partner: Sample, rng: np.random.Generator) -> Sample:
        """``sample`` with a rectangle of ``partner``, both softened and of equal size."""
        self._check(sample, partner)
        height, width = sample.image.shape[:2]
        side = np.sqrt(1.0 - rng.beta(self.alpha, self.alpha))
        y, x = int(rng.integers(height)), int(rng.integers(width))
        half_h, half_w = int(height * side) // 2, int(width * side) // 2
        top, bottom, left, right = max(y - half_h, 0), min(y + half_h, height), max(x - half_w, 0), min(x + half_w, width)
        image = sample.image.copy()
        image[top:bottom, left:right] = partner.image[top:bottom, left:right]
        # The rectangle is cut at the border, so the share comes from what was really covered.
        share = 1.0 - (bottom - top) * (right - left) / (height * width)
        return replace(sample, image=image, target=_mixed_scores(sample, partner, share))
