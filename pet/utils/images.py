"""Writing pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from pet.utils.files import atomic_write


def write_png(path: str | Path, picture: npt.NDArray[np.uint8]) -> None:
    """Write a picture, whole or not at all; its folder is made.

    Args:
        path: ends in ``.png``.
        picture: (H, W, 3) uint8, RGB.
    """
    import cv2

    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"pictures are written as PNG, not {path.suffix or 'without a suffix'}: {path}")
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(f"a picture is (H, W, 3) uint8, not {picture.shape} {picture.dtype} ({path})")
    _, data = cv2.imencode(".png", np.ascontiguousarray(picture[..., ::-1]))
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as handle:
        handle.write(data.tobytes())
