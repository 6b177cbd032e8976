"""Bars, histograms and heat maps of plain numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pet.visualization.canvas import FAINT, INK, NEUTRAL, PAPER, RULE, Colour, Picture, blank, put_text, shorten, text_width

_SIZE, _HEAD, _EDGE = 8, 34, 16
_ROW, _BAR_ROOM, _LONGEST_NAME = 18, 260, 150
_MOST_BARS = 40


def draw_bars(values: NDArray[np.number], names: Sequence[str], title: str, colours: Sequence[Colour] = ()) -> Picture:
    """One horizontal bar for each name with its number behind it; of more than 40 the 20 largest and the 20 smallest.

    Args:
        values: (C,) at least 0; whole numbers are written as they are, others with two decimals.
        names: C names.
        title: text above the bars.
        colours: of each bar; one colour for all if empty.
    """
    order, gap = _chosen(values)
    texts = [f"{values[c]:,}" if np.issubdtype(values.dtype, np.integer) else f"{values[c]:.2f}" for c in order]
    labels = [shorten(names[c], _LONGEST_NAME, _SIZE) for c in order]
    left = _EDGE + max((text_width(label, _SIZE) for label in labels), default=0) + 8
    right = max((text_width(text, _SIZE) for text in texts), default=0) + 8 + _EDGE
    rows = len(order) + bool(gap)
    picture = blank(_HEAD + rows * _ROW + _EDGE, max(left + _BAR_ROOM + right, text_width(title, 9) + 2 * _EDGE))
    put_text(picture, title, _EDGE, 22, 9)
    longest = max(float(values.max(initial=0)), 1e-12)
    for place, (c, label, text) in enumerate(zip(order, labels, texts, strict=True)):
        middle = _HEAD + (place + bool(gap and place >= gap)) * _ROW + _ROW // 2
        length = round(float(values[c]) / longest * _BAR_ROOM)
        picture[middle - 6 : middle + 6, left : left + max(length, int(values[c] > 0))] = colours[c] if colours else NEUTRAL
        put_text(picture, label, left - 6, middle + _SIZE // 2, _SIZE, INK, "right")
        put_text(picture, text, left + length + 6, middle + _SIZE // 2, _SIZE, FAINT)
    if gap:
        middle = _HEAD + gap * _ROW + _ROW // 2
        put_text(picture, f"... {len(values) - len(order)} more ...", left, middle + _SIZE // 2, _SIZE, FAINT)
    return picture


def _chosen(values: NDArray[np.number]) -> tuple[list[int], int]:
    """Which bars to draw, and before which of them others are left out (0: none are)."""
    if len(values) <= _MOST_BARS:
        return list(range(len(values))), 0
    order = np.argsort(-values, kind="stable").tolist()
    half = _MOST_BARS // 2
    return order[:half] + order[-half:], half


def draw_histogram(
    values: NDArray[np.number], edges: NDArray[np.number], labels: Sequence[tuple[float, str]], title: str, width: int = 262
) -> Picture:
    """How many values lie in each interval; values beyond the ends are in the first and the last one.

    Args:
        values: any number of them.
        edges: (B + 1,) ascending ends of the intervals, drawn equally wide.
        labels: value and text of ticks on the horizontal axis.
        title: text above.
        width: of the picture in pixels.
    """
    height, bottom = 230, 30
    picture = blank(height, width)
    put_text(picture, shorten(title, width - 2 * _EDGE, 9), _EDGE, 22, 9)
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    room, floor = width - 2 * _EDGE, height - bottom
    most = max(int(counts.max(initial=0)), 1)
    for number, count in enumerate(counts.tolist()):
        x1, x2 = (_EDGE + room * place // len(counts) for place in (number, number + 1))
        top = floor - round(count / most * (floor - _HEAD - 12))
        picture[top:floor, x1 : max(x2 - 1, x1 + 1)] = NEUTRAL
    picture[floor, _EDGE : width - _EDGE] = FAINT
    put_text(picture, f"most: {most:,}", width - _EDGE, _HEAD + 8, _SIZE, FAINT, "right")
    places = np.interp([value for value, _ in labels], edges, np.arange(len(edges))) / len(counts)
    for (_, text), place in zip(labels, places.tolist(), strict=True):
        x = _EDGE + round(room * place)
        picture[floor : floor + 5, min(x, width - _EDGE - 1)] = FAINT
        half = text_width(text, _SIZE) // 2
        put_text(picture, text, min(max(x, half + 2), width - half - 2), floor + 18, _SIZE, FAINT, "centre")
    return picture


def draw_density(
    x: NDArray[np.floating], y: NDArray[np.floating], title: str, ends: tuple[str, str], downwards: bool = False, side: int = 230
) -> Picture:
    """Where points in the unit square lie: the darker, the more.

    Args:
        x, y: (K,) 0 to 1.
        title: text above.
        ends: what is 1 at the right end, and at the end of the vertical axis.
        downwards: y grows downwards, as in a picture.
        side: of the square in pixels.
    """
    cells = 46
    counts = np.histogram2d(y, x, bins=cells, range=((0.0, 1.0), (0.0, 1.0)))[0]
    # The root keeps a single point visible beside a crowd.
    weight = np.sqrt(counts / max(float(counts.max(initial=0)), 1.0))[..., None]
    light, dark = np.array(PAPER, float), np.array((8, 48, 107), float)
    tints = (light * (1 - weight) + dark * weight).round().astype(np.uint8)
    tints = tints if downwards else tints[::-1]
    scaled = tints.repeat(side // cells, axis=0).repeat(side // cells, axis=1)
    drawn = scaled.shape[0]
    picture = blank(_HEAD + drawn + 34, drawn + 2 * _EDGE)
    put_text(picture, shorten(title, drawn, 9), _EDGE, 22, 9)
    picture[_HEAD - 1 : _HEAD + drawn + 1, _EDGE - 1 : _EDGE + drawn + 1] = RULE
    picture[_HEAD : _HEAD + drawn, _EDGE : _EDGE + drawn] = scaled
    put_text(picture, f"across: {ends[0]}; {'down' if downwards else 'up'}: {ends[1]}", _EDGE, _HEAD + drawn + 18, _SIZE, FAINT)
    return picture
