"""Detections of a model in the compact form that evaluators keep, and the base of evaluators of instances."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pet.evaluation.evaluator import Columns, DatasetEvaluator, Inputs, short_list
from pet.evaluation.truth import InstanceTruth, check_classes, check_kind
from pet.utils.files import atomic_write
from pet.utils.logger import LOGGER, log_once

Rle = dict[str, Any]


@dataclass(slots=True)
class Instances:
    """Detections of one picture, K of them, the highest score first; every number is finite.

    Attributes:
        boxes: (K, 4) float32, x1 y1 x2 y2, ends exclusive, in pixels of the picture.
        scores: (K,) float32.
        labels: (K,) int64; 0 for proposals.
        rles: K compressed COCO RLE, where masks are asked for.
        keypoints: (K, P, 3) float32, where keypoints are asked for.
        broken: detections that were left out because a number is NaN or infinite.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    rles: list[Rle] | None = None
    keypoints: NDArray[np.float32] | None = None
    broken: int = 0

    def __len__(self) -> int:
        return len(self.scores)


def to_numpy(value: Any) -> NDArray[Any]:
    """A tensor of any device and type, or an array, as an array; bfloat16 becomes float32."""
    if not hasattr(value, "detach"):
        return np.asarray(value)
    value = value.detach()
    array: NDArray[Any] = (value.float() if value.is_floating_point() else value).cpu().numpy()
    return array


def encode_masks(masks: NDArray[Any]) -> list[Rle]:
    """(K, H, W) masks as K compressed COCO RLE whose counts are text."""
    from pycocotools import mask as coco_mask

    rles: list[Rle] = []
    for mask in masks:
        rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
        rles.append({"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")})
    return rles


def decode_mask(rle: Rle) -> NDArray[np.uint8]:
    """(H, W) pixels 0 and 1 of a compressed RLE."""
    from pycocotools import mask as coco_mask

    with warnings.catch_warnings():
        # pycocotools 2.0.11 does not know the copy argument of NumPy 2, which costs one copy.
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        mask: NDArray[np.uint8] = coco_mask.decode(rle)
    return mask


def read_instances(output: Mapping[str, Any], parts: Collection[str] = (), limit: int | None = None) -> Instances:
    """The detections of one picture as a model returns them.

    Args:
        output: ``boxes``, ``scores``, optionally ``labels``, ``masks`` (K, H, W) and ``keypoints`` (K, P, 3).
        parts: which of ``masks`` and ``keypoints`` to keep.
        limit: keep the highest scores only.

    Raises:
        ValueError: the model does not return one of ``parts``, or the arrays do not pair up.
    """
    lacking = [part for part in parts if part not in output]
    if lacking:
        raise ValueError(f"the model returns {short_list(list(output))} but no {', '.join(lacking)}: its heads do not make them")
    scores = to_numpy(output["scores"]).astype(np.float32)
    boxes = to_numpy(output["boxes"]).astype(np.float32).reshape(-1, 4)
    labels = to_numpy(output["labels"]).astype(np.int64) if "labels" in output else np.zeros(len(scores), np.int64)
    found = {part: to_numpy(output[part]) for part in parts}
    sizes = {"boxes": len(boxes), "labels": len(labels), **{part: len(array) for part, array in found.items()}}
    if scores.ndim != 1 or any(count != len(scores) for count in sizes.values()):
        raise ValueError(f"{scores.shape} scores, but {', '.join(f'{n} {name}' for name, n in sizes.items())}")
    usable = np.isfinite(scores) & np.isfinite(boxes).all(axis=1)
    if "keypoints" in found:
        usable &= np.isfinite(found["keypoints"]).all(axis=(1, 2))
    order = np.flatnonzero(usable)
    order = order[np.argsort(-scores[order], kind="stable")][:limit]
    kept = Instances(boxes[order], scores[order], labels[order], broken=int((~usable).sum()))
    if "masks" in found:
        kept.rles = encode_masks(found["masks"][order])
    if "keypoints" in found:
        kept.keypoints = found["keypoints"][order].astype(np.float32)
    return kept


