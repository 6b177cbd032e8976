"""Paper, ink and text for all pictures: OpenCV and NumPy only. Pictures are (H, W, 3) uint8 RGB arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
Colour = tuple[int, int, int]

PAPER: Colour = (255, 255, 255)
INK: Colour = (36, 41, 47)
FAINT: Colour = (106, 115, 125)
RULE: Colour = (224, 228, 232)
RIGHT: Colour = (26, 127, 55)
WRONG: Colour = (207, 34, 46)
NEUTRAL: Colour = (60, 110, 180)
# Distinct for colour-blind readers as well; after Okabe and Ito, darkened for lines on white.
SERIES: tuple[Colour, ...] = (
    (0, 104, 168),
    (204, 95, 0),
    (0, 138, 103),
    (178, 60, 120),
    (86, 160, 210),
    (150, 120, 0),
    (100, 80, 170),
    (90, 90, 90),
)

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_CAP_HEIGHT = 21.0  # pixels of a capital letter at scale 1


def blank(height: int, width: int, colour: Colour = PAPER) -> Picture:
    """An empty picture."""
    return np.full((height, width, 3), colour, dtype=np.uint8)


def text_width(text: str, size: int, weight: int = 1) -> int:
    """Pixels that ``text`` takes in a line whose capital letters are ``size`` pixels high, written ``weight`` pixels thick."""
    return int(cv2.getTextSize(text, _FONT, size / _CAP_HEIGHT, weight)[0][0])


def shorten(text: str, width: int, size: int) -> str:
    """``text``, or as much of its beginning as fits ``width`` pixels with two dots behind it."""
    if text_width(text, size) <= width:
        return text
    while text and text_width(text + "..", size) > width:
        text = text[:-1]
    return text + ".."


def put_text(
    picture: Picture, text: str, x: int, y: int, size: int, colour: Colour = INK, anchor: str = "left", weight: int = 1
) -> None:
    """Write one line of text.

    Args:
        picture: changed in place.
        text: what to write.
        x: left end, middle or right end of the line, as ``anchor`` says.
        y: base line.
        size: height of a capital letter in pixels; 7 is the smallest that reads well.
        colour: RGB.
        anchor: ``left``, ``centre`` or ``right``.
        weight: thickness of the strokes in pixels.
    """
    if anchor != "left":
        x -= text_width(text, size, weight) // (2 if anchor == "centre" else 1)
    cv2.putText(picture, text, (x, y), _FONT, size / _CAP_HEIGHT, colour, weight, cv2.LINE_AA)


def put_text_upwards(picture: Picture, text: str, x: int, y: int, size: int, colour: Colour = INK) -> None:
    """Write one line of text turned by 90 degrees: it starts at ``y`` and rises, its base line is at ``x``."""
    line = blank(2 * size, text_width(text, size) + 2)
    put_text(line, text, 0, int(1.5 * size), size, colour)
    turned = np.rot90(line)
    top, left = max(y - turned.shape[0], 0), x - int(1.5 * size)
    part = picture[top:y, left : left + turned.shape[1]]
    np.minimum(part, turned[turned.shape[0] - part.shape[0] :, : part.shape[1]], out=part)


def fit(image: Picture, side: int) -> Picture:
    """The image scaled so that its longer side is ``side`` pixels.

    Small ones grow by a whole factor, pixel by pixel, which may leave them up to a fifth smaller than ``side``.
    """
    height, width = image.shape[:2]
    longer = max(height, width)
    factor = side // longer
    if factor * longer >= 0.8 * side:
        return image.repeat(factor, axis=0).repeat(factor, axis=1)
    size = max(round(width * side / longer), 1), max(round(height * side / longer), 1)
    return cast(Picture, cv2.resize(image, size, interpolation=cv2.INTER_AREA if longer > side else cv2.INTER_CUBIC))


def tile_grid(tiles: Sequence[Picture], columns: int, gap: int, title: str = "") -> Picture:
    """Lay tiles of one size out in rows, with a title above."""
    height, width = tiles[0].shape[:2]
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    head = 34 if title else 0
    picture = blank(head + gap + rows * (height + gap), gap + columns * (width + gap))
    put_text(picture, shorten(title, picture.shape[1] - 2 * gap, 10), gap, 25, 10)
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        top, left = head + gap + row * (height + gap), gap + column * (width + gap)
        picture[top : top + height, left : left + width] = tile
    return picture


def flow(tiles: Sequence[Picture], width: int, gap: int, title: str = "") -> Picture:
    """Lay tiles of any sizes out in rows of at most ``width`` pixels (a wider tile has a row of its own), a title above."""
    rows: list[list[Picture]] = []
    room = 0
    for tile in tiles:
        room -= tile.shape[1] + gap
        if room < 0 or not rows:
            rows.append([])
            room = width - gap - (tile.shape[1] + gap)
        rows[-1].append(tile)
    head = 34 if title else 0
    height = head + gap + sum(max(t.shape[0] for t in row) + gap for row in rows)
    widest = max(gap + sum(t.shape[1] + gap for t in row) for row in rows)
    picture = blank(height, widest)
    put_text(picture, shorten(title, widest - 2 * gap, 10), gap, 25, 10)
    top = head + gap
    for row in rows:
        left = gap
        for tile in row:
            picture[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
            left += tile.shape[1] + gap
        top += max(t.shape[0] for t in row) + gap
    return picture


def stack(parts: Sequence[Picture]) -> Picture:
    """Pictures below one another on paper, as wide as the widest."""
    width = max(part.shape[1] for part in parts)
    picture = blank(sum(part.shape[0] for part in parts), width)
    top = 0
    for part in parts:
        picture[top : top + part.shape[0], : part.shape[1]] = part
        top += part.shape[0]
    return picture
