"""Names and options to transforms."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from pet.config.upstream import FORMER_NAMES
from pet.data.transforms.base import TRANSFORMS
from pet.utils.logger import LOGGER
from pet.utils.suggest import did_you_mean

# Names that stand for work done elsewhere: the loader hands over uint8 batches (N, 3, H, W), the model converts and normalises
# them on its device. That halves the time of a sample and quarters what workers send.
MARKERS = ("to_tensor", "normalize")
_AFTER_MARKERS = (*MARKERS, "random_erasing", "mixup", "cutmix")


def build_transforms(names: Sequence[str], options: Mapping[str, Mapping[str, Any]] | None = None) -> list[Any]:
    """Transforms by name, in order.

    ``to_tensor`` and ``normalize`` are accepted where other libraries need them and add nothing here: conversion and
    normalisation belong to the batch on the device. Only random_erasing, mixup and cutmix may follow them. Names of
    ``FORMER_NAMES`` are accepted with a warning.

    Args:
        names: names of the registry ``TRANSFORMS``, or import paths of classes outside Pet.
        options: keyword arguments by name; absent names take the defaults.

    Raises:
        KeyError: unknown name. TypeError: unknown option. ValueError: bad value or order.
    """
    options = options or {}
    marker = ""
    transforms = []
    for former, name in ((name, FORMER_NAMES.get(name, name)) for name in names):
        if former != name:
            LOGGER.warning("transform '%s' is called '%s' here; change it in TRANSFORMS", former, name)
        if marker and name not in _AFTER_MARKERS:
            raise ValueError(
                f"transform '{name}' comes after '{marker}' in TRANSFORMS {tuple(names)}; '{marker}' must follow everything "
                "that changes the picture. "
                f"Only {', '.join(_AFTER_MARKERS[len(MARKERS) :])} may come later"
            )
        if name in MARKERS:
            marker = name
        else:
            transforms.append(_build(name, options.get(name, {})))
    return transforms


def _build(name: str, options: Mapping[str, Any]) -> Any:
    if name not in TRANSFORMS and "." not in name:
        known = [*TRANSFORMS.names(), *MARKERS]
        raise KeyError(f"no transform is named '{name}'.{did_you_mean(name, known)} Known: {', '.join(sorted(known))}")
    builder = TRANSFORMS.find(name)
    known = [p for p in inspect.signature(builder).parameters if p != "self"]
    for option in options:
        if option not in known:
            raise TypeError(
                f"transform '{name}' has no option '{option}'.{did_you_mean(option, known)} Options: {', '.join(known) or 'none'}"
            )
    try:
        return builder(**options)
    except ValueError as error:
        raise ValueError(f"transform '{name}': {error}") from error
