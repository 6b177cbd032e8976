"""What can be wrong with annotations, counted under stable names."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

# Name of a fault: what it means and what becomes of it.
FAULTS = {
    "zero_size_box": "a box without width or height; left out",
    "negative_size_box": "a box that ends before it starts; left out",
    "nan_box": "a box with NaN or infinity; left out",
    "box_outside_image": "a box that does not touch its picture; left out",
    "box_partly_outside": "a box that reaches more than half a pixel beyond its picture; cut at the border for training",
    "unknown_category": "a category that is not declared; left out",
    "duplicate_annotation_id": "an annotation with the id of an earlier one; left out",
    "duplicate_image_id": "a picture with the id of an earlier one; left out",
    "unknown_image": "an annotation of a picture that is not listed; left out",
    "missing_image_file": "a listed picture without a file; left out of training",
    "missing_annotation_file": "a picture without its annotation file; left out of training",
    "image_size_mismatch": "a file of another size than the annotations say; refused when it is read",
    "empty_polygon": "a polygon of fewer than three points or an odd count of numbers; left out",
    "missing_mask": "no mask, while others in the file have one; left out, unless KINDS: [boxes] reads boxes alone",
    "nan_polygon": "a polygon with NaN or infinity; left out",
    "bad_rle": "a run-length mask that does not fill its picture exactly; left out",
    "nan_keypoint": "a keypoint with NaN or infinity; the instance is left out",
    "wrong_keypoint_count": "keypoints that are not x, y, visibility of every point; the instance is left out",
    "malformed_xml": "an XML file that cannot be parsed; the picture is left out",
    "missing_field": "an entry that lacks a needed field, or has a wrong type in it; left out",
    "unreadable_image": "a picture, or a label picture, that cannot be read; the run stops there, see DATA.BAD_IMAGE",
    "missing_segment": "a segment of the JSON without a pixel in its PNG; left out",
}

# Faults after which everything is still used.
HARMLESS = frozenset({"box_partly_outside"})
MAX_PLACES = 100

Flags = npt.NDArray[np.bool_]

# Annotators draw to the border and round; less than this beyond it is no fault.
_TOLERANCE = 0.5


class AnnotationFaults:
    """Faults met while annotations are loaded.

    Attributes:
        counts: how often, by name of ``FAULTS``.
        places: where the first ones of each name are, at most ``MAX_PLACES``.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.places: dict[str, list[str]] = {}

    @property
    def examples(self) -> dict[str, str]:
        """Where the first one of each name is."""
        return {fault: places[0] for fault, places in self.places.items()}

    def add(self, fault: str, place: str, count: int = 1) -> None:
        """Count a fault; ``place`` says where the (first) one is."""
        assert fault in FAULTS, fault
        self.counts[fault] += count
        places = self.places.setdefault(fault, [])
        if len(places) < MAX_PLACES:
            places.append(place)

    def add_rows(self, fault: str, rows: Flags, place: Callable[[int], str]) -> None:
        """Count the true entries of ``rows``; ``place`` turns an index into text."""
        found = np.flatnonzero(rows)
        for row in found[:MAX_PLACES].tolist():
            self.add(fault, place(row))
        if len(found) > MAX_PLACES:
            self.counts[fault] += len(found) - MAX_PLACES

    def update(self, counts: Mapping[str, int], places: Mapping[str, Sequence[str]]) -> None:
        """Count what another has counted, too."""
        self.counts.update(counts)
        for fault, found in places.items():
            self.places[fault] = [*self.places.get(fault, []), *found][:MAX_PLACES]

    def lines(self, places: int = 1) -> list[str]:
        """Text about each kind of fault, the most frequent first, with so many places."""
        text = []
        for name, count in sorted(self.counts.items(), key=lambda item: (-item[1], item[0])):
            found = self.places.get(name, [])
            if places == 1:
                text.append(f"    {name}: {count} ({FAULTS[name]}), e.g. {found[0] if found else ''}")
                continue
            text.append(f"    {name}: {count} ({FAULTS[name]})")
            text += [f"      {place}" for place in found[:places]]
            text += [f"      ... {count - places} more"] if count > places else []
        return text