class InstanceEvaluator(DatasetEvaluator):
    """Base of evaluators of instances: keeps the detections, with masks as RLE, and finds the truth.

    Detections with a number that is NaN or infinite are left out, so that a broken model detects nothing; a warning
    counts them.

    Args:
        truth: data set; image ids are its indices.
        metrics: names for messages; empty: predictions only, annotations are not needed.
        kinds: of the data set, what ``metrics`` need.
        parts: which of ``masks`` and ``keypoints`` to keep.
        limit: detections a picture, the highest scores; ``None``: all.

    Attributes:
        source: what the kept detections are: ``instances``, or ``proposals`` without classes.
    """

    key = "instances"

    def __init__(
        self,
        truth: InstanceTruth,
        metrics: Sequence[str],
        kinds: Collection[str],
        parts: Collection[str] = (),
        limit: int | None = None,
    ) -> None:
        check_classes(truth, truth.class_names)
        for kind in kinds if metrics else ():
            check_kind(truth, kind, ", ".join(metrics))
        self.truth, self.metrics = truth, tuple(metrics)
        self.parts, self.limit, self.source = tuple(parts), limit, self.key
        super().__init__(truth.name, range(len(truth)))

    def collect(self, inputs: Inputs, outputs: Any) -> Columns:
        """The detections of each picture."""
        return {"instances": self._read(inputs, self._outputs(outputs))}

    def _outputs(self, outputs: Any) -> Sequence[Mapping[str, Any]]:
        if self.key not in outputs:
            raise ValueError(
                f"{self.name}: the model returns {short_list(sorted(outputs)) or 'nothing'}, but its evaluation needs "
                f"'{self.key}'; choose EVAL.METRICS that fit the heads of the model"
            )
        found: Sequence[Mapping[str, Any]] = outputs[self.key]
        return found

    def _read(self, inputs: Inputs, outputs: Sequence[Mapping[str, Any]]) -> list[Instances]:
        kept = [read_instances(output, self.parts, self.limit) for output in outputs]
        for index, instances in zip(inputs.ids.tolist(), kept, strict=False):
            self._check(index, instances)
        return kept

    def _check(self, index: int, instances: Instances) -> None:
        classes = len(self.truth.class_names)
        if len(instances) and (instances.labels.min() < 0 or instances.labels.max() >= classes):
            raise ValueError(
                f"{self.name}: the model detects class {int(instances.labels.max())} in picture {index}, but the data set "
                f"has classes 0 to {classes - 1}; the number of classes of the heads does not fit the data set"
            )
        if instances.rles:
            row = self.truth.annotations(index)
            if instances.rles[0]["size"] != [row.height, row.width]:
                raise ValueError(
                    f"{self.name}: masks of {row.file} are {instances.rles[0]['size']}, but the picture is "
                    f"{[row.height, row.width]} (height, width); masks must be at the original size"
                )

    def evaluate(self) -> dict[str, float]:
        """As the base; rank 0 warns of broken detections."""
        results = super().evaluate()
        broken = [row for row in self.columns.get("instances", ()) if row.broken]
        if broken:
            LOGGER.warning(
                f"{self.name}: {sum(row.broken for row in broken)} detections in {len(broken)} pictures have scores or "
                "coordinates that are NaN or infinite and are left out. The model has diverged or overflows: see "
                "SOLVER.NON_FINITE, or evaluate without --amp"
            )
        return results

    def detections(self) -> list[Instances]:
        """The detections of all pictures in the order of the data set, on rank 0 after ``evaluate``.

        Raises:
            ValueError: there are none yet.
        """
        if not self.columns:
            raise ValueError(f"{self.name}: there are no predictions to write; evaluate first")
        rows: list[Instances] = self.columns["instances"]
        return rows

    def tell_no_truth(self, what: str, count: int, total: int) -> None:
        """Say once why numbers are NaN."""
        if count:
            log_once(
                f"{self.name}: no ground truth of {what} for {count} of {total} classes; their numbers are NaN and means over "
                "classes leave them out"
            )


def write_bytes(path: str | Path, content: bytes) -> Path:
    """Write a file, whole or not at all, with the folders it lies in."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as handle:
        handle.write(content)
    return path
