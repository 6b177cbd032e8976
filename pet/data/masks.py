"""Instance masks of one picture, kept as polygons while possible and turned into pixels only when somebody needs them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Size = tuple[int, int]  # (height, width)
Polygon = npt.NDArray[np.float32]  # (n, 2): x, y
Bitmap = npt.NDArray[np.uint8]  # (H, W): 0 or 1
Shape = list[Polygon] | Bitmap

# COCO writes two decimals. float32 keeps them to about 1e-4, so rounding here restores what the file says, and pycocotools
# rasterises exactly what it would read itself.
_DECIMALS = 3
# Rounding may carry a corner this far beyond the border.
_TOLERANCE = 1e-2


class InstanceMasks:
    """K masks of one picture.

    Each is kept as polygons, whose union is the mask, or as a bitmap. Coordinates are pixels; the first pixel reaches from 0
    to 1. Polygons may lie outside the picture after a crop; pixels, boxes and areas count what is inside. Objects are never
    changed: every operation returns a new one, which may share memory with this one.

    Args:
        shapes: for each instance a list of polygons (n, 2) float32 or a bitmap (H, W) uint8 of 0 and 1.
        size: (height, width) of the picture.
    """

    __slots__ = ("_shapes", "size")

    def __init__(self, shapes: Sequence[Shape], size: Size) -> None:
        self._shapes: list[Shape] = list(shapes)
        self.size: Size = (int(size[0]), int(size[1]))

    @staticmethod
    def from_polygons(polygons: Sequence[Sequence[npt.ArrayLike]], size: Size) -> InstanceMasks:
        """Masks from polygons.

        Args:
            polygons: for each instance its polygons, each (n, 2) or flat x, y, x, y, ..., n >= 3.
            size: (height, width) of the picture.

        Raises:
            ValueError: a polygon with an odd count of numbers or fewer than three points.
        """
        return InstanceMasks([[_as_polygon(polygon) for polygon in parts] for parts in polygons], size)

    @staticmethod
    def from_bitmaps(bitmaps: npt.NDArray[Any]) -> InstanceMasks:
        """Masks from an array (K, H, W) of bool, or of 0 and 1."""
        pixels = np.ascontiguousarray(bitmaps).astype(np.uint8, copy=False)
        return InstanceMasks(list(pixels), (int(pixels.shape[1]), int(pixels.shape[2])))

    @staticmethod
    def from_rles(rles: Sequence[dict[str, Any]], size: Size) -> InstanceMasks:
        """Masks from COCO run lengths ``{"size": [height, width], "counts": str, bytes or list of int}``.

        Raises:
            ValueError: the size of a mask is not that of the picture.
        """
        return InstanceMasks([_decode(rle, size) for rle in rles], size)

    @staticmethod
    def from_coco(segmentations: Sequence[Any], size: Size) -> InstanceMasks:
        """Masks from the ``segmentation`` entries of COCO JSON: lists of polygons, or run lengths."""
        shapes = [
            _decode(entry, size) if isinstance(entry, dict) else [_as_polygon(polygon) for polygon in entry]
            for entry in segmentations
        ]
        return InstanceMasks(shapes, size)

    @staticmethod
    def concatenate(parts: Sequence[InstanceMasks]) -> InstanceMasks:
        """All masks of pictures of one size (at least one), in order."""
        sizes = {part.size for part in parts}
        if len(sizes) != 1:
            raise ValueError(f"masks of pictures of different sizes cannot be joined: {sorted(sizes)}")
        return InstanceMasks([shape for part in parts for shape in part._shapes], parts[0].size)

    def __len__(self) -> int:
        return len(self._shapes)

    def __repr__(self) -> str:
        polygons = sum(isinstance(shape, list) for shape in self._shapes)
        return f"InstanceMasks({len(self)} masks, {polygons} of them polygons, size {self.size[0]}x{self.size[1]})"

    def select(self, which: npt.ArrayLike) -> InstanceMasks:
        """The masks at ``which``: indices, or a bool for each mask."""
        chosen = np.asarray(which)
        if chosen.dtype == bool and chosen.shape != (len(self),):
            raise IndexError(f"{len(self)} masks cannot be selected by an array of shape {chosen.shape}")
        indices = np.flatnonzero(chosen) if chosen.dtype == bool else chosen.astype(np.int64)
        return InstanceMasks([self._shapes[i] for i in indices.tolist()], self.size)

    # ------------------------------------------------------------------------------------------------- geometry

    def resize(self, size: Size) -> InstanceMasks:
        """The masks of the picture scaled to ``size``."""
        factor = np.array([size[1] / self.size[1], size[0] / self.size[0]], np.float32)
        return self._map(lambda points: points * factor, lambda bitmap: scale_nearest(bitmap, size), size)

    def flip(self, horizontal: bool = False, vertical: bool = False) -> InstanceMasks:
        """The masks of the mirrored picture: ``horizontal`` swaps left and right, ``vertical`` top and bottom."""
        sign = np.array([-1 if horizontal else 1, -1 if vertical else 1], np.float32)
        offset = np.array([self.size[1] if horizontal else 0, self.size[0] if vertical else 0], np.float32)
        return self._map(lambda points: points * sign + offset, lambda bitmap: mirror(bitmap, horizontal, vertical), self.size)

    def crop(self, top: int, left: int, size: Size) -> InstanceMasks:
        """The masks of the part of ``size`` that starts at (top, left); masks outside it stay, without a pixel."""
        offset = np.array([left, top], np.float32)
        rows, columns = slice(top, top + size[0]), slice(left, left + size[1])
        return self._map(lambda points: points - offset, lambda bitmap: bitmap[rows, columns], size)

    def pad(self, top: int, left: int, size: Size) -> InstanceMasks:
        """The masks on a larger canvas of ``size``, the picture's corner at (top, left).

        Polygons that reached beyond the picture are cut at its border.
        """
        offset = np.array([left, top], np.float32)
        bottom, right = size[0] - top - self.size[0], size[1] - left - self.size[1]

        def widen(bitmap: Bitmap) -> Bitmap:
            return np.asarray(cv2.copyMakeBorder(bitmap, top, bottom, left, right, cv2.BORDER_CONSTANT, value=0), np.uint8)

        return self.clipped()._map(lambda points: points + offset, widen, size)

    def clipped(self) -> InstanceMasks:
        """The masks without what lies outside the picture; polygons that cross its border become bitmaps."""
        return InstanceMasks([shape if self._inside(shape) else self._pixels(shape) for shape in self._shapes], self.size)

    def _map(
        self, move: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]], repaint: Callable[[Bitmap], Bitmap], size: Size
    ) -> InstanceMasks:
        """All polygons moved at once, each bitmap repainted."""
        points = [polygon for shape in self._shapes if isinstance(shape, list) for polygon in shape]
        moved = iter(_split(move(np.concatenate(points)), points) if points else [])
        shapes: list[Shape] = [
            [next(moved) for _ in shape] if isinstance(shape, list) else repaint(shape) for shape in self._shapes
        ]
        return InstanceMasks(shapes, size)

    def _inside(self, shape: Shape) -> bool:
        if not isinstance(shape, list):
            return True
        if not shape:
            return True
        low, high = _extent(shape)
        limit = (self.size[1] + _TOLERANCE, self.size[0] + _TOLERANCE)
        return bool((low >= -_TOLERANCE).all() and (high <= limit).all())

    # --------------------------------------------------------------------------------------------------- pixels

    def _pixels(self, shape: Shape, out: Bitmap | None = None) -> Bitmap:
        """One mask as pixels, written to ``out``, which must be zero, if given."""
        canvas = np.zeros(self.size, np.uint8) if out is None else out
        if isinstance(shape, list):
            for polygon in shape:
                fill_polygon(canvas, polygon)
        else:
            canvas[:] = shape
        return canvas

    def to_bitmaps(self, out: npt.NDArray[np.uint8] | None = None) -> npt.NDArray[np.uint8]:
        """The masks as pixels, the same as those of ``to_rles``.

        Args:
            out: array of zeros (K, H, W) to write to instead of a new one.

        Returns:
            (K, H, W) uint8, 0 or 1.
        """
        bitmaps = np.zeros((len(self), *self.size), np.uint8) if out is None else out
        for shape, bitmap in zip(self._shapes, bitmaps, strict=True):
            self._pixels(shape, bitmap)
        return bitmaps

    def to_rles(self) -> list[dict[str, Any]]:
        """The masks as compressed COCO run lengths with ``counts`` as str.

        Polygons are rasterised by pycocotools, so that the result equals ``COCO.annToRLE`` of the annotation they came from.
        """
        from pycocotools import mask as coco

        rles = []
        for shape in self._shapes:
            if isinstance(shape, list) and shape:
                flat = [np.round(polygon.astype(np.float64), _DECIMALS).ravel().tolist() for polygon in shape]
                rle = coco.merge(coco.frPyObjects(flat, *self.size))
            else:
                rle = coco.encode(np.asfortranarray(self._pixels(shape)))
            rles.append({"size": list(self.size), "counts": rle["counts"].decode("ascii")})
        return rles

    def boxes(self) -> npt.NDArray[np.float32]:
        """Boxes (K, 4) xyxy around the masks in pixels, ends exclusive; 0, 0, 0, 0 for an empty mask.

        Around the corners of polygons inside the picture, around the pixels of everything else.
        """
        boxes = np.zeros((len(self), 4), np.float32)
        for box, shape in zip(boxes, self._shapes, strict=True):
            if isinstance(shape, list) and self._inside(shape):
                if shape:
                    box[:2], box[2:] = _extent(shape)
                    np.clip(box, 0, (self.size[1], self.size[0]) * 2, out=box)
                continue
            x, y, width, height = cv2.boundingRect(np.ascontiguousarray(self._pixels(shape)))
            box[:] = (x, y, x + width, y + height)
        return boxes

    def areas(self) -> npt.NDArray[np.float64]:
        """Number of pixels of each mask (K,)."""
        return np.array([cv2.countNonZero(np.ascontiguousarray(self._pixels(shape))) for shape in self._shapes], np.float64)


def fill_polygon(canvas: Bitmap, polygon: Polygon) -> None:
    """Set the pixels of ``canvas`` (H, W) inside ``polygon`` (n, 2) to 1, as ``COCO.annToMask`` decides what is inside.

    pycocotools fills the part around the polygon: 0.07 ms for an object of COCO. OpenCV's ``fillPoly`` takes a quarter of that,
    but draws the outline too, which makes small objects too large (on COCO: IoU 0.88 for areas of 100 to 1024 pixels).
    """
    from pycocotools import mask as coco

    (x0, y0), (x1, y1) = polygon.min(0).tolist(), polygon.max(0).tolist()
    left, top = max(int(x0) - 1, 0), max(int(y0) - 1, 0)
    right, bottom = min(int(x1) + 2, canvas.shape[1]), min(int(y1) + 2, canvas.shape[0])
    if right <= left or bottom <= top:
        return
    points = np.round(polygon.astype(np.float64) - (left, top), _DECIMALS)
    rle = coco.frPyObjects([points.ravel().tolist()], bottom - top, right - left)[0]
    canvas[top:bottom, left:right] |= rle_to_pixels(rle)


def mirror(pixels: npt.NDArray[np.uint8], horizontal: bool = False, vertical: bool = False) -> npt.NDArray[np.uint8]:
    """A copy of ``pixels`` (H, W) or (H, W, 3) with left and right, or top and bottom, or both exchanged.

    OpenCV does it in a hundredth of the time that copying a view with negative steps takes.
    """
    if not (horizontal or vertical):
        return pixels
    return np.asarray(cv2.flip(pixels, -1 if horizontal and vertical else int(horizontal)), np.uint8)


def scale_nearest(pixels: npt.NDArray[np.uint8], size: Size) -> npt.NDArray[np.uint8]:
    """``pixels`` (H, W) scaled to ``size``; each new pixel takes the value under its centre."""
    if pixels.shape == size:
        return pixels
    return np.asarray(cv2.resize(pixels, (size[1], size[0]), interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)


def _extent(polygons: list[Polygon]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Smallest and largest x, y of all corners."""
    points = np.concatenate(polygons) if len(polygons) > 1 else polygons[0]
    return points.min(0), points.max(0)