def check_boxes(
    corners: npt.NDArray[np.float64],
    sizes: npt.NDArray[np.int64],
    offset: Sequence[float],
    faults: AnnotationFaults,
    place: Callable[[int], str],
) -> tuple[npt.NDArray[np.float32], Flags]:
    """Count what is wrong with boxes; each has one fault at most.

    Args:
        corners: (M, 4) x1, y1, x2, y2 as in the file.
        sizes: (M, 2) height and width of the picture of each box.
        offset: added to the corners to reach pixels with exclusive ends, after the extent was checked.
        faults: counts them.
        place: says where box i is.

    Returns:
        boxes (M, 4) float32, not clipped; good (M,) bool.
    """
    finite = np.asarray(np.isfinite(corners).all(axis=1), np.bool_)
    safe = np.where(finite[:, None], corners, 0.0)
    extent = safe[:, 2:] - safe[:, :2]
    negative = np.asarray(finite & (extent < 0).any(axis=1), np.bool_)
    boxes = (safe + np.asarray(offset, np.float64)).astype(np.float32)
    grown = (boxes[:, 2:] - boxes[:, :2]).min(1, initial=np.inf)  # float32 may have swallowed a tiny extent
    empty = finite & ~negative & ((extent == 0).any(1) | (grown <= 0))
    limit = sizes[:, ::-1].astype(np.float32)
    touching = np.minimum(boxes[:, 2:], limit) > np.maximum(boxes[:, :2], 0)
    outside = finite & ~negative & ~empty & ~touching.all(1)
    good = finite & ~negative & ~empty & ~outside
    beyond = good & ((boxes[:, :2] < -_TOLERANCE) | (boxes[:, 2:] > limit + _TOLERANCE)).any(1)
    found: list[tuple[str, Flags]] = [
        ("nan_box", ~finite),
        ("negative_size_box", negative),
        ("zero_size_box", empty),
        ("box_outside_image", outside),
        ("box_partly_outside", beyond),
    ]
    for fault, rows in found:
        faults.add_rows(fault, rows, place)
    return boxes, good


def clip_boxes(boxes: npt.NDArray[np.float32], height: int, width: int) -> npt.NDArray[np.float32]:
    """Boxes (K, 4) xyxy cut at the border of a picture."""
    limit = np.array([width, height, width, height], np.float32)
    return np.clip(boxes, 0, limit)


def parse_numbers(value: Any, count: int) -> list[float] | None:
    """``count`` numbers of JSON (NaN allowed); ``None`` if ``value`` is anything else."""
    if not isinstance(value, list) or len(value) != count:
        return None
    return value if {*map(type, value)} <= {int, float} else None


def pack_shape(segmentation: Any, height: int, width: int) -> tuple[list[bytes] | bytes | None, list[str]]:
    """A COCO segmentation as plain bytes, and the names of the faults found in it.

    Returns:
        polygons as float32 bytes; or compressed run lengths; or ``None`` if nothing usable is left.
    """
    if isinstance(segmentation, dict):
        counts = pack_rle(segmentation, height, width)
        return counts, [] if counts is not None else ["bad_rle"]
    if not isinstance(segmentation, list) or not segmentation:
        return None, ["missing_mask"]
    polygons = segmentation if isinstance(segmentation[0], list) else [segmentation]
    packed, problems = [], []
    for polygon in polygons:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            problems.append("empty_polygon")
            continue
        try:
            points = np.array(polygon, np.float32)
        except (TypeError, ValueError):
            problems.append("nan_polygon")
            continue
        if math.isfinite(points.sum(dtype=np.float64)):
            packed.append(points.tobytes())
        else:
            problems.append("nan_polygon")
    return packed or None, problems


def pack_rle(rle: dict[str, Any], height: int, width: int) -> bytes | None:
    """Compressed counts of a COCO run-length mask; ``None`` if it is damaged or not of this size."""
    counts, size = rle.get("counts"), rle.get("size")
    if not isinstance(size, (list, tuple)) or list(size) != [height, width]:
        return None
    if isinstance(counts, list):
        if not all(type(c) is int and c >= 0 for c in counts) or sum(counts) != height * width:
            return None
        from pycocotools import mask as coco

        packed: bytes = coco.frPyObjects(rle, height, width)["counts"]
        return packed
    try:
        data = counts.encode("ascii") if isinstance(counts, str) else counts
    except UnicodeEncodeError:
        return None
    if not isinstance(data, bytes):
        return None
    runs = unpack_counts(data)
    return data if runs is not None and (runs >= 0).all() and int(runs.sum()) == height * width else None


def unpack_counts(data: bytes) -> npt.NDArray[np.int64] | None:
    """Run lengths of a compressed COCO mask; ``None`` if the text is not one.

    Each number is written in groups of five bits, lowest first, as characters from "0" on; bit 32 says that another group
    follows, bit 16 of the last one is the sign. From the fourth on, a number is the difference to the one before the last.
    Source: COCO API, maskApi.c, rleToString.
    """
    codes = np.frombuffer(data, np.uint8).astype(np.int64) - 48
    if not codes.size or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        return None
    last = (codes & 32) == 0
    starts = np.concatenate([[0], np.flatnonzero(last)[:-1] + 1])
    number = np.cumsum(last) - last
    place = np.arange(codes.size) - starts[number]
    if place.max() > 7:
        return None
    values = np.add.reduceat((codes & 31) << (5 * place), starts)
    negative = (codes[last] & 16) != 0
    values = np.where(negative, values - (np.int64(1) << (5 * (place[last] + 1))), values)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values
