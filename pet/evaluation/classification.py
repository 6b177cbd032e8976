"""Classification metrics as functions of arrays; everything in percent is 0 to 100.

A number that has no meaning (recall of a class without ground truth, a mean over no class) is NaN. Means over classes
leave such classes out; ``pet.evaluation.class_evaluators`` logs which and why.

Single label: ``scores`` (N, C) floating point, ``labels`` (N,) integers 0 to C - 1.
Multi-label: ``scores`` (N, C) floating point, ``targets`` (N, C) with 1 present, 0 absent, negative: not judged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
Bools = NDArray[np.bool_]
Average = Literal["macro", "micro", "none"]


@dataclass(frozen=True)
class ClassTable:
    """Numbers of every class.

    Attributes:
        precision: (C,) percent; 0 for a class that was never predicted.
        recall: (C,) percent.
        f1: (C,) percent, the harmonic mean of both; 0 when both are 0.
        support: (C,) images (or, multi-label, positive marks) of the ground truth. Where it is 0 the rest is NaN.
    """

    precision: Floats
    recall: Floats
    f1: Floats
    support: Ints


def label_ranks(scores: Floats, labels: Ints) -> Ints:
    """Place of the label's score in its row, 0 for the highest; the label is in the top k when this is below k.

    Of equal scores the lower class index comes first, so a constant output is not a perfect one. NaN counts as
    higher than anything and a label whose own score is NaN takes place C: a broken model is never right.

    Args:
        scores: (N, C).
        labels: (N,), 0 to C - 1.

    Returns:
        (N,) int64, 0 to C.
    """
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    earlier = np.arange(scores.shape[1]) < labels[:, None]
    ahead = (scores > own) | np.isnan(scores) | ((scores == own) & earlier)
    ranks: Ints = np.where(np.isnan(own[:, 0]), scores.shape[1], ahead.sum(axis=1))
    return ranks


def topk_accuracy(ranks: Ints, k: int, label_scores: Floats | None = None, threshold: float | None = None) -> float:
    """Percentage of images whose label is among the ``k`` highest scores.

    Args:
        ranks: (N,) from ``label_ranks``.
        k: at least 1.
        label_scores: (N,) score of the label; needed with ``threshold``.
        threshold: a label counts only when its score is strictly greater.
    """
    right = ranks < k
    if threshold is not None:
        if label_scores is None:
            raise ValueError("topk_accuracy with a threshold needs label_scores, the score of each image's label")
        right = right & (label_scores > threshold)
    return percent(int(right.sum()), len(ranks))


def confusion_matrix(predictions: Ints, labels: Ints, num_classes: int) -> Ints:
    """(C, C) int64 counts: row = ground truth, column = prediction. A negative prediction stands for none and is left out.

    Raises:
        ValueError: an index is outside the classes.
    """
    if len(labels) and (labels.min() < 0 or labels.max() >= num_classes or predictions.max() >= num_classes):
        raise ValueError(
            f"labels {labels.min()} to {labels.max()} and predictions up to {predictions.max()} do not fit {num_classes} classes "
            f"(0 to {num_classes - 1})"
        )
    made = predictions >= 0
    cells = labels[made].astype(np.int64) * num_classes + predictions[made]
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def class_table(true_positive: Ints, predicted: Ints, support: Ints) -> ClassTable:
    """Precision, recall and F1 of every class from its counts, each (C,)."""
    counted = support > 0
    precision = np.where(counted, _ratio(true_positive, predicted), np.nan)
    recall = np.where(counted, _ratio(true_positive, support), np.nan)
    # 2 tp / (predicted + support) is the harmonic mean without dividing by a zero sum.
    f1 = np.where(counted, _ratio(2 * true_positive, predicted + support), np.nan)
    return ClassTable(precision, recall, f1, support)


def averages(true_positive: Ints, predicted: Ints, support: Ints, average: Average) -> tuple[float, float, float]:
    """Precision, recall, F1 in percent.

    Args:
        true_positive: (C,) right predictions of each class.
        predicted: (C,) predictions of each class.
        support: (C,) ground truth of each class.
        average: ``macro``: mean over the classes with ground truth; ``micro``: from the sums over all classes.
    """
    if average == "micro":
        hits, made, truth = int(true_positive.sum()), int(predicted.sum()), int(support.sum())
        precision, recall = (percent(hits, made) if made else 0.0), percent(hits, truth)
        return precision, recall, percent(2 * hits, made + truth)
    table = class_table(true_positive, predicted, support)
    return mean(table.precision), mean(table.recall), mean(table.f1)


def average_precision(scores: Floats, targets: Ints) -> float:
    """Average precision of one class in percent: the sum of precision x gain in recall over the distinct scores.

    Equal scores enter together, so the order of the images has no influence. Without equal scores this is the mean of the
    precisions at the positives. NaN without a positive.

    Args:
        scores: (N,).
        targets: (N,) 1, 0 or negative (not judged: left out).
    """
    judged = targets >= 0
    scores, positive = scores[judged], targets[judged] > 0
    if not positive.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(positive[order])
    last_of_ties = np.append(np.diff(scores[order]) != 0, True)
    hits, made = hits[last_of_ties], np.flatnonzero(last_of_ties) + 1
    gains = np.diff(hits, prepend=0)
    return 100.0 * float((gains * hits / made).sum() / hits[-1])


def mean_average_precision(scores: Floats, targets: Ints) -> tuple[float, Floats]:
    """Mean of the average precisions, and those of the classes (C,); classes without a positive are NaN and left out."""
    each = np.array([average_precision(scores[:, c], targets[:, c]) for c in range(scores.shape[1])])
    return mean(each), each


def positive_predictions(scores: Floats, threshold: float = 0.5, topk: int | None = None) -> Bools:
    """(N, C) bool: the classes an image is said to show.

    Args:
        scores: (N, C).
        threshold: classes whose score is at least this.
        topk: instead of the threshold, the k highest scores of each image (lower class index first where equal).
    """
    if topk is None:
        return np.asarray(scores >= threshold)
    chosen = np.argsort(-scores, axis=1, kind="stable")[:, :topk]
    positive = np.zeros(scores.shape, dtype=np.bool_)
    np.put_along_axis(positive, chosen, True, axis=1)
    return positive


def multi_label_counts(positive: Bools, targets: Ints) -> tuple[Ints, Ints, Ints]:
    """True positives, positive predictions and positive marks of every class, each (C,); marks not judged are left out."""
    judged, truth = targets >= 0, targets > 0
    return (positive & truth).sum(axis=0), (positive & judged).sum(axis=0), truth.sum(axis=0)


def multi_label_averages(true_positive: Ints, predicted: Ints, support: Ints) -> dict[str, float]:
    """CP, CR, CF1 (means over classes) and OP, OR, OF1 (from the sums over classes), in percent.

    CF1 is the harmonic mean of CP and CR, not the mean of the classes' F1.
    Source: arXiv 1604.04573; arXiv 1904.03582.
    """
    class_precision, class_recall, _ = averages(true_positive, predicted, support, "macro")
    precision, recall, f1 = averages(true_positive, predicted, support, "micro")
    total = class_precision + class_recall
    class_f1 = 2 * class_precision * class_recall / total if total else 0.0
    return {"CP": class_precision, "CR": class_recall, "CF1": class_f1, "OP": precision, "OR": recall, "OF1": f1}


def percent(part: int, whole: int) -> float:
    """100 part / whole; NaN for an empty whole."""
    return 100.0 * part / whole if whole else float("nan")


def mean(values: Floats) -> float:
    """Mean of the values that are not NaN; NaN when there is none."""
    valid = values[~np.isnan(values)]
    return float(valid.mean()) if len(valid) else float("nan")


def _ratio(part: Ints, whole: Ints) -> Floats:
    return 100.0 * part / np.maximum(whole, 1)
