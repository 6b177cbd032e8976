"""Transforms; importing this package registers the built-in ones."""

from pet.data.transforms import auto_augment, color, compose, erase, geometry, jitter, mix
from pet.data.transforms.base import TRANSFORMS, Chain, GroupTransform, PairTransform, Transform
from pet.data.transforms.build import build_transforms

__all__ = [
    "TRANSFORMS",
    "Chain",
    "GroupTransform",
    "PairTransform",
    "Transform",
    "auto_augment",
    "build_transforms",
    "color",
    "compose",
    "erase",
    "geometry",
    "jitter",
    "mix",
]
