"""Annotations in few arrays, so that worker processes share one copy of them.

Python objects would be copied page by page into every worker, because looking at one writes its reference count.
"""

from __future__ import annotations

import marshal
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pet.data.datasets.annotation_faults import AnnotationFaults, check_boxes

NO_OFFSET = (0.0, 0.0, 0.0, 0.0)


class PackedRecords:
    """A list of plain values (numbers, text, bytes, lists, tuples, dictionaries) in two arrays."""

    def __init__(self, records: Iterable[Any]) -> None:
        encoded = [marshal.dumps(record) for record in records]
        self._ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
        self._bytes = np.frombuffer(b"".join(encoded), np.uint8)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is outside 0 to {len(self) - 1}")
        return marshal.loads(self._bytes[self._ends[index] : self._ends[index + 1]].data)

    def select(self, rows: npt.NDArray[np.int64]) -> PackedRecords:
        """The records at ``rows``, in that order."""
        result = PackedRecords(())
        pieces = [self._bytes[self._ends[row] : self._ends[row + 1]] for row in rows.tolist()]
        result._ends = np.cumsum([0, *map(len, pieces)], dtype=np.int64)
        result._bytes = np.concatenate(pieces) if pieces else np.zeros(0, np.uint8)
        return result


@dataclass(slots=True)
class InstanceTable:
    """The M instances of N pictures; those of picture i are the rows ``ends[i]`` to ``ends[i + 1]``.

    Attributes:
        ends: (N + 1,) int64.
        boxes: (M, 4) float32 xyxy as in the file, not clipped.
        labels, ids: (M,) int64. refs: (M,) int64, number of the instance in another file.
        crowd, difficult: (M,) bool.
        areas: (M,) float64, square pixels; NaN where the file does not say.
        shapes: for each instance ``None``, polygons as float32 bytes, or compressed run lengths.
        keypoints: (M, P, 3) float32.
    """

    ends: npt.NDArray[np.int64]
    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    ids: npt.NDArray[np.int64]
    refs: npt.NDArray[np.int64]
    crowd: npt.NDArray[np.bool_]
    difficult: npt.NDArray[np.bool_]
    areas: npt.NDArray[np.float64]
    shapes: PackedRecords | None
    keypoints: npt.NDArray[np.float32] | None

    def rows(self, index: int) -> slice:
        """Where the instances of picture ``index`` are."""
        return slice(int(self.ends[index]), int(self.ends[index + 1]))

    def owners(self) -> npt.NDArray[np.int64]:
        """The picture of each instance: (M,)."""
        return np.repeat(np.arange(len(self.ends) - 1), np.diff(self.ends))

    def take(self, rows: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]) -> InstanceTable:
        """The instances at ``rows``, with the ends of their pictures."""
        return InstanceTable(
            ends,
            self.boxes[rows],
            self.labels[rows],
            self.ids[rows],
            self.refs[rows],
            self.crowd[rows],
            self.difficult[rows],
            self.areas[rows],
            None if self.shapes is None else self.shapes.select(rows),
            None if self.keypoints is None else self.keypoints[rows],
        )

    def select(self, pictures: npt.NDArray[np.int64]) -> InstanceTable:
        """The table of these pictures, in that order."""
        counts = np.diff(self.ends)[pictures]
        ends = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        rows = np.arange(ends[-1]) - np.repeat(ends[:-1] - self.ends[pictures], counts)
        return self.take(rows.astype(np.int64), ends)


@dataclass
class InstanceCollector:
    """Instances while a file is read; see ``InstanceTable`` for the columns."""

    num_keypoints: int = 0
    with_shapes: bool = False
    images: list[int] = field(default_factory=list)
    corners: list[Sequence[float]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    refs: list[int] = field(default_factory=list)
    flags: list[tuple[bool, bool]] = field(default_factory=list)
    areas: list[float] = field(default_factory=list)
    shapes: list[Any] = field(default_factory=list)
    keypoints: list[Sequence[float]] = field(default_factory=list)

    def add(
        self,
        image: int,
        corners: Sequence[float],
        label: int,
        number: int,
        *,
        crowd: bool = False,
        difficult: bool = False,
        area: float = float("nan"),
        shape: list[bytes] | bytes | None = None,
        keypoints: Sequence[float] = (),
        ref: int = 0,
    ) -> None:
        """Enter one instance of picture ``image``; ``corners`` are x1, y1, x2, y2 as in the file."""
        self.images.append(image)
        self.corners.append(corners)
        self.labels.append(label)
        self.ids.append(number)
        self.refs.append(ref)
        self.flags.append((crowd, difficult))
        self.areas.append(area)
        if self.with_shapes:
            self.shapes.append(shape)
        if self.num_keypoints:
            self.keypoints.append(keypoints or [0.0] * (3 * self.num_keypoints))

    def table(
        self,
        sizes: npt.NDArray[np.int64],
        faults: AnnotationFaults,
        place: Callable[[int], str],
        offset: Sequence[float] = NO_OFFSET,
    ) -> InstanceTable:
        """The table of all pictures, without the boxes that are faulty.

        Args:
            sizes: (N, 2) height and width of the pictures.
            faults: counts them.
            place: says where instance i is, in the order of ``add``.
            offset: see ``check_boxes``.
        """
        images = np.array(self.images, np.int64)
        corners = np.array(self.corners, np.float64).reshape(-1, 4)
        boxes, good = check_boxes(corners, sizes[images], offset, faults, place)
        flags = np.array(self.flags, np.bool_).reshape(-1, 2)
        everything = InstanceTable(
            np.zeros(1, np.int64),
            boxes,
            np.array(self.labels, np.int64),
            np.array(self.ids, np.int64),
            np.array(self.refs, np.int64),
            flags[:, 0],
            flags[:, 1],
            np.array(self.areas, np.float64),
            PackedRecords(self.shapes) if self.with_shapes else None,
            np.array(self.keypoints, np.float32).reshape(-1, self.num_keypoints, 3) if self.num_keypoints else None,
        )
        rows = np.flatnonzero(good)
        rows = rows[np.argsort(images[rows], kind="stable")]
        counts = np.bincount(images[rows], minlength=len(sizes))
        return everything.take(rows, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))