def _split(points: npt.NDArray[np.float32], like: list[Polygon]) -> list[Polygon]:
    """``points`` cut into polygons with as many corners as those of ``like``."""
    ends = np.cumsum([len(polygon) for polygon in like]).tolist()
    return [points[end - len(polygon) : end] for polygon, end in zip(like, ends, strict=True)]


def _as_polygon(polygon: npt.ArrayLike) -> Polygon:
    points = np.asarray(polygon, np.float32)
    if points.size % 2 or points.size < 6:
        raise ValueError(f"a polygon needs x and y of at least three points, but has {points.size} numbers")
    return points.reshape(-1, 2)


def _decode(rle: dict[str, Any], size: Size) -> Bitmap:
    from pycocotools import mask as coco

    if tuple(rle["size"]) != (size[0], size[1]):
        raise ValueError(f"a mask of {rle['size'][0]}x{rle['size'][1]} does not fit the picture of {size[0]}x{size[1]}")
    packed = coco.frPyObjects(rle, *size) if isinstance(rle["counts"], list) else rle
    return rle_to_pixels(packed)


def rle_to_pixels(rle: dict[str, Any]) -> Bitmap:
    """The mask of compressed run lengths: (H, W) uint8, in the order of C."""
    from pycocotools import mask as coco

    # Its array type does not know an argument that NumPy 2 passes, and NumPy says so each time.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        columns = coco.decode(rle).T
    return np.asarray(cv2.transpose(columns), np.uint8)
