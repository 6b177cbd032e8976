"""Names on pictures: how large, and where they hide least."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pet.visualization.canvas import Colour, Picture, fit, put_text, text_width
from pet.visualization.palette import ink_on

Point = tuple[float, float]

MIN_SIDE = 480  # pixels of the longer side below which names have no room
_TEXT_SHARE, _LINE_SHARE = 1 / 58, 1 / 300  # of the side of a square with the area of the picture
_SMALLEST_TEXT = 7
_COVERED = 0.5  # share of a name that others may hide; beyond it is left out, and the colour tells the class
_CROWDED = 0.12  # share of the picture that names may take before they are written smaller


@dataclass(frozen=True)
class Style:
    """Sizes in pixels that suit a picture.

    Attributes:
        line: width of a line.
        text: height of a capital letter.
    """

    line: int
    text: int

    @property
    def weight(self) -> int:
        """Thickness of the strokes of letters."""
        return max(1, round(self.text / 9))

    @property
    def margin(self) -> int:
        """Space around a name."""
        return max(2, round(self.text * 0.4))

    def tag(self, text: str) -> tuple[int, int]:
        """Width and height of a name with its ground."""
        return text_width(text, self.text, self.weight) + 2 * self.margin, self.text + 2 * self.margin


def style_of(picture: Picture) -> Style:
    """Sizes in proportion to the picture, and never too small to read."""
    side = float(np.sqrt(picture.shape[0] * picture.shape[1]))
    return Style(max(1, round(side * _LINE_SHARE)), max(_SMALLEST_TEXT + 1, round(side * _TEXT_SHARE)))


def enlarged(image: Picture, side: int) -> Picture:
    """A copy to draw on; one whose longer side is shorter than ``side`` pixels is enlarged."""
    return image.copy() if max(image.shape[:2]) >= side else fit(image, side)


@dataclass(frozen=True)
class Tag:
    """A name to be written.

    Attributes:
        text: what to write.
        colour: of the ground.
        box: x1, y1, x2, y2 of the object; the name goes to one of its corners.
        inside: write it around the middle of the box instead.
    """

    text: str
    colour: Colour
    box: tuple[float, float, float, float]
    inside: bool = False


def draw_tags(picture: Picture, tags: list[Tag], style: Style) -> list[tuple[int, int, int, int] | None]:
    """Write names where they cover one another and small objects least; the first ones choose first and lie on top.

    Returns:
        Left, top, right and bottom end of each; ``None`` for a name that has no room among those before it and is left out.
    """
    style = _for_many(picture, tags, style)
    boxes = np.array([tag.box for tag in tags if not tag.inside], np.float64).reshape(-1, 4)
    placed, drawn = np.zeros((len(tags), 4)), []
    for number, tag in enumerate(tags):
        place = _best_place(tag, style, picture, placed[:number], boxes)
        covered = _common(place, placed[:number]).sum() / max((place[2] - place[0]) * (place[3] - place[1]), 1.0)
        drawn.append(bool(covered <= _COVERED))
        if drawn[-1]:
            placed[number] = place
    corners: list[tuple[int, int, int, int]] = [(int(x1), int(y1), int(x2), int(y2)) for x1, y1, x2, y2 in placed.tolist()]
    rectangles = [corner if there else None for corner, there in zip(corners, drawn, strict=True)]
    for tag, rectangle in reversed(list(zip(tags, rectangles, strict=True))):
        if rectangle is not None:
            left, top, right, bottom = rectangle
            cv2.rectangle(picture, (left, top), (right - 1, bottom - 1), tag.colour, -1)
            at = (left + style.margin, bottom - style.margin)
            put_text(picture, tag.text, *at, style.text, ink_on(tag.colour), weight=style.weight)
    return rectangles


def _for_many(picture: Picture, tags: list[Tag], style: Style) -> Style:
    """Smaller text, if the names would take too much of the picture."""
    room = _CROWDED * picture.shape[0] * picture.shape[1]
    while style.text > _SMALLEST_TEXT and sum(width * height for width, height in map(style.tag, (t.text for t in tags))) > room:
        style = Style(style.line, style.text - 1)
    return style


def _best_place(
    tag: Tag, style: Style, picture: Picture, placed: NDArray[np.float64], boxes: NDArray[np.float64]
) -> NDArray[np.float64]:
    width, height = style.tag(tag.text)
    best, least = np.zeros(4), np.inf
    for number, (x, y) in enumerate(_places(tag, width, height)):
        left = min(max(x, 0), max(picture.shape[1] - width, 0))
        top = min(max(y, 0), max(picture.shape[0] - height, 0))
        place = np.array([left, top, left + width, top + height])
        away = (abs(left - x) / width + abs(top - y) / height) * 0.1
        cost = 0.01 * number + away + _common(place, placed).sum() / (width * height)
        if len(boxes) and not tag.inside:
            areas = np.maximum((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]), 1.0)
            cost += 0.5 * float((_common(place, boxes) / areas).max())
        if cost < least:
            best, least = place, cost
    return best


def _places(tag: Tag, width: int, height: int) -> Iterator[tuple[int, int]]:
    """Left and top end of the name at the places that are considered, the preferred ones first."""
    x1, y1, x2, y2 = (round(value) for value in tag.box)
    if tag.inside:
        x, y = (x1 + x2 - width) // 2, (y1 + y2 - height) // 2
        yield from ((x, y), (x, y - height), (x, y + height), (x - width // 2, y), (x + width // 2, y))
        return
    yield from ((x1, y1 - height), (x1, y1), (x2 - width, y1 - height), (x1, y2), (x2 - width, y2))
    yield from ((x1, y2 - height), (x2 - width, y1), (x2 - width, y2 - height), (x2, y1), (x1 - width, y1))


def _common(place: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Area that a rectangle shares with each of the others, (K,)."""
    width = np.minimum(place[2], others[:, 2]) - np.maximum(place[0], others[:, 0])
    height = np.minimum(place[3], others[:, 3]) - np.maximum(place[1], others[:, 1])
    area: NDArray[np.float64] = np.maximum(width, 0.0) * np.maximum(height, 0.0)
    return area
