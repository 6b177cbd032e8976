"""PASCAL VOC average precision, and recall of the best boxes of each picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from pet.evaluation.boxes import box_iou
from pet.evaluation.evaluator import Columns, Inputs
from pet.evaluation.instances import InstanceEvaluator, Instances, write_bytes
from pet.evaluation.proposals import NUMBERS, box_recalls
from pet.evaluation.tables import ClassNumbers, nan_mean, result_line
from pet.evaluation.truth import InstanceTruth
from pet.utils.suggest import did_you_mean

Floats = NDArray[np.float64]
METRICS = ("mAP", "recall")
Method = Literal["area", "11points"]


@dataclass(frozen=True)
class VocPicture:
    """Truth and detections of one class in one picture.

    Attributes:
        truths: (G, 4) x1 y1 x2 y2.
        difficult: (G,) bool, objects that are not to be judged.
        boxes: (P, 4).
        scores: (P,).
    """

    truths: NDArray[Any]
    difficult: NDArray[np.bool_]
    boxes: NDArray[Any]
    scores: NDArray[Any]


def voc_average_precision(
    pictures: Sequence[VocPicture], iou: float = 0.5, eleven_points: bool = False, inclusive: bool = False
) -> float:
    """Average precision of one class, 0 to 1; NaN if there is no object to find.

    Every detection is compared with the object it overlaps most. It is right if that overlap is at least ``iou`` and the
    object was not found by a higher score (of equal ones the earlier); it counts neither way if the object is difficult.

    Args:
        pictures: one entry a picture.
        iou: overlap that is needed.
        eleven_points: VOC 2007, mean precision at recall 0, 0.1 ... 1; otherwise (VOC 2010 and later) the area under the
            precision that never rises with recall.
        inclusive: see ``box_iou``.
    """
    wanted = sum(int((~picture.difficult).sum()) for picture in pictures)
    if not wanted:
        return math.nan
    scores, overlaps, objects, difficult = _best_objects(pictures, inclusive)
    order = np.argsort(-scores, kind="stable")
    overlaps, objects, difficult = overlaps[order], objects[order], difficult[order]
    hit = overlaps >= iou
    counted = ~(hit & difficult)
    right = np.zeros(len(order), dtype=bool)
    candidates = np.flatnonzero(hit & ~difficult)
    right[candidates[np.unique(objects[candidates], return_index=True)[1]]] = True
    found = np.cumsum(right[counted])
    recall, precision = found / wanted, found / np.arange(1, len(found) + 1)
    return _eleven_points(recall, precision) if eleven_points else _area(recall, precision)


def _best_objects(pictures: Sequence[VocPicture], inclusive: bool) -> tuple[Floats, Floats, NDArray[np.int64], NDArray[np.bool_]]:
    """Of all detections the score, and of the object each overlaps most the IoU, a number, and whether it is difficult."""
    scores, overlaps, objects, difficult = [np.empty(0)], [np.empty(0)], [np.empty(0, int)], [np.empty(0, bool)]
    before = 0
    for picture in pictures:
        count = len(picture.scores)
        scores.append(np.asarray(picture.scores, dtype=np.float64))
        best = np.zeros(count, dtype=int)
        value, hard = np.zeros(count), np.zeros(count, dtype=bool)
        if len(picture.truths) and count:
            ious = box_iou(picture.boxes, picture.truths, inclusive)
            best = ious.argmax(axis=1)
            value, hard = ious.max(axis=1), picture.difficult[best]
        overlaps.append(value)
        objects.append(best + before)
        difficult.append(hard)
        before += len(picture.truths)
    return np.concatenate(scores), np.concatenate(overlaps), np.concatenate(objects), np.concatenate(difficult)


def _eleven_points(recall: Floats, precision: Floats) -> float:
    # As every Python tool has it: 6 * 0.1 is a little above 0.6, so a recall of exactly 0.6 does not reach that point.
    return float(np.mean([precision[recall >= tenth * 0.1].max(initial=0.0) for tenth in range(11)]))


def _area(recall: Floats, precision: Floats) -> float:
    highest = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall, prepend=0.0) * highest).sum())


class VocEvaluator(InstanceEvaluator):
    """``mAP`` with ``AP50`` and so on, and ``recall@100@0.5`` and so on, percent; NaN where there is no ground truth.

    ``mAP`` is the mean over ``thresholds`` of the mean over classes. ``recall`` reads ``outputs["proposals"]``, or
    ``outputs["instances"]`` where a model makes detections, and does not regard classes.

    Boxes of Pet have exclusive ends (width = x2 - x1), which measures the same widths as the inclusive pixels of VOC files
    (width = x2 - x1 + 1); so results equal those of the VOC tools without ``inclusive``.

    Args:
        truth: data set with boxes; difficult and crowd objects are not judged.
        metrics: some of mAP, recall.
        thresholds: overlaps that are needed.
        method: AP is the "area" under the curve (VOC 2010 and later), or a mean at "11points" (VOC 2007).
        inclusive: add 1 to widths and heights all the same, as old code bases did.
        numbers: boxes a picture, for ``recall``.
        classwise: ``table`` has a row for each class, of many the 30 worst; ``ap`` has all.
        predictions_only: keep the detections for ``write`` and compute nothing.

    Attributes:
        ap: after ``evaluate`` on rank 0, (C, thresholds) percent.
    """

    def __init__(
        self,
        truth: InstanceTruth,
        metrics: Sequence[str] = ("mAP",),
        *,
        thresholds: Sequence[float] = (0.5,),
        method: Method = "area",
        inclusive: bool = False,
        numbers: Sequence[int] = NUMBERS,
        classwise: bool = True,
        predictions_only: bool = False,
    ) -> None:
        for metric in metrics:
            if metric not in METRICS:
                raise ValueError(
                    f"no VOC metric is named '{metric}'.{did_you_mean(metric, METRICS)} Allowed: {', '.join(METRICS)}"
                )
        if method not in get_args(Method):
            raise ValueError(f"method is '{method}'; it must be one of {', '.join(get_args(Method))}")
        if not thresholds or min(thresholds) <= 0 or max(thresholds) > 1:
            raise ValueError(f"thresholds is {tuple(thresholds)}; it must name overlaps above 0 and at most 1, e.g. (0.5,)")
        if not numbers or min(numbers) < 1:
            raise ValueError(f"numbers is {tuple(numbers)}; it must name counts of at least 1, e.g. {NUMBERS}")
        self.ious, self.numbers = tuple(thresholds), tuple(sorted(numbers))
        self.eleven_points, self.inclusive, self.classwise = method == "11points", inclusive, classwise
        super().__init__(truth, () if predictions_only else metrics, ["boxes"])

    def reset(self) -> None:
        """Forget all predictions and results."""
        super().reset()
        self.ap: Floats | None = None
        self._counts: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None

    def collect(self, inputs: Inputs, outputs: Any) -> Columns:
        """The detections of each picture, or only proposals where a model makes nothing else."""
        found: Sequence[Mapping[str, Any]]
        if "mAP" not in self.metrics and "proposals" in outputs:
            found, self.source = [{"boxes": one["boxes"], "scores": one["scores"]} for one in outputs["proposals"]], "proposals"
        else:
            found = self._outputs(outputs)
        return {"instances": self._read(inputs, found)}

    def compute(self) -> dict[str, float]:
        """The chosen metrics; fills ``ap``."""
        results: dict[str, float] = {}
        if "mAP" in self.metrics:
            results |= self._precisions()
        if "recall" in self.metrics:
            results |= self._recalls()
        return results

    def result_names(self) -> list[str]:
        """What ``evaluate`` returns, known before."""
        of_metric = {
            "mAP": ["mAP", *map(_ap_name, self.ious)],
            "recall": [f"recall@{number}@{iou:g}" for number in self.numbers for iou in self.ious],
        }
        return [name for metric in METRICS if metric in self.metrics for name in of_metric[metric]]

    def _precisions(self) -> dict[str, float]:
        classes = len(self.truth.class_names)
        pictures = self._pictures()
        how = (self.eleven_points, self.inclusive)
        table = np.array([[voc_average_precision(of_class, iou, *how) for iou in self.ious] for of_class in pictures])
        self.ap = 100 * table.reshape(classes, len(self.ious))
        truths = np.array([sum(int((~p.difficult).sum()) for p in of_class) for of_class in pictures], dtype=np.int64)
        self._counts = truths, np.array([sum(len(p.scores) for p in of_class) for of_class in pictures], dtype=np.int64)
        self.tell_no_truth("boxes", int((truths == 0).sum()), classes)
        means = [nan_mean(column) for column in self.ap.T]
        return {"mAP": nan_mean(np.array(means)), **{_ap_name(iou): mean for iou, mean in zip(self.ious, means, strict=True)}}

    def _pictures(self) -> list[list[VocPicture]]:
        """By class, the pictures with objects or detections of it."""
        found: list[list[VocPicture]] = [[] for _ in self.truth.class_names]
        for index, row in zip(self.expected_ids, self.detections(), strict=True):
            truth = self.truth.annotations(index)
            skipped = truth.difficult | truth.crowd
            for c in np.unique(np.concatenate([truth.labels, row.labels])).tolist():
                own, seen = truth.labels == c, row.labels == c
                found[c].append(VocPicture(truth.boxes[own], skipped[own], row.boxes[seen], row.scores[seen]))
        return found

    def _recalls(self) -> dict[str, float]:
        rows = [self.truth.annotations(index) for index in self.expected_ids]
        wanted = [row.boxes[~(row.crowd | row.difficult)] for row in rows]
        table = 100 * box_recalls(wanted, [row.boxes for row in self.detections()], self.numbers, self.ious, self.inclusive)
        if np.isnan(table).all():
            self.tell_no_truth("boxes", len(self.truth.class_names), len(self.truth.class_names))
        names = [f"recall@{number}@{iou:g}" for number in self.numbers for iou in self.ious]
        return dict(zip(names, table.ravel().tolist(), strict=True))

    def class_tables(self) -> dict[str, ClassNumbers]:
        """AP at each threshold, objects to find and detections of each class."""
        if self.ap is None or self._counts is None:
            return {}
        columns: dict[str, NDArray[Any]] = {_ap_name(iou): self.ap[:, i] for i, iou in enumerate(self.ious)}
        columns |= {"truths": self._counts[0], "detections": self._counts[1]}
        return {"mAP": ClassNumbers(self.truth.class_names, columns)}

    def table(self) -> str:
        """The results and numbers of the classes as lines of text, for rank 0 after ``evaluate``."""
        lines = [result_line(self.results)] if self.results else []
        for numbers in self.class_tables().values() if self.classwise else ():
            lines += numbers.lines()
        return "\n".join(lines) or self.no_metrics()

    def write(self, prefix: str | Path) -> list[Path]:
        """Write ``<prefix>_<class>.txt`` for each class, on rank 0 after ``evaluate``.

        A line is: picture, score, x1, y1, x2, y2 in the pixels of VOC, which count from 1 and end inclusively. A typical
        prefix is ``results/comp4_det_test``.
        """
        rows = list(zip(self.expected_ids, self.detections(), strict=True))
        names = {index: Path(self.truth.path(index)).stem for index, _ in rows}
        written = []
        for c, name in enumerate(self.truth.class_names):
            lines = [line for index, row in rows for line in _lines(names[index], row, c)]
            written.append(write_bytes(f"{prefix}_{name}.txt", "".join(lines).encode()))
        return written


def _lines(name: str, row: Instances, c: int) -> list[str]:
    own = row.labels == c
    boxes = row.boxes[own] + np.array([1, 1, 0, 0], dtype=np.float64)
    return [f"{name} {s:.6f} {' '.join(f'{x:.3f}' for x in box)}\n" for s, box in zip(row.scores[own], boxes, strict=True)]


def _ap_name(iou: float) -> str:
    """AP50 for 0.5, AP75 for 0.75, AP12.5 for 0.125."""
    return f"AP{100 * iou:g}"
