"""Cityscapes instance average precision, and its files of predictions. For the IoU of its classes see ``semantic``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pet.evaluation.evaluator import Columns, Inputs
from pet.evaluation.instances import InstanceEvaluator, Instances, Rle, decode_mask, encode_masks, write_bytes
from pet.evaluation.proposals import IOUS
from pet.evaluation.semantic import IGNORED, encode_png, picture_stems
from pet.evaluation.tables import ClassNumbers, nan_mean, result_line
from pet.evaluation.truth import InstanceTruth

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
MIN_PIXELS = 100


@dataclass(frozen=True)
class CityPicture:
    """Overlaps of the predictions of one picture with its truth.

    Attributes:
        labels: (G,) class of each region of the truth.
        pixels: (G,) its pixels.
        group: (G,) whether it is a group, whose instances are not told apart.
        predicted: (P,) class of each prediction.
        scores: (P,).
        sizes: (P,) pixels of each prediction.
        void: (P,) those of them that are void in the truth.
        shared: (P, G) pixels in common.
    """

    labels: Ints
    pixels: Ints
    group: Bools
    predicted: Ints
    scores: Floats
    sizes: Ints
    void: Ints
    shared: Ints


def city_picture(
    truth: tuple[Sequence[Rle], NDArray[Any], NDArray[Any]],
    predicted: tuple[Sequence[Rle], NDArray[Any], NDArray[Any]],
    void: Rle | None = None,
) -> CityPicture:
    """Count the pixels that masks have in common.

    Args:
        truth: G masks, their classes, and whether each is a group.
        predicted: P masks, their classes and scores; those without a pixel are left out.
        void: mask of the pixels that are not judged.
    """
    masks, labels, group = truth
    sizes = _areas(predicted[0])
    kept = np.flatnonzero(sizes)
    found = [predicted[0][p] for p in kept.tolist()]
    return CityPicture(
        np.asarray(labels, np.int64),
        _areas(masks),
        np.asarray(group, bool),
        np.asarray(predicted[1], np.int64)[kept],
        np.asarray(predicted[2], np.float64)[kept],
        sizes[kept],
        _shared(found, [void])[:, 0] if void is not None else np.zeros(len(kept), np.int64),
        _shared(found, masks),
    )


def _areas(masks: Sequence[Rle]) -> Ints:
    from pycocotools import mask as coco_mask

    return np.array([int(coco_mask.area(mask)) for mask in masks], dtype=np.int64)


def _shared(first: Sequence[Rle], second: Sequence[Rle]) -> Ints:
    """(N, M) pixels that masks of the one and the other have in common."""
    from pycocotools import mask as coco_mask

    if not len(first) or not len(second):
        return np.zeros((len(first), len(second)), dtype=np.int64)
    # For crowds COCO divides by the first mask alone: times its area it is a whole number.
    parts = np.asarray(coco_mask.iou(list(first), list(second), [1] * len(second)))
    shared: Ints = np.rint(parts * _areas(first)[:, None]).astype(np.int64)
    return shared


def cityscapes_average_precision(
    pictures: Sequence[CityPicture], classes: int, ious: Sequence[float] = IOUS, min_pixels: int = MIN_PIXELS
) -> Floats:
    """Average precision of each class at each overlap, 0 to 1; NaN for a class without an instance to find.

    An instance of at least ``min_pixels`` is found by a prediction of its class that overlaps it by more than the threshold;
    further ones are mistakes. A prediction that overlaps nothing so much is a mistake unless the part of it that lies on
    void, groups and small instances of its class exceeds the threshold.

    Args:
        pictures: of the whole data set.
        classes: C.
        ious: overlaps.
        min_pixels: smaller instances need not be found.

    Returns:
        (C, ious).
    """
    table = np.full((classes, len(ious)), np.nan)
    for c in range(classes):
        parts = [_of_class(picture, c, min_pixels) for picture in pictures]
        for column, iou in enumerate(ious):
            table[c, column] = _average_precision([_judge(part, iou) for part in parts])
    return table


@dataclass(frozen=True)
class _Part:
    """One class of one picture: IoU (P, G), scores (P,), part of each prediction that is not judged (P,), to be found (G,)."""

    overlaps: Floats
    scores: Floats
    ignored: Floats
    wanted: Bools


def _of_class(picture: CityPicture, c: int, min_pixels: int) -> _Part:
    own, seen = picture.labels == c, picture.predicted == c
    shared, pixels, sizes = picture.shared[seen][:, own], picture.pixels[own], picture.sizes[seen]
    group, small = picture.group[own], picture.pixels[own] < min_pixels
    # As in the reference: what is small and a group counts twice.
    unjudged = picture.void[seen] + shared[:, group].sum(axis=1) + shared[:, small].sum(axis=1)
    union = sizes[:, None] + pixels[None, :] - shared
    return _Part(shared / np.maximum(union, 1), picture.scores[seen], unjudged / sizes, ~group & ~small)


def _judge(part: _Part, iou: float) -> tuple[list[float], list[bool], int]:
    """Scores of what counts, whether each is right, and how many instances are missed."""
    scores: list[float] = []
    right: list[bool] = []
    used = np.zeros(len(part.scores), dtype=bool)
    missed = 0
    for column in np.flatnonzero(part.wanted):
        found = np.flatnonzero((part.overlaps[:, column] > iou) & ~used)
        used[found] = True
        missed += not len(found)
        ordered = sorted(part.scores[found].tolist(), reverse=True)
        scores += ordered
        right += [place == 0 for place in range(len(ordered))]
    lost = ~(part.overlaps > iou).any(axis=1) & (part.ignored <= iou)
    scores += part.scores[lost].tolist()
    return scores, right + [False] * int(lost.sum()), missed


def _average_precision(judged: Sequence[tuple[list[float], list[bool], int]]) -> float:
    """Area under precision over recall by the trapezoidal rule of the reference, with precision 1 at recall 0."""
    missed = sum(count for _, _, count in judged)
    scores = np.array([score for part, _, _ in judged for score in part])
    right = np.array([hit for _, part, _ in judged for hit in part], dtype=bool)
    wanted = int(right.sum()) + missed
    if not wanted:
        return math.nan
    if not len(scores):
        return 0.0
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(right[order])
    # One point for each score that occurs: the last place of equal ones.
    ends = np.flatnonzero(np.diff(scores[order], append=-np.inf))
    precision = np.concatenate([[1.0], hits[ends] / (ends + 1)])
    recall = np.concatenate([[0.0], hits[ends] / wanted])
    before = np.concatenate([[0.0], recall[:-1]])
    after = np.concatenate([recall[1:], recall[-1:]])
    return float((precision * (after - before)).sum() / 2)


class CityscapesEvaluator(InstanceEvaluator):
    """``cityscapes_AP`` (mean over overlaps 0.5 to 0.95 and classes) and ``cityscapes_AP50``, percent.

    Groups are the crowd regions of the data set. Void is what its ``void_mask(index)``, (H, W) bool, marks, or what its
    semantic map does not judge; with neither nothing is void.

    Args:
        truth: data set with masks; its category ids are those of Cityscapes (24 to 33).
        min_pixels: smaller instances need not be found.
        classwise: ``table`` has a row for each class.
        predictions_only: keep the detections for ``write`` and compute nothing.

    Attributes:
        ap: after ``evaluate`` on rank 0, (C, 10) percent.
    """

    def __init__(
        self,
        truth: InstanceTruth,
        *,
        min_pixels: int = MIN_PIXELS,
        classwise: bool = True,
        predictions_only: bool = False,
    ) -> None:
        self.min_pixels, self.classwise = min_pixels, classwise
        super().__init__(truth, () if predictions_only else ("cityscapes",), ["masks"], ["masks"])

    def reset(self) -> None:
        """Forget all predictions and results."""
        super().reset()
        self.ap: Floats | None = None

    def collect(self, inputs: Inputs, outputs: Any) -> Columns:
        """The detections of each picture and what they have in common with its truth."""
        found: Sequence[Mapping[str, Any]] = self._outputs(outputs)
        rows = self._read(inputs, found)
        kept: Columns = {"instances": rows}
        if self.metrics:
            kept["overlaps"] = [self._overlaps(i, row) for i, row in zip(inputs.ids.tolist(), rows, strict=False)]
        return kept

    def _overlaps(self, index: int, row: Instances) -> CityPicture:
        truth = self.truth.annotations(index)
        masks = truth.masks.to_rles() if truth.masks is not None else []
        regions = masks, truth.labels, truth.crowd | truth.difficult
        void = self._void(index)
        rle = encode_masks(void[None])[0] if void is not None else None
        return city_picture(regions, (row.rles or [], row.labels, row.scores), rle)

    def _void(self, index: int) -> Bools | None:
        truth: Any = self.truth
        if hasattr(truth, "void_mask"):
            return np.asarray(truth.void_mask(index), dtype=bool)
        return truth.semseg(index) == IGNORED if "semseg" in truth.kinds else None

    def compute(self) -> dict[str, float]:
        """The metrics; fills ``ap``."""
        if not self.metrics:
            return {}
        classes = len(self.truth.class_names)
        self.ap = 100 * cityscapes_average_precision(self.columns["overlaps"], classes, IOUS, self.min_pixels)
        self.tell_no_truth("instances", int(np.isnan(self.ap[:, 0]).sum()), classes)
        return {"cityscapes_AP": nan_mean(self.ap), "cityscapes_AP50": nan_mean(self.ap[:, 0])}

    def result_names(self) -> list[str]:
        """What ``evaluate`` returns, known before."""
        return ["cityscapes_AP", "cityscapes_AP50"] if self.metrics else []

    def class_tables(self) -> dict[str, ClassNumbers]:
        """AP and AP50 of each class."""
        if self.ap is None:
            return {}
        columns = {"AP": self.ap.mean(axis=1), "AP50": self.ap[:, 0]}
        return {"cityscapes": ClassNumbers(self.truth.class_names, columns)}

    def table(self) -> str:
        """The results and numbers of the classes as lines of text, for rank 0 after ``evaluate``."""
        if self.ap is None:
            return self.no_metrics()
        rows = self.class_tables()["cityscapes"].lines() if self.classwise else []
        return "\n".join([result_line(self.results), *rows])

    def write(self, prefix: str | Path, folder: str | Path | None = None) -> list[Path]:
        """Write ``<prefix>.cityscapes/<picture>_pred.txt`` and a PNG for each instance, on rank 0 after ``evaluate``.

        A line of the text is: name of the PNG, id of the class in Cityscapes, score. The PNG is 255 inside the instance.

        Args:
            prefix: of the name of the folder.
            folder: instead of ``<prefix>.cityscapes``.

        Returns:
            The folder.
        """
        folder, names = Path(folder or f"{prefix}.cityscapes"), picture_stems(self.truth)
        for index, row in zip(self.expected_ids, self.detections(), strict=True):
            lines = []
            ids = [int(self.truth.category_ids[c]) for c in row.labels]
            for number, (rle, id, score) in enumerate(zip(row.rles or [], ids, row.scores.tolist(), strict=True)):
                name = f"{names[index]}_pred_{number:03d}_{id}.png"
                write_bytes(folder / name, encode_png(255 * decode_mask(rle)))
                lines.append(f"{name} {id} {score:.9g}\n")  # nine digits give the same float32 back
            write_bytes(folder / f"{names[index]}_pred.txt", "".join(lines).encode())
        return [folder]
