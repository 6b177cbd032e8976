"""Pictures inside a page: as data URIs, small enough that the page stays one file that can be mailed."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

_LONGEST_SIDE, _QUALITY = 1600, 82
_MOST_BYTES = 12 << 20


@dataclass(frozen=True)
class Embedded:
    """A picture of a page.

    Attributes:
        path: of the file.
        uri: its data, or empty if the page has no room left or the file is damaged.
        width, height: of what is in the page, pixels.
    """

    path: Path
    uri: str = ""
    width: int = 0
    height: int = 0


def embed_all(paths: list[Path], limit: int = _MOST_BYTES) -> tuple[list[Embedded], int]:
    """Pictures in order, and the bytes they take; from the first on that goes beyond ``limit`` they are only named."""
    found, total, full = list[Embedded](), 0, False
    for path in paths:
        picture = Embedded(path) if full else _embed(path)
        if total + len(picture.uri) > limit:
            picture, full = Embedded(path), True  # the others would not fit either, or hardly
        found.append(picture)
        total += len(picture.uri)
    return found, total


def _embed(path: Path) -> Embedded:
    content = path.read_bytes()
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) if content else None
    except cv2.error:  # e.g. more pixels than OpenCV reads
        image = None
    if image is None:
        return Embedded(path)
    factor = _LONGEST_SIDE / max(image.shape[:2])
    if factor < 1:
        size = max(round(image.shape[1] * factor), 1), max(round(image.shape[0] * factor), 1)
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    encoded, kind = cv2.imencode(".webp", image, [cv2.IMWRITE_WEBP_QUALITY, _QUALITY])[1].tobytes(), "webp"
    if factor >= 1 and path.suffix.lower() == ".png" and len(content) <= len(encoded):
        encoded, kind = content, "png"  # lines on paper are smaller without loss
    uri = f"data:image/{kind};base64,{base64.b64encode(encoded).decode('ascii')}"
    return Embedded(path, uri, image.shape[1], image.shape[0])
