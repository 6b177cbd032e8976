"""Writing pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from pet.utils.files import atomic_write, check_suffix

FORMATS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")


def write_png(path: str | Path, picture: npt.NDArray[np.uint8]) -> None:
    """Write a picture as PNG; ``path`` must say so. See ``write_picture``."""
    if Path(path).suffix.lower() != ".png":
        raise ValueError(f"pictures are written as PNG, not {Path(path).suffix or 'without a suffix'}: {path}")
    write_picture(path, picture)


def write_picture(path: str | Path, picture: npt.NDArray[np.uint8]) -> None:
    """Write a picture, whole or not at all; its folder is made.

    Args:
        path: its suffix, one of ``FORMATS``, says the format.
        picture: (H, W, 3) uint8, RGB.
    """
    import cv2

    path = check_picture_path(path)
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(f"a picture is (H, W, 3) uint8, not {picture.shape} {picture.dtype} ({path})")
    _, data = cv2.imencode(path.suffix.lower(), np.ascontiguousarray(picture[..., ::-1]))
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as handle:
        handle.write(data.tobytes())


def check_picture_path(path: str | Path) -> Path:
    """The path of a picture to be written; ``ValueError`` if its suffix names no format that can be."""
    path = Path(path)
    check_suffix(path, FORMATS)
    return path
