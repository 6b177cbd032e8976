"""Average recall of boxes without regard to their class: of proposals, or of detections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pet.evaluation import coco_metrics
from pet.evaluation.boxes import box_iou, greedy_overlaps
from pet.evaluation.coco import coco_truth, write_json, xywh
from pet.evaluation.evaluator import Columns, Inputs
from pet.evaluation.instances import InstanceEvaluator
from pet.evaluation.tables import result_line
from pet.evaluation.truth import InstanceTruth
from pet.utils.suggest import did_you_mean

METRICS = ("proposal", "proposal_fast")
NUMBERS = (100, 300, 1000)
IOUS = tuple(np.linspace(0.5, 0.95, 10).tolist())


def box_recalls(
    truths: Sequence[NDArray[Any]],
    proposals: Sequence[NDArray[Any]],
    numbers: Sequence[int] = NUMBERS,
    ious: Sequence[float] = IOUS,
    inclusive: bool = False,
) -> NDArray[np.float64]:
    """Part of the objects that the first proposals of their pictures cover.

    Pairs are taken greedily, the highest IoU first, each object and each proposal once.

    Args:
        truths: for each picture (G, 4) boxes to find.
        proposals: for each picture (P, 4) boxes, best first.
        numbers: how many proposals a picture count.
        ious: an object is covered from this overlap on.
        inclusive: see ``box_iou``.

    Returns:
        (numbers, ious) 0 to 1; NaN without objects.
    """
    table = np.full((len(numbers), len(ious)), np.nan)
    overlaps = [box_iou(p, t, inclusive) for t, p in zip(truths, proposals, strict=True)]
    for row, number in enumerate(numbers):
        found = np.concatenate([np.empty(0), *(greedy_overlaps(o[:number]) for o in overlaps)])
        if len(found):
            table[row] = [(found >= iou).mean() for iou in ious]
    return table


class ProposalEvaluator(InstanceEvaluator):
    """Average recall over IoU 0.5 to 0.95, percent, with 100, 300 and 1000 boxes a picture.

    ``proposal`` matches like COCO without classes: ``proposal_AR100`` and so on, ``proposal_ARs``, ``ARm``, ``ARl`` by the
    size of the object with the largest number. ``proposal_fast`` takes the best pairs greedily: ``proposal_fast_AR100``
    and so on. Reads ``outputs["proposals"]``, or ``outputs["instances"]`` where a model makes detections.

    Args:
        truth: data set with boxes; crowd and difficult ones need not be found.
        metrics: some of proposal, proposal_fast.
        numbers: boxes a picture.
        backend: see ``CocoEvaluator``.
        predictions_only: keep the boxes for ``write`` and compute nothing.
    """

    def __init__(
        self,
        truth: InstanceTruth,
        metrics: Sequence[str] = ("proposal",),
        *,
        numbers: Sequence[int] = NUMBERS,
        backend: coco_metrics.Backend = "faster_coco_eval",
        predictions_only: bool = False,
    ) -> None:
        for metric in metrics:
            if metric not in METRICS:
                raise ValueError(f"no metric is named '{metric}'.{did_you_mean(metric, METRICS)} Allowed: {', '.join(METRICS)}")
        if not numbers or min(numbers) < 1:
            raise ValueError(f"numbers is {tuple(numbers)}; it must name numbers of at least 1, e.g. {NUMBERS}")
        self.numbers, self.backend = tuple(sorted(numbers)), backend
        super().__init__(truth, () if predictions_only else metrics, ["boxes"], limit=self.numbers[-1])
        self.source = "proposals"

    def collect(self, inputs: Inputs, outputs: Any) -> Columns:
        """The best boxes of each picture."""
        found: Sequence[Mapping[str, Any]] = outputs["proposals"] if "proposals" in outputs else self._outputs(outputs)
        return {"instances": self._read(inputs, [{"boxes": one["boxes"], "scores": one["scores"]} for one in found])}

    def compute(self) -> dict[str, float]:
        """The chosen metrics."""
        results: dict[str, float] = {}
        if "proposal" in self.metrics:
            results |= self._coco()
        if "proposal_fast" in self.metrics:
            rows = [self.truth.annotations(index) for index in self.expected_ids]
            wanted = [row.boxes[~(row.crowd | row.difficult)] for row in rows]
            recalls = box_recalls(wanted, [row.boxes for row in self.detections()], self.numbers)
            values = 100 * recalls.mean(axis=1)
            results |= {f"proposal_fast_AR{n}": float(value) for n, value in zip(self.numbers, values, strict=True)}
        if any(np.isnan(value) for name, value in results.items() if f"AR{self.numbers[-1]}" in name):
            self.tell_no_truth("boxes", len(self.truth.class_names), len(self.truth.class_names))
        return results

    def _coco(self) -> dict[str, float]:
        truth = coco_truth(self.truth)
        for annotation in truth["annotations"]:
            annotation["category_id"] = 0
        truth["categories"] = [{"id": 0, "name": "object"}]
        options: dict[str, Any] = {"backend": self.backend, "max_detections": self.numbers}
        values = coco_metrics.coco_metrics(truth, self.entries(original=False), "bbox", **options).values
        return {f"proposal_{name}": value for name, value in values.items() if name.startswith("AR")}

    def result_names(self) -> list[str]:
        """What ``evaluate`` returns, known before."""
        counts = [f"AR{number}" for number in self.numbers]
        of_metric = {"proposal": [*counts, "ARs", "ARm", "ARl"], "proposal_fast": counts}
        return [f"{metric}_{name}" for metric in METRICS if metric in self.metrics for name in of_metric[metric]]

    def table(self) -> str:
        """The results as text, for rank 0 after ``evaluate``."""
        return result_line(self.results) or self.no_metrics()

    def entries(self, original: bool = True) -> list[dict[str, Any]]:
        """All boxes in the COCO result format with category 1 (0 with ``original`` unset, where ids are indices)."""
        return [
            {"image_id": image, "category_id": int(original), "bbox": box, "score": score}
            for index, row in zip(self.expected_ids, self.detections(), strict=True)
            for image in [self.truth.image_id(index) if original else index]
            for box, score in zip(xywh(row), row.scores.tolist(), strict=True)
        ]

    def write(self, prefix: str | Path) -> list[Path]:
        """Write ``<prefix>.proposal.json``, on rank 0 after ``evaluate``."""
        return [write_json(f"{prefix}.proposal.json", self.entries())]
