"""Label pictures (one class, or one segment id, a pixel), and sizes of pictures without decoding them."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from pet.data.image import find_damage
from pet.data.structures import BadImageError

_PNG_GREY, _PNG_PALETTE = 0, 3
_PNG_SIGNATURE, _PNG_CHECKSUM = 8, 4  # bytes
_ROTATED = frozenset((5, 6, 7, 8))  # EXIF orientations that swap height and width
_EXIF_ORIENTATION = 0x0112


def read_label_map(path: str | Path) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
    """The values of a one-channel picture: (H, W) uint8 or uint16; of a palette PNG the indices, not the colours.

    Raises:
        BadImageError: missing, damaged, or with more than one channel.
    """
    data = _read_bytes(path)
    depth, kind = (data[24], data[25]) if data[1:4] == b"PNG" else (8, _PNG_GREY)
    if kind == _PNG_PALETTE:
        values = _palette_indices(data)
    else:
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if decoded is None:
            raise BadImageError(path, "not an image that OpenCV can decode")
        values = np.asarray(decoded)
        if depth < 8:  # decoders stretch 0, 1, ... to the range of a byte
            values = values // (255 // ((1 << depth) - 1))
    if values.ndim != 2:
        raise BadImageError(path, f"it has {values.shape[2]} channels; a label map has one value a pixel")
    if values.dtype not in (np.uint8, np.uint16):
        raise BadImageError(path, f"its values are {values.dtype}; a label map has 8 or 16 bits")
    return values


def read_segment_ids(path: str | Path) -> npt.NDArray[np.int32]:
    """Segment ids (H, W) of a COCO panoptic PNG: R + 256 G + 65536 B."""
    data = _read_bytes(path)
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if decoded is None or decoded.ndim != 3 or decoded.dtype != np.uint8:
        raise BadImageError(path, "not a panoptic PNG: three channels of 8 bits are expected")
    pixels = decoded[..., :3].astype(np.int32)
    return np.asarray(pixels[..., 2] + (pixels[..., 1] << 8) + (pixels[..., 0] << 16), np.int32)


def _read_bytes(path: str | Path) -> bytes:
    try:
        with open(path, "rb") as handle:
            data = handle.read()
    except OSError as error:
        raise BadImageError(path, error.strerror or str(error)) from error
    reason = find_damage(data)
    if reason:
        raise BadImageError(path, reason)
    return data


def _palette_indices(data: bytes) -> npt.NDArray[np.uint8]:
    import io

    from PIL import Image

    with Image.open(io.BytesIO(data)) as picture:
        return np.array(picture, np.uint8)


def picture_size(path: str | Path) -> tuple[int, int]:
    """Height and width as ``read_image`` will return them, from the header of the file.

    Raises:
        BadImageError: missing, or not a picture.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            width, height = picture.size
            # Pillow decodes all of a PNG to look for the orientation, which hardly any has: 40 ms for one of Cityscapes.
            may_turn = picture.format != "PNG" or _png_has_exif(path)
            turned = may_turn and picture.getexif().get(_EXIF_ORIENTATION) in _ROTATED
    except UnidentifiedImageError as error:
        raise BadImageError(path, "not a picture") from error
    except OSError as error:
        raise BadImageError(path, error.strerror or str(error)) from error
    return (width, height) if turned else (height, width)


def _png_has_exif(path: str | Path) -> bool:
    """Whether one of the chunks of a PNG holds EXIF; it may come after the pixels."""
    with open(path, "rb", buffering=0) as handle:
        handle.seek(_PNG_SIGNATURE)
        while len(head := handle.read(8)) == 8:
            if head[4:] == b"eXIf":
                return True
            handle.seek(int.from_bytes(head[:4], "big") + _PNG_CHECKSUM, os.SEEK_CUR)
    return False


class FolderListing:
    """Names of the files in folders; each folder is listed once, which is much faster than asking for every file."""

    def __init__(self) -> None:
        self._names: dict[str, frozenset[str]] = {}

    def names(self, folder: str) -> frozenset[str]:
        """Names in ``folder``; none if it does not exist."""
        if folder not in self._names:
            self._names[folder] = frozenset(os.listdir(folder)) if os.path.isdir(folder) else frozenset()
        return self._names[folder]

    def exists(self, path: str) -> bool:
        """Whether the file is there."""
        folder, name = os.path.split(path)
        return name in self.names(folder)
