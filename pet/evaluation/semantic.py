"""Semantic segmentation: IoU and accuracy of pixels, from counts of pairs of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pet.evaluation.evaluator import Columns, DatasetEvaluator, Inputs, short_list
from pet.evaluation.instances import to_numpy, write_bytes
from pet.evaluation.tables import ClassNumbers, nan_mean, result_line
from pet.evaluation.truth import SemanticTruth, check_classes, check_kind
from pet.utils.files import unique_stems
from pet.utils.logger import log_once

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
NAMES = ("mIoU", "aAcc", "mAcc", "fwIoU")
IGNORED = 255


@dataclass(frozen=True)
class SemanticScores:
    """Numbers of a confusion matrix, percent.

    Attributes:
        values: mIoU (mean IoU of the classes), aAcc (all pixels that are right), mAcc (mean accuracy of the classes), fwIoU
            (IoU weighted by the pixels of the truth). Means leave out what is NaN.
        iou: (C,) NaN for a class that is neither in the truth nor predicted.
        accuracy: (C,) part of the class's pixels that are right; NaN for a class that is not in the truth.
        pixels: (C,) of the truth.
    """

    values: dict[str, float]
    iou: Floats
    accuracy: Floats
    pixels: Ints


def pixel_confusion(truth: NDArray[Any], predicted: NDArray[Any], classes: int) -> Ints:
    """(C, C) counts of the pixels of one picture, row = truth; pixels whose truth is 255 are left out.

    Args:
        truth: class of each pixel, 0 to C - 1, or 255.
        predicted: class of each pixel, 0 to C - 1, of the same shape.
        classes: C.

    Raises:
        ValueError: the shapes differ, or a class is out of range.
    """
    if truth.shape != predicted.shape:
        raise ValueError(f"the prediction has shape {predicted.shape}, the truth {truth.shape}; they must be equal")
    judged = truth != IGNORED
    own, other = truth[judged].astype(np.int64), predicted[judged].astype(np.int64)
    for what, values in (("truth", own), ("prediction", other)):
        if len(values) and (values.min() < 0 or values.max() >= classes):
            wrong = int(values.min()) if values.min() < 0 else int(values.max())
            raise ValueError(f"the {what} has class {wrong}; classes are 0 to {classes - 1}")
    counts: Ints = np.bincount(own * classes + other, minlength=classes * classes).reshape(classes, classes)
    return counts


def semantic_scores(confusion: NDArray[Any]) -> SemanticScores:
    """IoU and accuracy from (C, C) counts, row = truth."""
    right = confusion.diagonal().astype(np.float64)
    pixels, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    iou, accuracy = _percent(right, pixels + predicted - right), _percent(right, pixels)
    seen = pixels > 0
    total = pixels.sum()
    values = {
        "mIoU": nan_mean(iou),
        "aAcc": float(_percent(right.sum(), total)),
        "mAcc": nan_mean(accuracy),
        "fwIoU": float((iou[seen] * pixels[seen]).sum() / total) if total else float("nan"),
    }
    return SemanticScores(values, iou, accuracy, pixels.astype(np.int64))


def _percent(part: Any, whole: Any) -> Floats:
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    result: Floats = np.divide(100 * part, whole, out=np.full_like(whole, np.nan), where=whole > 0)
    return result


class SemanticEvaluator(DatasetEvaluator):
    """``mIoU``, ``aAcc``, ``mAcc``, ``fwIoU``, percent; NaN where there is no ground truth.

    Reads ``outputs["semseg"]``, one (H, W) map a picture at its original size. Of each picture only the pairs of classes
    that occur are kept, with their counts, so the memory does not depend on its size.

    Args:
        truth: data set with the class of each pixel; image ids are its indices.
        classwise: ``table`` has a row for each class, of many the 30 worst; ``scores`` has all.
        keep_predictions: keep the maps, too, as PNG, for ``write``.
        predictions_only: keep the maps and compute nothing: annotations are not needed.

    Attributes:
        confusion: after ``evaluate`` on rank 0, (C, C) pixels, row = truth.
        scores: after ``evaluate`` on rank 0, numbers of each class.
    """

    def __init__(
        self, truth: SemanticTruth, *, classwise: bool = True, keep_predictions: bool = False, predictions_only: bool = False
    ) -> None:
        self.class_names = list(truth.semseg_names or truth.class_names)
        check_classes(truth, self.class_names, "classes of pixels")
        if not predictions_only:
            check_kind(truth, "semseg", "mIoU")
        self.truth, self.classwise = truth, classwise
        self.keep_predictions, self.predictions_only = keep_predictions or predictions_only, predictions_only
        super().__init__(truth.name, range(len(truth)))

    def reset(self) -> None:
        """Forget all predictions and results."""
        super().reset()
        self.confusion: Ints | None = None
        self.scores: SemanticScores | None = None

    def collect(self, inputs: Inputs, outputs: Any) -> Columns:
        """Pairs of classes with their counts, of each picture."""
        maps = [to_numpy(one) for one in semantic_maps(self.name, outputs)]
        indices = inputs.ids.tolist()
        kept: Columns = {}
        if not self.predictions_only:
            kept["pairs"] = [self._pairs(index, one) for index, one in zip(indices, maps, strict=False)]
        if self.keep_predictions:
            ids = class_ids(self.truth)
            kept["png"] = [encode_png(ids[one]) for one in maps]
        return kept

    def _pairs(self, index: int, predicted: NDArray[Any]) -> tuple[Ints, Ints]:
        try:
            counts = pixel_confusion(self.truth.semseg(index), predicted, len(self.class_names)).ravel()
        except ValueError as error:
            raise ValueError(f"{self.name}, picture {self.truth.annotations(index).file}: {error}") from error
        places = np.flatnonzero(counts)
        return places, counts[places]

    def compute(self) -> dict[str, float]:
        """The metrics; fills the attributes."""
        if self.predictions_only:
            return {}
        classes = len(self.class_names)
        total = np.zeros(classes * classes, dtype=np.int64)
        for places, counts in self.columns["pairs"]:
            total[places] += counts
        self.confusion = total.reshape(classes, classes)
        self.scores = semantic_scores(self.confusion)
        absent = [self.class_names[c] for c in np.flatnonzero(np.isnan(self.scores.iou)).tolist()]
        if absent:
            log_once(
                f"{self.name}: {len(absent)} of {classes} classes are neither in the ground truth nor predicted "
                f"({short_list(absent)}); their IoU is NaN and means leave them out"
            )
        return dict(self.scores.values)

    def result_names(self) -> list[str]:
        """What ``evaluate`` returns, known before."""
        return [] if self.predictions_only else list(NAMES)

    def class_tables(self) -> dict[str, ClassNumbers]:
        """IoU, accuracy and pixels of each class."""
        if self.scores is None:
            return {}
        columns = {"IoU": self.scores.iou, "accuracy": self.scores.accuracy, "pixels": self.scores.pixels}
        return {"semseg": ClassNumbers(self.class_names, columns)}

    def table(self) -> str:
        """The results and numbers of the classes as lines of text, for rank 0 after ``evaluate``."""
        if self.scores is None:
            return self.no_metrics()
        rows = self.class_tables()["semseg"].lines() if self.classwise else []
        return "\n".join([result_line(self.scores.values), *rows])

    def write(self, prefix: str | Path) -> list[Path]:
        """Write ``<prefix>.semseg/<picture>.png`` with the id in files of the class of each pixel, on rank 0 after ``evaluate``.

        Returns:
            The folder.

        Raises:
            ValueError: the maps were not kept.
        """
        if "png" not in self.columns:
            raise ValueError(f"{self.name}: no maps were kept to write; construct the evaluator with keep_predictions=True")
        names, folder = picture_stems(self.truth), Path(f"{prefix}.semseg")
        for index, png in zip(self.expected_ids, self.columns["png"], strict=True):
            write_bytes(folder / f"{names[index]}.png", png)
        return [folder]


def class_ids(truth: SemanticTruth) -> Ints:
    """What files say for each class of pixels: its id, or its index where there are no ids."""
    classes = len(truth.semseg_names or truth.class_names)
    choices = (truth.semseg_ids, truth.category_ids, range(classes))
    return np.array(next(ids for ids in choices if len(ids) == classes))


def semantic_maps(name: str, outputs: Mapping[str, Any]) -> Sequence[Any]:
    """The class maps among the outputs of a model.

    Raises:
        ValueError: there are none.
    """
    if "semseg" not in outputs:
        raise ValueError(
            f"{name}: the model returns {short_list(sorted(outputs)) or 'nothing'}, but its evaluation needs 'semseg'; choose "
            "EVAL.METRICS that fit the heads of the model"
        )
    maps: Sequence[Any] = outputs["semseg"]
    return maps


def picture_stems(truth: Any) -> list[str]:
    """A file name without suffix for each picture: that of the picture, with the folder if needed to tell them apart."""
    return unique_stems([truth.path(index) for index in range(len(truth))])


def encode_png(values: NDArray[Any]) -> bytes:
    """A PNG file of (H, W) whole numbers below 65,536 (8 or 16 bit grey), or of (H, W, 3) RGB bytes."""
    import cv2

    if values.ndim == 3:
        image = np.ascontiguousarray(values[..., ::-1], dtype=np.uint8)
    else:
        image = values.astype(np.uint8 if values.max(initial=0) <= 255 else np.uint16)
    done, data = cv2.imencode(".png", image)
    if not done:
        raise ValueError(f"an array of shape {values.shape} cannot be written as PNG")
    content: bytes = data.tobytes()
    return content
