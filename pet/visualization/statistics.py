"""Picture of what a data set holds: how much of each class, and where and how large its objects are."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from pet.visualization.canvas import Picture, flow, shorten, stack
from pet.visualization.palette import palette
from pet.visualization.plots import draw_bars, draw_density, draw_histogram
from pet.visualization.predictions import spread_ids

_MOST_PICTURES, _MOST_MAPS = 20_000, 100  # that are looked at
_SECONDS = 5.0  # for which they are looked at: the other processes of a run wait for it
_WIDTH = 1240
_IGNORED = 255
T = TypeVar("T")


class Labelled(Protocol):
    """What is read of a data set; ``pet.data.datasets`` have it."""

    name: str
    class_names: list[str]

    def __len__(self) -> int: ...

    def labels(self) -> NDArray[Any]:
        """(N,) class of each picture (-1 unknown), or (N, C) flags."""


@dataclass
class ObjectStatistics:
    """Objects that are trained on.

    Attributes:
        pictures: how many were looked at.
        counts: (C,) objects of each class.
        each: (pictures,) objects of each picture.
        boxes: (K, 4) centre x, centre y, width, height, relative to the picture.
        pixels: (K, 2) width and height in pixels of the file.
    """

    pictures: int
    counts: NDArray[np.int64]
    each: NDArray[np.int64]
    boxes: NDArray[np.float64] = field(repr=False)
    pixels: NDArray[np.float64] = field(repr=False)


def object_statistics(dataset: Any, clock: Callable[[], float] = time.monotonic) -> ObjectStatistics:
    """Count and measure the objects of a data set with boxes; see ``_look`` for which of very many pictures.

    Args:
        dataset: has ``annotations(index)`` and ``usable(annotations)``, see ``pet.data.datasets.annotated``.
        clock: seconds.
    """

    def read(index: int) -> tuple[NDArray[Any], NDArray[np.float64], tuple[int, int]]:
        rows = dataset.annotations(index)
        usable = dataset.usable(rows)
        return rows.labels[usable], np.asarray(rows.boxes, np.float64).reshape(-1, 4)[usable], (rows.width, rows.height)

    labels, boxes, sizes = zip(*_look(read, len(dataset), _MOST_PICTURES, clock), strict=True)
    each = np.array([len(one) for one in labels], np.int64)
    corners, size = np.concatenate(boxes), np.repeat(np.array(sizes, np.float64), each, axis=0)
    pixels = corners[:, 2:] - corners[:, :2]
    centres = (corners[:, 2:] + corners[:, :2]) / 2
    counts = np.bincount(np.concatenate(labels).astype(np.int64), minlength=len(dataset.class_names))
    return ObjectStatistics(len(each), counts, each, np.concatenate([centres / size, pixels / size], axis=1), pixels)


def pixel_shares(dataset: Any, classes: int, clock: Callable[[], float] = time.monotonic) -> tuple[NDArray[np.float64], int]:
    """Percent of the judged pixels of each class, (C,), in the semantic maps of up to 100 pictures; and how many these are."""

    def read(index: int) -> NDArray[np.int64]:
        return np.bincount(np.asarray(dataset.semseg(index)).ravel(), minlength=256)

    maps = _look(read, len(dataset), _MOST_MAPS, clock)
    counts = np.sum(maps, axis=0)
    counts[_IGNORED] = 0
    return 100.0 * counts[:classes] / max(int(counts.sum()), 1), len(maps)


def _look(read: Callable[[int], T], total: int, most: int, clock: Callable[[], float]) -> list[T]:
    """What ``read`` returns of ``most`` pictures spread over ``total``, fewer if they take longer than a few seconds.

    The order is shuffled, but always the same, so that also those read until then are of all parts of the set.
    """
    end, found = clock() + _SECONDS, list[T]()
    for index in np.random.default_rng(0).permutation(sorted(spread_ids(total, most))).tolist():
        found.append(read(index))
        if clock() >= end:
            break
    return found


def draw_statistics(dataset: Labelled, title: str = "") -> Picture:
    """What there is to learn from: objects, pixels or pictures of each class, as the data set is trained on.

    Args:
        dataset: sets with annotations say with ``wanted`` which of them are read.
        title: text above; the name of the data set if empty.
    """
    known: Any = dataset
    wanted: Collection[str] = getattr(dataset, "wanted", {"label"})
    total, head = len(dataset), title or dataset.name
    if wanted & {"boxes", "masks", "keypoints"}:
        statistics = object_statistics(known)
        note = "" if statistics.pictures == total else f" ({statistics.pictures:,} of them looked at)"
        parts = [_objects(statistics, dataset.class_names, f"{head}: {total:,} pictures{note}")]
    elif "label" in wanted:
        parts = [flow([_pictures(dataset)], _WIDTH, 12, f"{head}: {total:,} pictures")]
    else:
        parts = []
    if "semseg" in wanted:
        names = list(getattr(dataset, "semseg_names", ())) or dataset.class_names
        shares, looked_at = pixel_shares(known, len(names))
        bars = draw_bars(shares, names, "percent of the pixels, by class", _colours(len(names)))
        parts.append(flow([bars], _WIDTH, 12, f"{head}: semantic maps, {looked_at:,} of {total:,} looked at"))
    return stack(parts or [flow([draw_bars(np.zeros(0, int), [], "nothing to count")], _WIDTH, 12, head)])


def _pictures(dataset: Labelled) -> Picture:
    labels = np.asarray(dataset.labels())
    names = dataset.class_names
    if labels.ndim == 2:
        counts = (labels > 0).sum(axis=0)
    else:
        counts = np.bincount(labels[labels >= 0].astype(np.int64), minlength=len(names))
    return draw_bars(counts.astype(np.int64), _padded(names, len(counts)), "pictures of each class", _colours(len(counts)))


def _objects(statistics: ObjectStatistics, names: Sequence[str], title: str) -> Picture:
    boxes, pixels = statistics.boxes, statistics.pixels
    width, height = np.maximum(pixels, 1e-6).T
    doubling = [(float(2**power), str(2**power)) for power in range(1, 12, 2)]
    aspects = [(1 / 8, "1:8"), (1 / 4, "1:4"), (1 / 2, "1:2"), (1.0, "1:1"), (2.0, "2:1"), (4.0, "4:1"), (8.0, "8:1")]
    most = int(statistics.each.max(initial=0))
    step = max(-(-(most + 1) // 30), 1)
    counted = np.arange(0, most + step + 1, step)
    tiles = [
        draw_density(boxes[:, 0], boxes[:, 1], "centres of the boxes", ("width", "height of the picture"), downwards=True),
        draw_density(boxes[:, 2], boxes[:, 3], "sizes, share of the picture", ("width", "height of the box")),
        draw_histogram(np.sqrt(width * height), 2.0 ** np.arange(1, 11.51, 0.5), doubling, "side: root of the area, pixels"),
        draw_histogram(width / height, 2.0 ** np.arange(-3.25, 3.26, 0.25), aspects, "width : height"),
        draw_histogram(statistics.each, counted - 0.5, [(float(n), str(n)) for n in _few(counted[:-1])], "objects in a picture"),
    ]
    bars = draw_bars(statistics.counts, names, "objects of each class", _colours(len(names)))
    plots = flow(tiles, _WIDTH - bars.shape[1], 12)
    return flow([bars, plots], _WIDTH + 40, 12, f"{shorten(title, 700, 10)}, {len(boxes):,} objects")


def _few(values: NDArray[np.int64], limit: int = 6) -> list[int]:
    return [int(v) for v in values[:: max(-(-len(values) // limit), 1)]]


def _colours(count: int) -> list[tuple[int, int, int]]:
    return [(int(r), int(g), int(b)) for r, g, b in palette("distinct", count)]


def _padded(names: Sequence[str], count: int) -> list[str]:
    """Labels may be larger than the list of names; then their number is their name."""
    return [*names, *map(str, range(len(names), count))]
