"""Pictures of semantic and panoptic maps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from pet.visualization.canvas import INK, Colour, Picture, blank, put_text, shorten, stack
from pet.visualization.instances import outline, tint
from pet.visualization.labels import MIN_SIDE, Tag, draw_tags, enlarged, style_of
from pet.visualization.palette import palette, variant

IGNORED = 255
_OPACITY = 0.6
_EDGE: Colour = (255, 255, 255)
_SMALLEST_NAMED = 0.003  # share of the picture that a segment needs to be named
_MOST_IN_LEGEND = 60


def draw_semantic(
    image: Picture,
    classes: NDArray[Any],
    class_names: Sequence[str],
    *,
    colours: str = "distinct",
    legend: bool = True,
    min_side: int = MIN_SIDE,
) -> Picture:
    """The image under the colours of its classes. Small images are enlarged.

    Args:
        image: (H, W, 3) uint8 RGB.
        classes: (H, W) class indices; pixels of 255 stay as they are.
        class_names: C names.
        colours: name of a palette.
        legend: whether the classes are listed below, the largest first, with their share of the judged pixels.
        min_side: images with a shorter longer side are enlarged to about that many pixels.
    """
    _check_size(image, classes, "classes")
    picture = enlarged(image, min_side)
    classes = resize_map(classes, picture.shape[:2])
    table = np.zeros((IGNORED + 1, 3), np.uint8)
    table[: len(class_names)] = palette(colours, len(class_names))[:IGNORED]
    judged = classes != IGNORED
    mixed = picture * (1 - _OPACITY) + table[np.where(judged, classes, 0)] * _OPACITY
    picture[judged] = mixed.round().astype(np.uint8)[judged]
    _draw_edges(picture, classes)
    if not legend:
        return picture
    counts = np.bincount(classes[judged].ravel().astype(np.int64), minlength=len(class_names))
    present = [c for c in np.argsort(-counts, kind="stable").tolist() if counts[c]]
    texts = [f"{class_names[c]} {counts[c] / counts.sum():.1%}" for c in present]
    size = style_of(picture).text
    return stack([picture, draw_legend(texts, [colour_of(table, c) for c in present], picture.shape[1], size)])


def draw_panoptic(
    image: Picture,
    ids: NDArray[Any],
    segments: Sequence[Mapping[str, Any]],
    class_names: Sequence[str],
    is_thing: Sequence[bool],
    *,
    colours: str = "distinct",
    names: bool = True,
    min_side: int = MIN_SIDE,
) -> Picture:
    """The image under the colours of its segments: stuff in the colour of its class, things in shades of theirs.

    Args:
        image: (H, W, 3) uint8 RGB; small ones are enlarged.
        ids: (H, W) id of the segment of each pixel, 0 where there is none.
        segments: ``id``, ``label`` (class index), and optionally ``score`` and ``crowd`` of each.
        class_names: C names.
        is_thing: whether each class is one of things.
        colours: name of a palette.
        names: whether segments are named.
        min_side: as for ``draw_semantic``.
    """
    _check_size(image, ids, "ids")
    picture = enlarged(image, min_side)
    ids = resize_map(ids, picture.shape[:2])
    table, style = palette(colours, len(class_names)), style_of(picture)
    used: Counter[int] = Counter()
    tags = []
    for segment in segments:
        mask = ids == segment["id"]
        label = int(segment["label"])
        colour = colour_of(table, label)
        if is_thing[label]:
            colour = variant(colour, used[label])
            used[label] += 1
        tint(picture, mask, colour, _OPACITY)
        if names and mask.sum() >= _SMALLEST_NAMED * mask.size:
            x, y = _middle(mask)
            note = " crowd" if segment.get("crowd") else ""
            tags.append((int(mask.sum()), Tag(class_names[label] + note, colour, (x, y, x, y), inside=True)))
    _draw_edges(picture, ids)
    for segment in segments:
        if is_thing[int(segment["label"])]:
            outline(picture, ids == segment["id"], _EDGE, max(1, style.line // 2))
    draw_tags(picture, [tag for _, tag in sorted(tags, key=lambda item: -item[0])], style)
    return picture


def draw_legend(texts: Sequence[str], colours: Sequence[Colour], width: int, size: int) -> Picture:
    """Colours with their names in columns, on paper.

    Args:
        texts: one for each colour.
        colours: RGB.
        width: of the picture in pixels.
        size: height of a capital letter in pixels.
    """
    swatch, gap = 2 * size, size
    column = min(max(20 * size, 160), width)
    columns = max(width // column, 1)
    shown = min(len(texts), _MOST_IN_LEGEND)
    entries = list(zip(texts, colours, strict=True))[:shown]
    if shown < len(texts):
        entries[-1] = (f"and {len(texts) - shown + 1} more", (255, 255, 255))
    rows = -(-len(entries) // columns)
    picture = blank(gap + rows * (swatch + gap), width)
    weight = max(1, round(size / 9))
    for number, (text, colour) in enumerate(entries):
        row, place = divmod(number, columns)
        top, left = gap + row * (swatch + gap), place * (width // columns)
        picture[top : top + swatch, left : left + swatch] = colour
        room = width // columns - swatch - 2 * gap
        put_text(
            picture, shorten(text, room, size), left + swatch + gap // 2, top + (swatch + size) // 2, size, INK, weight=weight
        )
    return picture


def resize_map(values: NDArray[Any], size: tuple[int, ...]) -> NDArray[Any]:
    """A map (H, W) of classes or ids at another size (height, width): each pixel takes the nearest value."""
    if values.shape == tuple(size):
        return values
    rows = (np.arange(size[0]) + 0.5) * values.shape[0] / size[0]
    columns = (np.arange(size[1]) + 0.5) * values.shape[1] / size[1]
    resized: NDArray[Any] = values[rows.astype(np.int64)[:, None], columns.astype(np.int64)[None]]
    return resized


def colour_of(table: NDArray[np.uint8], label: int) -> Colour:
    """A row of a palette as a colour."""
    red, green, blue = (int(value) for value in table[label])
    return red, green, blue


def _draw_edges(picture: Picture, values: NDArray[Any]) -> None:
    """A fine line where neighbouring pixels belong to different segments."""
    line = max(1, style_of(picture).line // 2)
    edge = np.zeros(values.shape, np.uint8)
    edge[:, 1:] |= values[:, 1:] != values[:, :-1]
    edge[1:] |= values[1:] != values[:-1]
    if line > 1:
        edge = cast("NDArray[np.uint8]", cv2.dilate(edge, np.ones((line, line), np.uint8)))
    picture[edge > 0] = (picture[edge > 0] * 0.35 + np.array(_EDGE) * 0.65).astype(np.uint8)


def _middle(mask: NDArray[Any]) -> tuple[float, float]:
    """The pixel that is farthest from the border of a segment, x and y."""
    framed = np.pad(mask.astype(np.uint8), 1)
    distance = cv2.distanceTransform(framed, cv2.DIST_L2, 3)
    y, x = np.unravel_index(int(distance.argmax()), distance.shape)
    return float(x - 1), float(y - 1)


def _check_size(image: Picture, values: NDArray[Any], what: str) -> None:
    if values.shape != image.shape[:2]:
        raise ValueError(f"the image has {image.shape[:2]} pixels and {what} {values.shape}; they must be the same")
