"""Pictures of images with their labels and predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
from torch import Tensor

from pet.utils import comm
from pet.visualization.canvas import (
    FAINT,
    INK,
    NEUTRAL,
    RIGHT,
    WRONG,
    Colour,
    Picture,
    blank,
    fit,
    put_text,
    shorten,
    text_width,
    tile_grid,
)

# Both sides are near multiples of 28, 32 and 64, so that such images fill them.
_SIDE, _SMALL_SIDE, _LARGE_SIDE = 196, 128, 448
_FRAME, _TEXT, _LINE, _GAP = 4, 8, 17, 10
_SHOWN_CLASSES = 3
_GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class Prediction:
    """One image with what is known and what was said about it.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        truth: class names of the ground truth; ``None`` when it is not known.
        predicted: class names, the most certain one first.
        score: probability of the first predicted class, 0 to 1; NaN when nothing is predicted.
    """

    image: Picture
    truth: tuple[str, ...] | None
    predicted: tuple[str, ...]
    score: float

    @property
    def right(self) -> bool | None:
        """Whether exactly the true classes are predicted; ``None`` without ground truth."""
        return None if self.truth is None else set(self.truth) == set(self.predicted)


def prediction_grid(predictions: Sequence[Prediction], title: str = "", columns: int = 4) -> Picture:
    """Images in rows; a green frame with a tick where the prediction is right, a red one with a cross where it is wrong.

    Below each image: the prediction with its score (green or red) and, where it differs, the ground truth (green).
    """
    if not predictions:
        raise ValueError("there are no predictions to draw")
    lines = 2 if any(p.right is False for p in predictions) else 1
    return tile_grid([_prediction_tile(p, lines) for p in predictions], columns, _GAP, title)


def sample_mosaic(images: Sequence[Picture], captions: Sequence[str], title: str = "", columns: int = 8) -> Picture:
    """Training images as the model sees them, each with its label below.

    Args:
        images: (H, W, 3) uint8 RGB each.
        captions: one text for each image.
        title: text above the mosaic.
        columns: images in a row.
    """
    if not images or len(images) != len(captions):
        raise ValueError(f"{len(images)} images and {len(captions)} captions: there must be one for each, and at least one")
    side = _SMALL_SIDE
    tiles = []
    for image, caption in zip(images, captions, strict=True):
        tile = blank(side + _LINE, side)
        _centre(tile, fit(image, side), side, 0)
        put_text(tile, shorten(caption, side, _TEXT), side // 2, side + 13, _TEXT, anchor="centre")
        tiles.append(tile)
    return tile_grid(tiles, columns, _GAP, title)


class Inputs(Protocol):
    """What is read of a batch; ``pet.data.structures.Batch`` has it."""

    @property
    def images(self) -> Tensor:
        """(N, 3, H, W) uint8 RGB."""

    @property
    def targets(self) -> Mapping[str, Any]:
        """``label`` (N,), or ``scores`` (N, C) for several labels; may be empty."""

    @property
    def ids(self) -> Tensor:
        """(N,) int64."""


class PredictionPictures:
    """Collects the pictures of chosen images while a model is evaluated.

    Args:
        class_names: C names.
        num_images: images to show.
        num_samples: size of the data set: the images are spread over it, because many data sets are sorted by class.
            ``None``: the first ones.
        threshold: with several labels, classes of at least this score are predicted; one label: not used.
        title: text above the grid.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        num_images: int,
        num_samples: int | None = None,
        threshold: float = 0.5,
        title: str = "predictions",
    ) -> None:
        if num_images < 1:
            raise ValueError(f"num_images is {num_images}; it must be at least 1")
        self.class_names, self.threshold, self.title = list(class_names), threshold, title
        self.ids = spread_ids(num_samples or num_images, num_images)
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self._found: dict[int, Prediction] = {}

    def process(self, inputs: Inputs, outputs: Any) -> None:
        """Take what is shown of one batch; ``outputs["scores"]``: (N, C)."""
        for row, id in enumerate(inputs.ids.tolist()):
            if id in self.ids:
                self._found[id] = self._prediction(inputs, outputs["scores"], row)

    def pictures(self) -> dict[str, Picture]:
        """``{"predictions": picture}`` on rank 0, an empty dict elsewhere or when nothing was seen.

        A collective: every process calls it; the picture is the same for any number of processes.
        """
        parts = comm.gather(self._found, patient=True)
        merged = {id: prediction for part in parts for id, prediction in part.items()}
        if not merged:
            return {}
        chosen = [merged[id] for id in sorted(merged)]
        judged = [p for p in chosen if p.right is not None]
        count = f": {sum(bool(p.right) for p in judged)} of {len(judged)} shown are right" if judged else ""
        return {"predictions": prediction_grid(chosen, self.title + count)}

    def draw(self, inputs: Inputs, outputs: Any, row: int) -> Picture:
        """One image of a batch, large, with its prediction and its label."""
        return _prediction_tile(self._prediction(inputs, outputs["scores"], row), 2, _LARGE_SIDE, always_truth=True)

    def _prediction(self, inputs: Inputs, scores: Tensor, row: int) -> Prediction:
        image = inputs.images[row].permute(1, 2, 0).contiguous().cpu().numpy()
        values = scores[row].detach().float().cpu().numpy()
        targets = inputs.targets
        several = "scores" in targets
        truth = None
        if several:
            truth = self._names(np.flatnonzero(targets["scores"][row].cpu().numpy() > 0))
        elif "label" in targets and int(targets["label"][row]) >= 0:
            truth = self._names(np.array([int(targets["label"][row])]))
        order = np.argsort(-values, kind="stable")
        predicted = order[values[order] >= self.threshold] if several else order[:1]
        score = float(values[predicted[0]]) if len(predicted) else float("nan")
        return Prediction(image, truth, self._names(predicted), score)

    def _names(self, classes: Any) -> tuple[str, ...]:
        return tuple(self.class_names[c] for c in classes)


