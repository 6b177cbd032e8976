"""Every picture of a test by itself: as a file in a folder, in a window, or both."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Protocol

from pet.utils.files import unique_stems
from pet.utils.images import write_png
from pet.visualization.canvas import Picture
from pet.visualization.window import close_windows, show_picture

_TITLE = "Pet: any key for the next picture, q or Esc ends"


class Painter(Protocol):
    """Draws one row of a batch; ``DetectionPictures`` and ``PredictionPictures`` do."""

    def draw(self, inputs: Any, outputs: Any, row: int) -> Picture:
        """The picture with its truth and its prediction."""


class Described(Protocol):
    """A data set that tells the file of each picture."""

    def __len__(self) -> int: ...

    def describe(self, index: int) -> str:
        """Path of the picture, or file and place in it."""


class Gallery:
    """Takes the outputs of a model during an evaluation and draws each picture once, whichever process computed it.

    Args:
        painter: draws.
        dataset: its files name the pictures; where names repeat, folders or numbers tell them apart.
        folder: ``<folder>/<picture>.png`` is written; ``None``: nothing is.
        seconds: how long each picture is shown in a window, 0: until a key is pressed; ``None``: there is no window.
    """

    def __init__(self, painter: Painter, dataset: Described, folder: str | Path | None, seconds: float | None = None) -> None:
        self.painter, self.folder, self.seconds = painter, Path(folder) if folder is not None else None, seconds
        self.names = unique_stems([dataset.describe(index) for index in range(len(dataset))])

    def process(self, inputs: Any, outputs: Any) -> None:
        """Draw the pictures of one batch."""
        if self.folder is None and self.seconds is None:
            return  # the user closed the window
        for row, id in enumerate(inputs.ids.tolist()):
            picture = self.painter.draw(inputs, outputs, row)
            if self.folder is not None:
                write_png(self.folder / f"{self.names[id]}.png", picture)
            # 0 ms would wait for a key, so a shorter time than one is one.
            if self.seconds is not None and show_picture(_TITLE, picture, math.ceil(1000 * self.seconds)):
                self.seconds = None
                close_windows()

    def pictures(self) -> dict[str, Picture]:
        """Nothing: all pictures are drawn. Closes the window."""
        if self.seconds is not None:
            close_windows()
        return {}
