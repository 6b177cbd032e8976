"""AutoAugment and RandAugment."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pet.data.structures import Sample
from pet.data.transforms.augment_ops import OPERATIONS
from pet.data.transforms.base import TRANSFORMS

# Each line is one sub-policy: two steps of operation, probability in tenths, and strength 0 to 9 (-: none).
# Source: arXiv 1805.09501, tables 7 (cifar10), 8 (svhn) and 9 (imagenet).
_POLICIES = {
    "imagenet": """
        posterize 4 8   rotate 6 9
        solarize 6 5   auto_contrast 6 -
        equalize 8 -   equalize 6 -
        posterize 6 7   posterize 6 6
        equalize 4 -   solarize 2 4
        equalize 4 -   rotate 8 8
        solarize 6 3   equalize 6 -
        posterize 8 5   equalize 10 -
        rotate 2 3   solarize 6 8
        equalize 6 -   posterize 4 6
        rotate 8 8   color 4 0
        rotate 4 9   equalize 6 -
        equalize 0 -   equalize 8 -
        invert 6 -   equalize 10 -
        color 6 4   contrast 10 8
        rotate 8 8   color 10 2
        color 8 8   solarize 8 7
        sharpness 4 7   invert 6 -
        shear_x 6 5   equalize 10 -
        color 4 0   equalize 6 -
        equalize 4 -   solarize 2 4
        solarize 6 5   auto_contrast 6 -
        invert 6 -   equalize 10 -
        color 6 4   contrast 10 8
        equalize 8 -   equalize 6 -
    """,
    "cifar10": """
        invert 1 -   contrast 2 6
        rotate 7 2   translate_x 3 9
        sharpness 8 1   sharpness 9 3
        shear_y 5 8   translate_y 7 9
        auto_contrast 5 -   equalize 9 -
        shear_y 2 7   posterize 3 7
        color 4 3   brightness 6 7
        sharpness 3 9   brightness 7 9
        equalize 6 -   equalize 5 -
        contrast 6 7   sharpness 6 5
        color 7 7   translate_x 5 8
        equalize 3 -   auto_contrast 4 -
        translate_y 4 3   sharpness 2 6
        brightness 9 6   color 2 8
        solarize 5 2   invert 0 -
        equalize 2 -   auto_contrast 6 -
        equalize 2 -   equalize 6 -
        color 9 9   equalize 6 -
        auto_contrast 8 -   solarize 2 8
        brightness 1 3   color 7 0
        solarize 4 5   auto_contrast 9 -
        translate_y 9 9   translate_y 7 9
        auto_contrast 9 -   solarize 8 3
        equalize 8 -   invert 1 -
        translate_y 7 9   auto_contrast 9 -
    """,
    "svhn": """
        shear_x 9 4   invert 2 -
        shear_y 9 8   invert 7 -
        equalize 6 -   solarize 6 6
        invert 9 -   equalize 6 -
        equalize 6 -   rotate 9 3
        shear_x 9 4   auto_contrast 8 -
        shear_y 9 8   invert 4 -
        shear_y 9 5   solarize 2 6
        invert 9 -   auto_contrast 8 -
        equalize 6 -   rotate 9 3
        shear_x 9 4   solarize 3 3
        shear_y 8 8   invert 7 -
        equalize 9 -   translate_y 6 6
        invert 9 -   equalize 6 -
        contrast 3 3   rotate 8 4
        invert 8 -   translate_y 0 2
        shear_y 7 6   solarize 4 8
        invert 6 -   rotate 8 4
        shear_y 3 7   translate_x 9 3
        shear_x 1 6   invert 6 -
        solarize 7 2   translate_y 6 7
        shear_y 8 4   invert 8 -
        shear_x 7 9   translate_y 8 3
        shear_y 8 5   auto_contrast 7 -
        shear_x 7 2   invert 1 -
    """,
}

Step = tuple[str, float, float]  # operation, probability, level 0 to 1


def parse_policy(text: str) -> list[tuple[Step, Step]]:
    """A table above as data."""
    policy = []
    for line in text.strip().splitlines():
        words = line.split()
        steps = [(words[i], int(words[i + 1]) / 10, 0.0 if words[i + 2] == "-" else int(words[i + 2]) / 9) for i in (0, 3)]
        policy.append((steps[0], steps[1]))
    return policy


POLICIES = {name: parse_policy(text) for name, text in _POLICIES.items()}


def _sign(rng: np.random.Generator) -> float:
    return 1.0 if rng.random() < 0.5 else -1.0


@TRANSFORMS.register("auto_aug")
class AutoAugment:
    """One of the 25 learned sub-policies, drawn for each picture.

    Args:
        policy: "imagenet", "cifar10" or "svhn".

    Source: arXiv 1805.09501.
    """

    def __init__(self, policy: str = "imagenet") -> None:
        if policy not in POLICIES:
            raise ValueError(f"POLICY is '{policy}'; known are {', '.join(POLICIES)}")
        self._policy = POLICIES[policy]

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        image = sample.image
        for operation, probability, level in self._policy[int(rng.integers(len(self._policy)))]:
            if rng.random() < probability:
                image = OPERATIONS[operation](image, level, _sign(rng))
        return replace(sample, image=image)


_RAND_AUGMENT = tuple(name for name in OPERATIONS if name != "invert")


@TRANSFORMS.register("rand_aug")
class RandAugment:
    """Operations drawn at random with one common strength.

    Args:
        num_ops: operations applied one after the other.
        magnitude: strength, 0 to 30; m of a library that counts to 10 is 3 m here.
        magnitude_std: standard deviation of the strength around ``magnitude``; the result is limited to 0 to 30.

    Source: arXiv 1909.13719; the operations are those of its section 3.
    """

    def __init__(self, num_ops: int = 2, magnitude: float = 9, magnitude_std: float = 0.5) -> None:
        if not 0 <= magnitude <= 30:
            raise ValueError(f"MAGNITUDE is {magnitude}; allowed are 0 to 30")
        self.num_ops, self.magnitude, self.std = num_ops, magnitude, magnitude_std

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        image = sample.image
        for which in rng.integers(len(_RAND_AUGMENT), size=self.num_ops):
            level = np.clip(rng.normal(self.magnitude, self.std), 0.0, 30.0) / 30.0
            image = OPERATIONS[_RAND_AUGMENT[which]](image, float(level), _sign(rng))
        return replace(sample, image=image)