def spread_ids(num_samples: int, num_images: int) -> frozenset[int]:
    """``num_images`` ids (all, if there are fewer): one from each of as many equal parts of ``range(num_samples)``.

    The place inside a part follows the golden ratio: with equal distances, a data set whose classes take turns would show
    few of them.
    """
    count = min(num_samples, num_images)
    ids = set()
    for part in range(count):
        start, end = part * num_samples // count, (part + 1) * num_samples // count
        ids.add(start + int(part * _GOLDEN % 1.0 * (end - start)))
    return frozenset(ids)


def _prediction_tile(prediction: Prediction, lines: int, side: int = _SIDE, always_truth: bool = False) -> Picture:
    width = side + 2 * _FRAME
    colour = {None: NEUTRAL, True: RIGHT, False: WRONG}[prediction.right]
    tile = blank(width + lines * _LINE + 6, width)
    tile[:width] = colour
    tile[_FRAME : width - _FRAME, _FRAME : width - _FRAME] = (244, 246, 248)
    _centre(tile, fit(prediction.image, side), width, 0)
    score = "" if np.isnan(prediction.score) else f"{prediction.score:.2f}"
    room = width - 16 - _text_room(score)
    if prediction.right is not None:
        _mark(tile, 6, width + 15, prediction.right)
    left = 0 if prediction.right is None else 16
    put_text(tile, shorten(_joined(prediction.predicted), room - 4, _TEXT), left, width + 15, _TEXT, colour)
    put_text(tile, score, width, width + 15, _TEXT, FAINT if prediction.right else INK, "right")
    if prediction.truth is not None and (always_truth or not prediction.right):
        truth = shorten(_joined(prediction.truth), width - 16 - _text_room("truth"), _TEXT)
        put_text(tile, truth, left, width + 15 + _LINE, _TEXT, RIGHT)
        put_text(tile, "truth", width, width + 15 + _LINE, _TEXT, FAINT, "right")
    return tile


def _text_room(text: str) -> int:
    """Width that a text at the right end of a tile takes, with the space before it."""
    return text_width(text, _TEXT) + 6 if text else 0


def _joined(names: tuple[str, ...]) -> str:
    more = f" +{len(names) - _SHOWN_CLASSES}" if len(names) > _SHOWN_CLASSES else ""
    return (", ".join(names[:_SHOWN_CLASSES]) or "nothing") + more


def _centre(tile: Picture, image: Picture, side: int, top: int) -> None:
    y, x = top + (side - image.shape[0]) // 2, (side - image.shape[1]) // 2
    tile[y : y + image.shape[0], x : x + image.shape[1]] = image


def _mark(tile: Picture, x: int, base: int, right: bool) -> None:
    """A tick or a cross, for readers who do not tell green from red."""
    colour: Colour = RIGHT if right else WRONG
    strokes = [[(-4, -4), (-1, -1), (5, -8)]] if right else [[(-4, -8), (4, 0)], [(-4, 0), (4, -8)]]
    for stroke in strokes:
        points = np.array([(x + dx, base + dy) for dx, dy in stroke], dtype=np.int32)
        cv2.polylines(tile, [points], False, colour, 2, cv2.LINE_AA)
