"""Names in YAML to parts of a model.

A part is entered with a decorator in a file of its package (``backbones``, ``necks``, ``heads/cls``, ``heads/det``, ...,
``losses``); the package imports all its files, so a new part is one new file. A part outside Pet is named by its import
path, ``my_pkg.my_heads.CosineHead``.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from torch import nn

from pet.utils.registry import Registry

T = TypeVar("T")

BACKBONES: Registry[Callable[..., nn.Module]] = Registry("backbone", "pet.models.backbones", nn.Module)
NECKS: Registry[Callable[..., nn.Module]] = Registry("neck", "pet.models.necks", nn.Module)
CLS_HEADS: Registry[Callable[..., nn.Module]] = Registry("classification head", "pet.models.heads.cls", nn.Module)
DET_HEADS: Registry[Callable[..., nn.Module]] = Registry("detection head", "pet.models.heads.det", nn.Module)
BOX_HEADS: Registry[Callable[..., nn.Module]] = Registry("box head", "pet.models.heads.roi", nn.Module)
MASK_HEADS: Registry[Callable[..., nn.Module]] = Registry("mask head", "pet.models.heads.roi", nn.Module)
KEYPOINT_HEADS: Registry[Callable[..., nn.Module]] = Registry("keypoint head", "pet.models.heads.roi", nn.Module)
SEMSEG_HEADS: Registry[Callable[..., nn.Module]] = Registry("semantic head", "pet.models.heads.semseg", nn.Module)
PANOPTIC_HEADS: Registry[Callable[..., nn.Module]] = Registry("panoptic head", "pet.models.heads.panoptic", nn.Module)
CLS_LOSSES: Registry[Callable[..., nn.Module]] = Registry("classification loss", "pet.models.losses", nn.Module)


def construct(part: Callable[..., T], what: str, options: dict[str, Any], *args: Any, **kwargs: Any) -> T:
    """Call ``part(*args, **kwargs, **options)``; options that it does not take are an error that says so.

    Args:
        what: where the options come from, e.g. ``"MODEL.NECK_OPTIONS"``.
    """
    try:
        return part(*args, **kwargs, **options)
    except TypeError as error:
        raise TypeError(f"{what} {options} do not fit: {error}") from error


def import_files(package: str, path: Iterable[str]) -> None:
    """Import every file of a package, so that its parts get registered."""
    for found in pkgutil.iter_modules(path):
        importlib.import_module(f"{package}.{found.name}")
