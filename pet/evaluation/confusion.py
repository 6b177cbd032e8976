"""Confusion matrix of a detector: what each object was taken for, what was missed and what was made up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pet.evaluation.boxes import box_iou
from pet.evaluation.instances import Instances
from pet.evaluation.truth import InstanceRows, InstanceTruth

Bools = NDArray[np.bool_]
BACKGROUND = "background"


def detection_confusion(
    truth: InstanceTruth, detections: Sequence[Instances], *, iou: float = 0.5, score: float = 0.3
) -> NDArray[np.int64]:
    """Counts of detections against objects, by boxes; classes do not matter for who is compared with whom.

    In each picture the pair of detection and object with the largest overlap is matched again and again, each of them once, until
    none reaches ``iou``. An object that is left over was missed (last column), a detection that is left over was made up (last
    row). Crowd regions and difficult objects are not judged, and neither are detections that lie on them and match nothing else.

    Args:
        truth: data set of C classes.
        detections: of each picture, in the order of the data set; e.g. ``CocoEvaluator.detections()``.
        iou: overlap that is needed, above 0.
        score: detections below it are left out.

    Returns:
        (C + 1, C + 1) counts: rows are the truth, columns the predictions, the last ones background. A row sums to the objects of
        its class.

    Raises:
        ValueError: ``iou`` or ``score`` is not between 0 and 1, or there is not one entry of ``detections`` a picture.
    """
    if not 0 < iou <= 1 or not 0 <= score <= 1:
        raise ValueError(f"iou is {iou:g} and score {score:g}; iou must be above 0, and neither above 1 or below 0")
    if len(detections) != len(truth):
        raise ValueError(f"{len(detections)} entries of detections for the {len(truth)} pictures of {truth.name}")
    classes = len(truth.class_names)
    counts = np.zeros((classes + 1, classes + 1), np.int64)
    for index, found in enumerate(detections):
        rows, columns = _judge(truth.annotations(index), found, iou, score, background=classes)
        np.add.at(counts, (rows, columns), 1)
    return counts


def _judge(
    objects: InstanceRows, found: Instances, iou: float, score: float, background: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cells of the matrix, one for each object and each detection without an object."""
    shown = found.scores >= score
    boxes, labels = found.boxes[shown], found.labels[shown]
    skipped = objects.crowd | objects.difficult
    wanted = objects.labels[~skipped]
    pairs = match_boxes(box_iou(boxes, objects.boxes[~skipped]), iou)
    matched = np.array([detection for detection, _ in pairs], np.int64)
    hit = np.array([item for _, item in pairs], np.int64)
    rest = np.setdiff1d(np.arange(len(boxes)), matched)
    rest = rest[~_lie_on(boxes[rest], objects, iou)]
    missed = np.setdiff1d(np.arange(len(wanted)), hit)
    rows = [wanted[hit], wanted[missed], np.full(len(rest), background)]
    columns = [labels[matched], np.full(len(missed), background), labels[rest]]
    return np.concatenate(rows).astype(np.int64), np.concatenate(columns).astype(np.int64)


def match_boxes(ious: NDArray[Any], threshold: float) -> list[tuple[int, int]]:
    """Pairs (row, column) with the largest values first, each row and column once; of equal ones the lowest row, then column.

    Args:
        ious: (N, M).
        threshold: the smallest value of a pair.
    """
    rows, columns = np.nonzero(ious >= threshold)
    order = np.argsort(-ious[rows, columns], kind="stable")
    free_rows, free_columns = np.ones(ious.shape[0], bool), np.ones(ious.shape[1], bool)
    pairs: list[tuple[int, int]] = []
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if free_rows[row] and free_columns[column]:
            free_rows[row] = free_columns[column] = False
            pairs.append((row, column))
    return pairs


def _lie_on(boxes: NDArray[Any], objects: InstanceRows, iou: float) -> Bools:
    """(K,) whether a box lies on an object that is not judged; on a crowd, which is larger, by the share of the box."""
    on_difficult = (box_iou(boxes, objects.boxes[objects.difficult]) >= iou).any(axis=1)
    on_crowd = (_share_inside(boxes, objects.boxes[objects.crowd]) >= iou).any(axis=1)
    return np.asarray(on_difficult | on_crowd)


def _share_inside(boxes: NDArray[Any], regions: NDArray[Any]) -> NDArray[np.float64]:
    """(K, R) share of each box that lies in each region; 0 for an empty box."""
    low = np.maximum(boxes[:, None, :2], regions[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], regions[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2).astype(np.float64)
    areas = np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(axis=1)[:, None]
    shares: NDArray[np.float64] = np.divide(shared, areas, out=np.zeros_like(shared), where=areas > 0)
    return shares
