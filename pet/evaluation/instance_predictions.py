"""Detections as plain values, with everything an evaluation of them needs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pet.evaluation.instances import InstanceEvaluator, Instances


def instance_predictions(evaluators: Sequence[InstanceEvaluator]) -> list[dict[str, Any]]:
    """One entry for each image of the data set, in its order; on rank 0 after ``evaluate``.

    An entry has ``id`` (index), ``image_id`` (of the annotations), ``file`` and, as far as they were kept, ``instances`` and
    ``proposals``: ``boxes`` (x1 y1 x2 y2, ends exclusive, pixels of the file), ``scores``, ``labels`` (from 0; not of proposals),
    ``masks`` (compressed RLE) and ``keypoints`` (x, y, score).

    Args:
        evaluators: at least one; of those that kept the same kind the one with most of it counts.
    """
    kinds: dict[str, InstanceEvaluator] = {}
    for evaluator in sorted(evaluators, key=lambda e: (len(e.parts), sum(map(len, e.detections())))):
        kinds[evaluator.source] = evaluator
    truth = evaluators[0].truth
    rows = {kind: evaluator.detections() for kind, evaluator in kinds.items()}
    return [
        {
            "id": index,
            "image_id": truth.image_id(index),
            "file": Path(truth.path(index)).name,
            **{kind: _plain(found[index], with_labels=kind == "instances") for kind, found in sorted(rows.items())},
        }
        for index in range(len(truth))
    ]


def _plain(row: Instances, with_labels: bool) -> dict[str, Any]:
    columns: dict[str, Any] = {"boxes": row.boxes.tolist(), "scores": row.scores.tolist()}
    if with_labels:
        columns["labels"] = row.labels.tolist()
    if row.rles is not None:
        columns["masks"] = row.rles
    if row.keypoints is not None:
        columns["keypoints"] = row.keypoints.tolist()
    return columns
