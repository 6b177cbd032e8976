"""Whether this machine can open windows."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def require_display(instead: str) -> None:
    """Refuse before the work begins what could not be shown at its end; Qt would end the process without a word.

    Args:
        instead: what to do without a display, e.g. ``"write the pictures with --show-dir DIR"``.

    Raises:
        OSError: this machine, or this OpenCV, cannot open a window.
    """
    problem = _no_display()
    if problem:
        raise OSError(f"no window can be opened here: {problem}. Instead, {instead}")


def _no_display() -> str:
    import cv2

    built = next((line for line in cv2.getBuildInformation().splitlines() if line.strip().startswith("GUI:")), "NONE")
    if built.split(":")[-1].strip() == "NONE":
        return "OpenCV was built without windows (opencv-python-headless)"
    if not sys.platform.startswith("linux"):
        return ""
    # The wheels of OpenCV speak X11 only.
    display = os.environ.get("DISPLAY", "")
    if not display:
        return "there is no display (the variable DISPLAY is not set)"
    host, _, number = display.rpartition(":")
    socket = Path("/tmp/.X11-unix") / f"X{number.partition('.')[0]}"
    return f"nothing answers for DISPLAY={display}" if host in ("", "unix") and not socket.exists() else ""
