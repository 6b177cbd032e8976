"""Curves of precision and recall of classes over 101 recalls, and receiver operating characteristics."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pet.evaluation.classification import Floats, Ints

POINTS = 101


@dataclass(frozen=True)
class PrecisionRecall:
    """Precision at 101 recalls: what has a score of at least ``scores`` has that recall, and that precision or a higher one.

    Attributes:
        recalls: (101,) 0 to 1, ascending.
        precisions: (101, C) 0 to 1, never rising; 0 where a recall is not reached, NaN for a class without ground truth.
        scores: (101, C) never rising; 0 where a recall is not reached, NaN for a class without ground truth.
    """

    recalls: Floats
    precisions: Floats
    scores: Floats

    @property
    def f1(self) -> Floats:
        """(101, C) harmonic mean of precision and recall, 0 to 1."""
        total = self.precisions + self.recalls[:, None]
        return 2 * self.precisions * self.recalls[:, None] / np.where(total == 0, 1, total)

    def f1_by_score(self, grid: Floats) -> Floats:
        """(G, C) F1 of what has a score of at least each of ``grid``, which ascends; NaN for a class without ground truth."""
        columns = []
        for scores, f1, precisions in zip(self.scores.T, self.f1.T, self.precisions.T, strict=True):
            reached = precisions > 0
            if np.isnan(precisions[0]) or not reached.any():
                columns.append(np.where(np.isnan(precisions[0]), np.nan, np.zeros(len(grid))))
                continue
            # Ascending scores; below the lowest one everything counts, above the highest one nothing does.
            columns.append(np.interp(grid, scores[reached][::-1], f1[reached][::-1], right=0.0))
        return np.stack(columns, axis=1) if columns else np.empty((len(grid), 0))


def precision_recall(scores: Floats, targets: Ints) -> PrecisionRecall:
    """Curves of one-against-the-rest decisions by scores.

    Args:
        scores: (N, C).
        targets: (N, C): 1 present, 0 absent, negative: not judged.
    """
    recalls = np.linspace(0.0, 1.0, POINTS)
    precisions, limits = np.full((2, POINTS, scores.shape[1]), np.nan)
    for c in range(scores.shape[1]):
        hits, made, values = _cumulated(scores[:, c], targets[:, c])
        if not len(hits) or not hits[-1]:
            continue
        highest = np.maximum.accumulate((hits / made)[::-1])[::-1]
        place = np.searchsorted(hits / hits[-1], recalls - 1e-12)
        precisions[:, c], limits[:, c] = highest[place], values[place]
    return PrecisionRecall(recalls, precisions, limits)


def roc(scores: Floats, targets: Ints) -> tuple[Floats, Floats, Floats]:
    """Receiver operating characteristics of one-against-the-rest decisions.

    Args:
        scores, targets: see ``precision_recall``.

    Returns:
        (101,) false positive rates, ascending; (101, C) true positive rates there, 0 to 1; (C,) areas under the curves. NaN for
        a class without positives or without negatives.
    """
    rates = np.linspace(0.0, 1.0, POINTS)
    found, areas = np.full((POINTS, scores.shape[1]), np.nan), np.full(scores.shape[1], np.nan)
    for c in range(scores.shape[1]):
        hits, made, _ = _cumulated(scores[:, c], targets[:, c])
        false = made - hits
        if not len(hits) or not hits[-1] or not false[-1]:
            continue
        x, y = np.concatenate([[0], false / false[-1]]), np.concatenate([[0], hits / hits[-1]])
        areas[c] = float(np.trapezoid(y, x))
        # Of a vertical step the upper end counts.
        last = np.flatnonzero(np.diff(x, append=2.0))
        found[:, c] = np.interp(rates, x[last], y[last])
    return rates, found, areas


def _cumulated(scores: Floats, targets: Ints) -> tuple[Ints, Ints, Floats]:
    """True positives, positive predictions and the score at each threshold, the highest score first; equal scores are one."""
    judged = targets >= 0
    scores, positive = scores[judged], targets[judged] > 0
    order = np.argsort(-scores, kind="stable")
    scores, positive = scores[order], positive[order]
    ends = np.flatnonzero(np.append(np.diff(scores) != 0, True)) if len(scores) else np.empty(0, np.int64)
    return np.cumsum(positive)[ends].astype(np.int64), ends + 1, scores[ends]
