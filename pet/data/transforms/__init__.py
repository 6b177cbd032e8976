"""Transforms; importing this package registers the built-in ones."""

from pet.data.transforms import auto_augment, color, erase, geometry, mix
from pet.data.transforms.base import TRANSFORMS, Chain, PairTransform, Transform
from pet.data.transforms.build import build_transforms

__all__ = [
    "TRANSFORMS",
    "Chain",
    "PairTransform",
    "Transform",
    "auto_augment",
    "build_transforms",
    "color",
    "erase",
    "geometry",
    "mix",
]
