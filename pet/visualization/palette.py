"""Colours of classes: the same class has the same colour in every picture."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pet.utils.suggest import did_you_mean
from pet.visualization.canvas import Colour

Palette = NDArray[np.uint8]

# After Okabe and Ito: distinct for readers with any kind of colour vision. All others are chosen to differ from these.
_FIRST: tuple[Colour, ...] = (
    (86, 180, 233),
    (230, 159, 0),
    (0, 158, 115),
    (204, 121, 167),
    (240, 228, 66),
    (213, 94, 0),
    (0, 114, 178),
)
_DISTINCT = 256  # colours that are computed; then they repeat
_LIGHTNESS, _MIN_CHROMA = (38.0, 90.0), 28.0  # visible on dark and on light photographs, and not grey

# Red-green blindness as a change of linear RGB: Machado, Oliveira and Fernandes, 2009, severity 1.
_DEUTERANOPIA = ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881))
_PROTANOPIA = ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998))
_XYZ = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))
_WHITE = (0.95047, 1.0, 1.08883)

# The colours that COCO's panoptic category file gives: 80 things, then 53 kinds of stuff, in the order of their ids.
_COCO = (
    "dc143c770b2000008e0000e66a00e4003c640050640000460000c0faaa1e64aa1edcdc00af74affa001ea52a2aff4dff00e2fcb6b6ff"
    "00520078a69d6e4c00ae39ffc76400480076ffb3f0007d5cd10097bcd0b600dcb0ff63a45c00498581ff4eb4ff00e400aefff32d59ff"
    "8686679194aeffd0bac5e2ffab86016d3f36cf8aff97005f09503d5469334a4169a6c466d0c3d2ff6d41008f95b300c2d1636a057900"
    "e3ffcd93bad0994501035fa1a3ff007700aa00b6c700a578b782585f20008272876e8185a64a76db8eb94fd272b25a3e41460f7fa773"
    "3b696a8e6c2dc4ac005f3650804cffc93901f6007abfa2d0ffff8093d3cb966464a8abac9270c6d2aa645c8859da58b8f18100d911ff"
    "7c4ab5464646ffe4ff9ad000c1005c4c5b71ffb4c36a9ab0e6968c3c8fff8040805c5237fed47c494daeffa062ffffff68546da9a483"
    "e1c7ff89364a879edf07f6e76bffc83a2995b7798eff49616b8e23be9999928b8d4682b486c79cd1e28c60246c60606040aa4098fb98"
    "d0e5e4cebaab98a14074700000728f66669cfa8dff"
)
# Of the 19 classes that Cityscapes evaluates, road to bicycle.
_CITYSCAPES = "804080f423e846464666669cbe9999999999faaa1edcdc006b8e2398fb984682b4dc143cff000000008e000046003c640050640000e6770b20"


def linear_rgb(colours: NDArray[np.floating]) -> NDArray[np.float64]:
    """Linear light of 0 to 1 from sRGB of 0 to 255, (..., 3)."""
    values = np.asarray(colours, np.float64) / 255.0
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def as_lab(linear: NDArray[np.float64]) -> NDArray[np.float64]:
    """Linear RGB, (N, 3), as CIE L*a*b* under daylight, where distances are about those that are seen."""
    xyz = np.clip(linear, 0.0, 1.0) @ np.array(_XYZ).T / np.array(_WHITE)
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)


def seen_by_all(colours: NDArray[np.floating]) -> NDArray[np.float64]:
    """L*a*b* of colours (N, 3) as normal, deuteranope and protanope readers see them, (3, N, 3)."""
    linear = linear_rgb(colours)
    return np.stack([as_lab(linear), as_lab(linear @ np.array(_DEUTERANOPIA).T), as_lab(linear @ np.array(_PROTANOPIA).T)])


@lru_cache(maxsize=1)
def _distinct() -> Palette:
    """Each colour is the one farthest from all before it, for the reader who tells them apart the least.

    The first n colours do not depend on how many follow, so a class keeps its colour when others are added.
    """
    levels = np.linspace(0, 255, 14)
    candidates = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3).round()
    lab = as_lab(linear_rgb(candidates))
    fine = (lab[:, 0] >= _LIGHTNESS[0]) & (lab[:, 0] <= _LIGHTNESS[1]) & (np.hypot(lab[:, 1], lab[:, 2]) >= _MIN_CHROMA)
    candidates = candidates[fine]
    seen = seen_by_all(candidates)
    chosen = [np.array(colour, np.float64) for colour in _FIRST]
    nearest = np.full(len(candidates), np.inf)
    for number in range(_DISTINCT):
        distance = np.linalg.norm(seen - seen_by_all(chosen[number][None]), axis=2).min(axis=0)
        nearest = np.minimum(nearest, distance)
        if len(chosen) <= number + 1:
            chosen.append(candidates[int(nearest.argmax())])
    return np.array(chosen[:_DISTINCT], np.uint8)


def _voc() -> Palette:
    """Colours of the Pascal VOC label images: the bits of the index, spread over the channels, the highest first."""
    index = np.arange(256)
    colours = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= (((index >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
    return colours


def _random() -> Palette:
    """Arbitrary, but always the same ones."""
    return np.random.default_rng(0).integers(32, 256, (_DISTINCT, 3)).astype(np.uint8)


def _from_hex(text: str) -> Palette:
    return np.frombuffer(bytes.fromhex(text), np.uint8).reshape(-1, 3)


PALETTES: dict[str, Callable[[], Palette]] = {
    "distinct": _distinct,
    "coco": lambda: _from_hex(_COCO),
    "voc": _voc,
    "cityscapes": lambda: _from_hex(_CITYSCAPES),
    "citys": lambda: _from_hex(_CITYSCAPES),  # as OpenMMLab's demos call it
    "random": _random,
}


def palette(name: str, count: int) -> Palette:
    """The colours of ``count`` classes, (count, 3) uint8 RGB; a palette that is too short starts again.

    Args:
        name: ``distinct`` (for all readers, also colour-blind ones), ``coco``, ``voc``, ``cityscapes`` or ``random``.
        count: number of classes.
    """
    if name not in PALETTES:
        raise ValueError(f"there is no palette '{name}'.{did_you_mean(name, PALETTES)} There are: {', '.join(PALETTES)}")
    colours = PALETTES[name]()
    return colours[np.arange(count) % len(colours)]


def ink_on(colour: Colour) -> Colour:
    """Black or white, whichever is easier to read on a colour."""
    luminance = float(linear_rgb(np.array(colour)) @ np.array(_XYZ[1]))
    # The contrast ratios of WCAG with black and with white are equal there.
    return (0, 0, 0) if luminance > 0.179 else (255, 255, 255)


def variant(colour: Colour, number: int) -> Colour:
    """The colour of instance ``number`` of a class: lighter and darker shades in turn, the first one the colour itself."""
    shift = (0.0, 0.35, -0.30, 0.18, -0.16, 0.5, -0.42)[number % 7]
    target, share = (255.0, shift) if shift > 0 else (0.0, -shift)
    red, green, blue = (round(value + (target - value) * share) for value in colour)
    return red, green, blue
