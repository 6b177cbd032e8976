"""Image files to arrays, refusing what is damaged.

What becomes of unusual files: grey pictures get three equal channels; an alpha channel is dropped, not blended; 16-bit pictures
keep
their upper eight bits; CMYK is converted to RGB by the decoder, without colour profile; the EXIF orientation is applied, once,
here; of an animated
file the first picture is taken.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from pet.data.structures import BadImageError, Image

# A header can promise any size; more than this is refused before memory is asked for (0.6 GB as RGB).
MAX_PIXELS = 200_000_000
EXTENSIONS = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".gif")
)

_FRAME_MARKERS = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_SCAN, _END = 0xDA, b"\xff\xd9"
_PNG = b"\x89PNG\r\n\x1a\n"


def read_image(path: str | Path) -> Image:
    """Read an image file.

    Returns:
        (H, W, 3) uint8, RGB, upright.

    Raises:
        BadImageError: missing, unreadable, damaged, cut off or too large; the reason says which.
    """
    try:
        with open(path, "rb") as handle:
            data = handle.read()
    except OSError as error:
        raise BadImageError(path, error.strerror or str(error)) from error
    return decode_image(data, path)


def decode_image(data: bytes, path: str | Path = "in memory") -> Image:
    """Decode the content of an image file; ``path`` is for the message of a ``BadImageError``."""
    reason = find_damage(data)
    if reason:
        raise BadImageError(path, reason)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except (cv2.error, MemoryError) as error:
        raise BadImageError(path, f"the decoder refused it ({str(error).strip().splitlines()[-1]})") from error
    if image is None:
        raise BadImageError(path, f"not an image that OpenCV can decode ({len(data)} bytes, starting with {data[:8].hex(' ')})")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image), np.uint8)


def find_damage(data: bytes) -> str:
    """What is wrong with an encoded image as far as its structure shows; empty if nothing is.

    Decoders fill the missing part of a truncated JPEG with grey and report success, so the end marker is looked for here.
    """
    if not data:
        return "the file is empty"
    if data.startswith(b"\xff\xd8"):
        return _jpeg_damage(data)
    if data.startswith(_PNG):
        return _png_damage(data)
    return ""


def _jpeg_damage(data: bytes) -> str:
    position, size = 2, len(data)
    while position + 4 <= size:
        if data[position] != 0xFF:
            return f"not a valid JPEG: no marker at byte {position}"
        marker = data[position + 1]
        if marker == 0xFF:  # padding
            position += 1
            continue
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        if marker in _FRAME_MARKERS and position + 9 <= size:
            height, width = (
                int.from_bytes(data[position + 5 : position + 7], "big"),
                int.from_bytes(data[position + 7 : position + 9], "big"),
            )
            if height * width > MAX_PIXELS:
                return _too_large(height, width)
        if marker == _SCAN:
            # Bytes after the end marker (padding, a second picture) are allowed; a thumbnail's own marker lies before the scan.
            return "" if data.rfind(_END, position) >= 0 else f"truncated JPEG: no end marker in {size} bytes"
        position += 2 + length
    return f"truncated JPEG: {size} bytes end before the picture begins"


def _png_damage(data: bytes) -> str:
    if len(data) < 33:
        return f"truncated PNG: {len(data)} bytes end inside the header"
    width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    if height * width > MAX_PIXELS:
        return _too_large(height, width)
    return "" if data.rfind(b"IEND") >= 0 else f"truncated PNG: no end chunk in {len(data)} bytes"


def _too_large(height: int, width: int) -> str:
    return f"its header claims {height} x {width} pixels, more than the limit of {MAX_PIXELS // 10**6} million"
