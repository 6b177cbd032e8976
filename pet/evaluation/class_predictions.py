"""Predictions of classifiers as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pet.evaluation.class_evaluators import ClassificationEvaluator, MultiLabelEvaluator


def class_predictions(evaluator: ClassificationEvaluator | MultiLabelEvaluator) -> dict[str, Any]:
    """Predictions and metrics of an evaluator, on rank 0 after ``evaluate``.

    The lists have one entry for each image, in the order of ids: ``id``, ``path``, ``pred_score``, ``pred_label``,
    ``pred_class``, where labels were read ``label``, and where all scores were kept ``class_scores``. With several labels for
    each image the entries of ``pred_*`` and ``label`` are lists, the most certain class first. Besides: ``dataset``,
    ``class_names``, ``metrics`` and, if it was asked for, ``confusion`` (row = ground truth).
    """
    rows, names = evaluator.columns, evaluator.class_names
    ids = rows["id"].tolist()
    content: dict[str, Any] = {"dataset": evaluator.name, "metrics": evaluator.results, "class_names": names, "id": ids}
    if evaluator.describe is not None:
        content["path"] = [evaluator.describe(id) for id in ids]
    if isinstance(evaluator, MultiLabelEvaluator):
        content |= _multi_predictions(evaluator, names)
    else:
        content |= _single_predictions(evaluator, names)
    if "class_scores" in rows:
        content["class_scores"] = rows["class_scores"].tolist()
    return content


def _single_predictions(evaluator: ClassificationEvaluator, names: Sequence[str]) -> dict[str, Any]:
    rows = evaluator.columns
    labels = rows["pred_label"].tolist()
    content = {"pred_label": labels, "pred_class": [names[c] for c in labels], "pred_score": rows["pred_score"].tolist()}
    if "label" in rows:
        content["label"] = rows["label"].tolist()
    if "confusion" in evaluator.metrics and evaluator.confusion is not None:
        content["confusion"] = evaluator.confusion.tolist()
    return content


def _multi_predictions(evaluator: MultiLabelEvaluator, names: Sequence[str]) -> dict[str, Any]:
    scores = evaluator.columns["class_scores"]
    positive = evaluator.predicted()
    order = [
        np.flatnonzero(row)[np.argsort(-values[row], kind="stable")].tolist()
        for row, values in zip(positive, scores, strict=True)
    ]
    content = {
        "pred_label": order,
        "pred_class": [[names[c] for c in classes] for classes in order],
        "pred_score": [values[classes].tolist() for values, classes in zip(scores, order, strict=True)],
    }
    if "target" in evaluator.columns:
        content["label"] = [np.flatnonzero(row > 0).tolist() for row in evaluator.columns["target"]]
    return content
