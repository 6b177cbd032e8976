"""Picture of a confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pet.visualization.canvas import (
    FAINT,
    INK,
    PAPER,
    RULE,
    WRONG,
    Colour,
    Picture,
    blank,
    put_text,
    put_text_upwards,
    shorten,
    text_width,
)

_HIT: Colour = (0, 104, 168)
_MARGIN, _SIZE = 16, 8
_LONGEST_NAME = 150
_MOST_NAMES = 60


def draw_confusion(confusion: NDArray[np.integer[Any]], class_names: Sequence[str], title: str = "", note: str = "") -> Picture:
    """Confusion matrix: rows are the ground truth, columns the predictions.

    The tint of a cell is its share of the row, blue on the diagonal and red elsewhere, so that few mistakes of a rare class show
    as well. Up to 60 classes have their names, up to 30 the counts in the cells.

    Args:
        confusion: (C, C) counts.
        class_names: C names.
        title: first line of the picture.
        note: second line; the share on the diagonal if empty.
    """
    classes = len(class_names)
    if confusion.shape != (classes, classes):
        raise ValueError(f"a confusion matrix of shape {confusion.shape} does not fit {classes} class names")
    named = classes <= _MOST_NAMES
    names = [shorten(name, _LONGEST_NAME, _SIZE) if named else "" for name in class_names]
    room = max(text_width(name, _SIZE) for name in names) + 12 if named else 40
    cell = _cell_size(confusion)
    left, top = _MARGIN + 22 + room, _MARGIN + 56 + room
    side = classes * cell
    picture = blank(top + side + _MARGIN + 8, max(left + side + _MARGIN + 8, 360))
    total, hits = int(confusion.sum()), int(np.trace(confusion))
    share = f"{100 * hits / total:.2f} % of {total} on the diagonal" if total else "no predictions"
    put_text(picture, shorten(title, picture.shape[1] - 2 * _MARGIN, 10), _MARGIN, _MARGIN + 10, 10)
    put_text(picture, note or share, _MARGIN, _MARGIN + 30, _SIZE, FAINT)
    put_text(picture, "prediction", left + side // 2, _MARGIN + 50, _SIZE, FAINT, "centre")
    put_text_upwards(picture, "ground truth", _MARGIN + 10, top + (side + text_width("ground truth", _SIZE)) // 2, _SIZE, FAINT)
    picture[top : top + side, left : left + side] = _tints(confusion).repeat(cell, axis=0).repeat(cell, axis=1)
    _frame(picture, left, top, side, cell)
    if named:
        _write_names(picture, names, left, top, cell)
    else:
        _write_indices(picture, classes, left, top, cell)
    if cell >= 24:
        _write_counts(picture, confusion, left, top, cell)
    return picture


def _cell_size(confusion: NDArray[np.integer[Any]]) -> int:
    """Pixels of a cell: room for the counts while there are few classes, at most about 900 in all."""
    classes = len(confusion)
    if classes <= 30:
        return max(text_width(str(confusion.max()), _SIZE) + 10, 46 if classes <= 12 else 30)
    return max(900 // classes, 1)


def _tints(confusion: NDArray[np.integer[Any]]) -> Picture:
    """(C, C, 3) colours: white to blue on the diagonal, white to red elsewhere, by the share of the row."""
    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    diagonal = np.eye(len(confusion), dtype=np.bool_)
    full = np.where(diagonal[..., None], np.array(_HIT), np.array(WRONG))
    # The root keeps a share of a few percent visible; an empty cell stays white.
    weight = np.sqrt(share)[..., None] * 0.85
    tints: Picture = (np.array(PAPER) * (1 - weight) + full * weight).round().astype(np.uint8)
    return tints


def _frame(picture: Picture, left: int, top: int, side: int, cell: int) -> None:
    step = cell if cell >= 12 else side
    for offset in range(0, side + 1, step):
        picture[top + offset, left : left + side + 1] = RULE
        picture[top : top + side + 1, left + offset] = RULE


def _write_names(picture: Picture, names: Sequence[str], left: int, top: int, cell: int) -> None:
    for number, name in enumerate(names):
        middle = number * cell + cell // 2 + _SIZE // 2
        put_text(picture, name, left - 6, top + middle, _SIZE, INK, "right")
        put_text_upwards(picture, name, left + middle, top - 6, _SIZE)


def _write_indices(picture: Picture, classes: int, left: int, top: int, cell: int) -> None:
    step = next(factor * 10**power for power in range(10) for factor in (1, 2, 5) if classes <= 12 * factor * 10**power)
    for number in range(0, classes, step):
        middle = number * cell + cell // 2
        put_text(picture, str(number), left - 6, top + middle + _SIZE // 2, _SIZE, INK, "right")
        put_text(picture, str(number), left + middle, top - 8, _SIZE, INK, "centre")


def _write_counts(picture: Picture, confusion: NDArray[np.integer[Any]], left: int, top: int, cell: int) -> None:
    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    for row, column in zip(*np.nonzero(confusion), strict=True):
        colour = PAPER if share[row, column] > 0.35 else INK
        x, y = left + column * cell + cell // 2, top + row * cell + cell // 2 + _SIZE // 2
        put_text(picture, str(confusion[row, column]), int(x), int(y), _SIZE, colour, "centre")
