"""COCO average precision of boxes, masks and keypoints, for any data set of instances; files in the COCO result format."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np

from pet.evaluation import coco_metrics
from pet.evaluation.coco_metrics import Backend, CocoScores, Kind
from pet.evaluation.instances import InstanceEvaluator, Instances, write_bytes
from pet.evaluation.tables import ClassNumbers, result_line
from pet.evaluation.truth import InstanceTruth
from pet.utils.suggest import did_you_mean

_NEEDS = {"bbox": "boxes", "segm": "masks", "keypoints": "keypoints"}


class CocoEvaluator(InstanceEvaluator):
    """``bbox_AP``, ``segm_AP50``, ``keypoints_ARl`` and so on, percent; NaN where there is no ground truth.

    Crowd regions and difficult objects may absorb any number of detections and count neither way.

    Args:
        truth: data set.
        metrics: some of bbox, segm, keypoints.
        backend: faster_coco_eval or pycocotools; equal numbers.
        max_detections: detections a picture and class that count, e.g. (1, 10, 100); AP uses the largest. Keypoints: 20.
        classwise: ``table`` has a row for each class, of many the 30 worst; ``scores`` has all.
        sigmas: of keypoints, instead of those of the data set.
        predictions_only: keep what ``metrics`` name for ``write`` and compute nothing: annotations are not needed.

    Attributes:
        scores: after ``evaluate`` on rank 0, numbers of each class, by metric.
    """

    def __init__(
        self,
        truth: InstanceTruth,
        metrics: Sequence[str] = ("bbox",),
        *,
        backend: Backend = "faster_coco_eval",
        max_detections: Sequence[int] = coco_metrics.MAX_DETECTIONS,
        classwise: bool = True,
        sigmas: Sequence[float] | None = None,
        predictions_only: bool = False,
    ) -> None:
        for metric in metrics:
            if metric not in _NEEDS:
                raise ValueError(
                    f"no COCO metric is named '{metric}'.{did_you_mean(metric, _NEEDS)} Allowed: {', '.join(_NEEDS)}"
                )
        if backend not in get_args(Backend):
            raise ValueError(
                f"no COCO back end is named '{backend}'.{did_you_mean(backend, get_args(Backend))} "
                f"Allowed: {', '.join(get_args(Backend))}"
            )
        if not max_detections or min(max_detections) < 1:
            raise ValueError(f"max_detections is {tuple(max_detections)}; it must name numbers of at least 1, e.g. (1, 10, 100)")
        self.backend, self.max_detections, self.classwise = backend, tuple(sorted(max_detections)), classwise
        self.sigmas = sigmas if sigmas is not None else truth.sigmas
        self.kinds = cast(tuple[Kind, ...], tuple(metrics))
        if "keypoints" in metrics and self.sigmas is None and not predictions_only:
            raise ValueError(
                f"{truth.name} gives no sigmas for its keypoints, how far each may be off, without which keypoints cannot be "
                f"judged. Set SIGMAS of the data set in DATA.CATALOG to one number a keypoint, e.g. 0.05 each, or leave "
                "keypoints out of EVAL.METRICS"
            )
        parts = [_NEEDS[metric] for metric in metrics if metric != "bbox"]
        super().__init__(truth, () if predictions_only else metrics, [_NEEDS[m] for m in metrics], parts)

    def reset(self) -> None:
        """Forget all predictions and results."""
        super().reset()
        self.scores: dict[str, CocoScores] = {}

    def compute(self) -> dict[str, float]:
        """The chosen metrics; fills ``scores``."""
        results: dict[str, float] = {}
        for kind in self.kinds if self.metrics else ():
            with coco_metrics.collector_paused():
                scores = self._scores(kind)
            self.scores[kind] = scores
            self.tell_no_truth(kind, int((scores.truths == 0).sum()), len(scores.truths))
            results |= {f"{kind}_{name}": value for name, value in scores.values.items()}
        return results

    def _scores(self, kind: Kind) -> CocoScores:
        detections = self.entries(kind, original=False)
        options: dict[str, Any] = {"backend": self.backend, "max_detections": self.max_detections, "sigmas": self.sigmas}
        return coco_metrics.coco_metrics(coco_truth(self.truth, kind), detections, kind, **options)

    def result_names(self) -> list[str]:
        """What ``evaluate`` returns, known before."""
        chosen = self.kinds if self.metrics else ()
        return [f"{kind}_{name}" for kind in chosen for name in coco_metrics.coco_names(kind, self.max_detections)]

    def class_tables(self) -> dict[str, ClassNumbers]:
        """AP, AP50, instances to find and detections of each class, by kind."""
        return {
            kind: ClassNumbers(
                self.truth.class_names,
                {"AP": scores.ap, "AP50": scores.ap50, "truths": scores.truths, "detections": scores.detections},
            )
            for kind, scores in self.scores.items()
        }

    def table(self) -> str:
        """Numbers of the classes as lines of text, for rank 0 after ``evaluate``."""
        lines: list[str] = []
        for kind, numbers in self.class_tables().items():
            lines.append(result_line({f"{kind}_{name}": value for name, value in self.scores[kind].values.items()}))
            lines += numbers.lines() if self.classwise else []
        return "\n".join(lines) or self.no_metrics()

    def entries(self, kind: Kind, original: bool = True) -> list[dict[str, Any]]:
        """All detections in the COCO result format, on rank 0 after ``evaluate``.

        Args:
            kind: what to put in beside score and ids: a box, or an RLE, or keypoints.
            original: ids of pictures and categories as in the annotation file; else indices.
        """
        found: list[dict[str, Any]] = []
        for index, row in zip(self.expected_ids, self.detections(), strict=True):
            image = self.truth.image_id(index) if original else index
            labels = [int(self.truth.category_ids[c]) if original else c for c in row.labels.tolist()]
            shapes = _shapes(row, kind)
            found += [
                {"image_id": image, "category_id": label, kind if kind != "segm" else "segmentation": shape, "score": score}
                for label, shape, score in zip(labels, shapes, row.scores.tolist(), strict=True)
            ]
        return found

    def write(self, prefix: str | Path) -> list[Path]:
        """Write ``<prefix>.bbox.json``, ``<prefix>.segm.json``, ``<prefix>.keypoints.json``, on rank 0 after ``evaluate``."""
        return [write_json(f"{prefix}.{kind}.json", self.entries(kind)) for kind in self.kinds]


def write_json(path: str | Path, content: Any) -> Path:
    """Write plain values as JSON, whole or not at all."""
    return write_bytes(path, json.dumps(content, allow_nan=False).encode())


def xywh(row: Instances) -> list[list[float]]:
    """Boxes of detections as x, y, width, height."""
    boxes = row.boxes.astype(np.float64)
    boxes[:, 2:] -= boxes[:, :2]
    return cast(list[list[float]], boxes.tolist())


def coco_truth(truth: InstanceTruth, kind: Kind = "bbox") -> dict[str, Any]:
    """Annotations of a data set as the dict of a COCO file; ids of pictures and categories are indices.

    Args:
        truth: data set.
        kind: what annotations hold besides their box: masks as RLE, or keypoints.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(len(truth)):
        rows = truth.annotations(index)
        images.append(
            {
                "id": index,
                "height": int(rows.height),
                "width": int(rows.width),
                "neg_category_ids": list(rows.negative),
                "not_exhaustive_category_ids": list(rows.not_exhaustive),
            }
        )
        boxes = np.asarray(rows.boxes, dtype=np.float64).reshape(-1, 4)
        columns: dict[str, list[Any]] = {
            "category_id": rows.labels.tolist(),
            "bbox": np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).tolist(),
            "area": rows.areas.tolist(),
            "iscrowd": (rows.crowd | rows.difficult).astype(int).tolist(),
        }
        if kind == "segm" and len(boxes):
            columns["segmentation"] = rows.masks.to_rles() if rows.masks is not None else []
        if kind == "keypoints" and len(boxes):
            points = rows.keypoints
            columns["keypoints"] = points.reshape(len(boxes), -1).tolist() if points is not None else []
        entries = zip(*columns.values(), strict=True)
        annotations += [{"image_id": index, **dict(zip(columns, entry, strict=True))} for entry in entries]
    frequency = truth.frequency or ["f"] * len(truth.class_names)
    categories = [{"id": c, "name": n, "frequency": f} for c, (n, f) in enumerate(zip(truth.class_names, frequency, strict=True))]
    return {"images": images, "annotations": annotations, "categories": categories}


def _shapes(row: Instances, kind: Kind) -> list[Any]:
    if kind == "bbox":
        return xywh(row)
    if kind == "segm":
        return row.rles or []
    return [] if row.keypoints is None else [points.ravel().tolist() for points in row.keypoints]
