"""Pictures in a window of the desktop."""

from __future__ import annotations

import cv2

from pet.visualization.canvas import Picture

_ENDING_KEYS = (27, ord("q"), ord("Q"))


def show_picture(title: str, picture: Picture, wait_ms: int = 0) -> bool:
    """Show a picture in the window of this title.

    Args:
        title: of the window, which is opened if it is not there.
        picture: (H, W, 3) uint8 RGB.
        wait_ms: how long to wait for a key; 0: until one is pressed.

    Returns:
        Whether Esc, q or Q was pressed.
    """
    cv2.imshow(title, picture[..., ::-1])
    return (cv2.waitKey(wait_ms) & 0xFF) in _ENDING_KEYS


def close_windows() -> None:
    """Close all windows of this process."""
    cv2.destroyAllWindows()
