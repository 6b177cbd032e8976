"""LVIS average precision: at most 300 detections a picture, judged only for the classes that were looked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pet.evaluation import coco_metrics
from pet.evaluation.coco import CocoEvaluator, coco_truth
from pet.evaluation.coco_metrics import CocoScores, Kind
from pet.evaluation.truth import InstanceTruth


class LvisEvaluator(CocoEvaluator):
    """``bbox_AP``, ``bbox_APr`` (rare), ``bbox_APc`` (common), ``bbox_APf`` (frequent classes) and so on, and of ``segm``.

    A detection counts when its class is annotated in the picture or listed as absent; with a class that is not annotated
    exhaustively it is no mistake when nothing matches it. The files are those of COCO, with LVIS category ids.

    Args:
        truth: data set with ``frequency``.
        metrics: some of bbox, segm.
        max_detections: a picture, all classes together.
        classwise, predictions_only: see ``CocoEvaluator``.
    """

    def __init__(
        self,
        truth: InstanceTruth,
        metrics: Sequence[str] = ("bbox",),
        *,
        max_detections: int = coco_metrics.LVIS_DETECTIONS,
        classwise: bool = True,
        predictions_only: bool = False,
    ) -> None:
        if "keypoints" in metrics:
            raise ValueError("LVIS has no keypoints; metrics are bbox and segm")
        if truth.frequency is None and not predictions_only:
            raise ValueError(
                f"{truth.name} does not say which classes are rare, common or frequent, so LVIS metrics cannot be computed; use "
                "those of COCO"
            )
        options: dict[str, Any] = {"classwise": classwise, "predictions_only": predictions_only}
        super().__init__(truth, metrics, max_detections=(max_detections,), **options)
        self.limit = max_detections

    def _scores(self, kind: Kind) -> CocoScores:
        detections = self.entries(kind, original=False)
        return coco_metrics.lvis_metrics(coco_truth(self.truth, kind), detections, kind, max_detections=self.max_detections[0])

    def result_names(self) -> list[str]:
        """What ``evaluate`` returns, known before."""
        chosen = self.kinds if self.metrics else ()
        of_coco = coco_metrics.coco_names("bbox", self.max_detections)
        names = [*of_coco, *(f"AP{frequency}" for frequency in coco_metrics.FREQUENCIES)]
        return [f"{kind}_{name}" for kind in chosen for name in names]
