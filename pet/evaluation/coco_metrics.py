"""COCO and LVIS average precision and recall of boxes, masks and keypoints, from dicts as in COCO JSON files.

The matching is done by ``faster_coco_eval`` (fast) or ``pycocotools`` (the reference); both give equal numbers. What they
call -1 (no ground truth) is NaN here, and everything is in percent.
"""

from __future__ import annotations

import gc
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from pet.evaluation.evaluator import short_list
from pet.evaluation.precision_recall import POINTS, PrecisionRecall
from pet.evaluation.tables import nan_mean
from pet.utils.suggest import did_you_mean

Kind = Literal["bbox", "segm", "keypoints"]
Backend = Literal["faster_coco_eval", "pycocotools"]
Floats = NDArray[np.float64]
Entry = dict[str, Any]

MAX_DETECTIONS = (1, 10, 100)
KEYPOINT_DETECTIONS = 20
LVIS_DETECTIONS = 300
FREQUENCIES = ("r", "c", "f")
# The back ends keep a list for every pair of picture and class; full LVIS has 24 million.
_PAIRS = 1_000_000
_AREAS = {"s": 1, "m": 2, "l": 3}  # place in the area ranges all, small, medium, large
_KEYPOINT_AREAS = {"m": 1, "l": 2}


@dataclass(frozen=True)
class CocoScores:
    """Average precision and recall, percent; NaN where there is no ground truth.

    Attributes:
        values: by name, e.g. AP, AP50, APs, AR100; see ``coco_names``.
        category_ids: C ids as in the file, ascending; the arrays below are in this order.
        ap, ap50: (C,) of each class.
        truths: (C,) instances that are judged: not crowd and, of keypoints, with a labelled point.
        detections: (C,) entries of the predictions.
        curves: precision, recall and score of each class at IoU 0.5.
    """

    values: dict[str, float]
    category_ids: list[int]
    ap: Floats
    ap50: Floats
    truths: NDArray[np.int64]
    detections: NDArray[np.int64]
    curves: PrecisionRecall


@dataclass(frozen=True)
class _Task:
    """How to match; ``sigmas`` of keypoints only."""

    kind: Kind
    backend: Backend
    max_detections: tuple[int, ...]
    sigmas: Sequence[float] | None = None
    federated: bool = False


def coco_names(kind: Kind, max_detections: Sequence[int] = MAX_DETECTIONS) -> list[str]:
    """Names of ``CocoScores.values`` in order."""
    if kind == "keypoints":
        return ["AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl"]
    recalls = [f"AR{count}" for count in sorted(max_detections)]
    return ["AP", "AP50", "AP75", "APs", "APm", "APl", *recalls, "ARs", "ARm", "ARl"]


def coco_metrics(
    truth: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    kind: Kind = "bbox",
    *,
    backend: Backend = "faster_coco_eval",
    max_detections: Sequence[int] = MAX_DETECTIONS,
    sigmas: Sequence[float] | None = None,
) -> CocoScores:
    """COCO metrics.

    Args:
        truth: content of an annotation file: images, annotations, categories. Crowd regions may absorb any number of
            detections and count neither way.
        detections: content of a result file: image_id, category_id, score, and bbox (x y width height), segmentation
            (polygons or RLE) or keypoints (x y v, ...). Of keypoints, the area is that of a bbox if there is one, else
            that of the points' extent.
        kind: what is compared.
        backend: who does the matching.
        max_detections: detections a picture and class that count; AP uses the largest. Keypoints always use 20.
        sigmas: of each keypoint; ``None``: those of COCO's 17.

    Raises:
        ValueError: unknown kind or backend, or dicts that do not fit together.
    """
    counts = (KEYPOINT_DETECTIONS,) if kind == "keypoints" else tuple(sorted(max_detections))
    task = _Task(_checked(kind, Kind, "kind"), _checked(backend, Backend, "backend"), counts, sigmas)
    with collector_paused():
        return _summary(_Problem(truth, detections, task), coco_names(kind, counts))


def lvis_metrics(
    truth: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    kind: Kind = "bbox",
    *,
    max_detections: int = LVIS_DETECTIONS,
) -> CocoScores:
    """LVIS metrics: only classes that were looked for in a picture are judged there.

    A detection counts when its class is among the annotations or the ``neg_category_ids`` of its picture; with a class of
    ``not_exhaustive_category_ids`` it is no mistake when nothing matches it.

    Args:
        truth, detections, kind: see ``coco_metrics``; categories have a ``frequency``.
        max_detections: detections a picture, of all classes together; those with the highest scores.

    Raises:
        ValueError: see ``coco_metrics``, or a category has no frequency.
    """
    if kind == "keypoints":
        raise ValueError("LVIS has no keypoints; kind must be bbox or segm")
    frequencies = {c["id"]: c.get("frequency") for c in truth["categories"]}
    if unknown := [str(id) for id, frequency in frequencies.items() if frequency not in FREQUENCIES]:
        raise ValueError(f"{len(unknown)} categories have no frequency r, c or f (ids {short_list(unknown)}): this is not LVIS")
    task = _Task(_checked(kind, Kind, "kind"), "faster_coco_eval", (max_detections,), federated=True)
    with collector_paused():
        problem = _Problem(truth, best_of_each_image(detections, max_detections), task)
        scores = _summary(problem, coco_names(kind, task.max_detections))
    for frequency in FREQUENCIES:
        chosen = [frequencies[id] == frequency for id in scores.category_ids]
        scores.values[f"AP{frequency}"] = nan_mean(scores.ap[chosen])
    return scores


@contextmanager
def collector_paused() -> Iterator[None]:
    """No search for cycles while millions of small objects without any are made: it takes half of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def best_of_each_image(detections: Sequence[Mapping[str, Any]], limit: int) -> list[Mapping[str, Any]]:
    """The ``limit`` highest scores of each picture; of equal ones the earlier."""
    of_image: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
    for detection in detections:
        of_image[detection["image_id"]].append(detection)
    return [d for group in of_image.values() for d in sorted(group, key=lambda d: -d["score"])[:limit]]


def compressed_rle(segmentation: Any, height: int, width: int) -> dict[str, Any]:
    """Polygons, or RLE with counts as list, text or bytes, as a compressed RLE.

    Args:
        segmentation: as in COCO JSON.
        height, width: of the picture.
    """
    from pycocotools import mask as coco_mask

    if isinstance(segmentation, list):
        merged: dict[str, Any] = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
        return merged
    if isinstance(segmentation["counts"], list):
        compressed: dict[str, Any] = coco_mask.frPyObjects(segmentation, height, width)
        return compressed
    return dict(segmentation)


def _checked(value: str, allowed: Any, what: str) -> Any:
    if value not in get_args(allowed):
        raise ValueError(
            f"{what} is '{value}'.{did_you_mean(value, get_args(allowed))} It must be one of {', '.join(get_args(allowed))}"
        )
    return value


class _Problem:
    """Truth and detections with ids that the back ends can use: pictures, classes and entries count from 1.

    Original ids may be texts or 0, which marks "no match" in the back ends.
    """

    def __init__(self, truth: Mapping[str, Any], detections: Sequence[Mapping[str, Any]], task: _Task) -> None:
        if "annotations" not in truth:
            raise ValueError("the ground truth has no annotations, so there is nothing to compare the predictions with")
        self.task = task
        ids = sorted((image["id"] for image in truth["images"]), key=lambda id: (isinstance(id, str), id))
        self.category_ids = sorted(category["id"] for category in truth["categories"])
        if not self.category_ids:
            raise ValueError("the ground truth has no categories")
        self.image_of = {id: number for number, id in enumerate(ids, 1)}
        self.class_of = {id: number for number, id in enumerate(self.category_ids, 1)}
        self.images = {self.image_of[image["id"]]: self._image(image) for image in truth["images"]}
        self.frequencies = {self.class_of[c["id"]]: c.get("frequency", "f") for c in truth["categories"]}
        self.truths = self._entries(truth["annotations"], "annotation", self._truth)
        self.detections = self._entries(detections, "detection", self._detection)

    def _image(self, image: Mapping[str, Any]) -> Entry:
        entry = {name: image[name] for name in ("height", "width") if name in image}
        for name in ("neg_category_ids", "not_exhaustive_category_ids"):
            entry[name] = [self.class_of[id] for id in image.get(name, ()) if id in self.class_of]
        return {"id": self.image_of[image["id"]], **entry}

    def _entries(self, source: Sequence[Mapping[str, Any]], what: str, read: Any) -> dict[int, list[Entry]]:
        found: dict[int, list[Entry]] = defaultdict(list)
        for number, raw in enumerate(source, 1):
            image, label = self.image_of.get(raw["image_id"]), self.class_of.get(raw["category_id"])
            if image is None or label is None:
                lost = f"image {raw['image_id']}" if image is None else f"category {raw['category_id']}"
                raise ValueError(f"{what} {number} of {len(source)} refers to {lost}, which is not in the ground truth")
            entry = {"id": number, "image_id": image, "category_id": label, **read(raw, self.images[image])}
            # The LVIS tool leaves out what has no area, that of COCO does not.
            if entry["area"] > 0 or not self.task.federated:
                found[label].append(entry)
        return found

    def _shape(self, raw: Mapping[str, Any], image: Entry, what: str) -> Entry:
        """The part of an entry that is compared."""
        kind = self.task.kind
        wanted = {"bbox": "bbox", "segm": "segmentation", "keypoints": "keypoints"}[kind]
        if wanted not in raw:
            raise ValueError(f"{what} of image {raw['image_id']} has no '{wanted}', which {kind} metrics compare")
        if kind == "segm":
            return {"segmentation": compressed_rle(raw["segmentation"], image["height"], image["width"])}
        return {name: raw[name] for name in (wanted, "bbox") if name in raw}

    def _truth(self, raw: Mapping[str, Any], image: Entry) -> Entry:
        entry = self._shape(raw, image, "an annotation") | {"iscrowd": int(raw.get("iscrowd", 0)), "area": raw["area"]}
        if self.task.kind == "keypoints":
            entry["num_keypoints"] = sum(1 for v in raw["keypoints"][2::3] if v > 0)
        return entry

    def _detection(self, raw: Mapping[str, Any], image: Entry) -> Entry:
        entry = self._shape(raw, image, "a detection") | {"iscrowd": 0, "score": raw["score"]}
        if not math.isfinite(raw["score"]):
            raise ValueError(f"a detection of image {raw['image_id']} has score {raw['score']}; scores must be finite")
        if self.task.kind == "segm":
            from pycocotools import mask as coco_mask

            return entry | {"area": float(coco_mask.area(entry["segmentation"]))}
        if "bbox" not in entry:
            x, y = entry["keypoints"][0::3], entry["keypoints"][1::3]
            entry["bbox"] = [min(x), min(y), max(x) - min(x), max(y) - min(y)]
        return entry | {"area": entry["bbox"][2] * entry["bbox"][3]}

    def judged(self, label: int) -> int:
        """How many instances of a class must be found."""
        return sum(1 for t in self.truths.get(label, ()) if not t["iscrowd"] and t.get("num_keypoints", 1))

    def parts(self) -> Iterator[tuple[list[int], Entry, Entry]]:
        """Classes a few at a time, with their ground truth and detections as data sets; classes do not influence each other."""
        step = max(1, _PAIRS // max(1, len(self.images)))
        labels = sorted(self.class_of.values())
        for start in range(0, len(labels), step):
            part = labels[start : start + step]
            shared = {
                "images": list(self.images.values()),
                "categories": [{"id": c, "name": str(c), "frequency": self.frequencies[c]} for c in part],
            }
            truths = [entry for c in part for entry in self.truths.get(c, ())]
            detections = [entry for c in part for entry in self.detections.get(c, ())]
            yield part, shared | {"annotations": truths}, shared | {"annotations": detections}


def _run(problem: _Problem) -> tuple[Floats, Floats, PrecisionRecall]:
    """Precision (T, R, C, A, M), recall (T, C, A, M) over IoUs, recalls, classes, areas, detections (-1: no truth); curves."""
    found, scores = [], []
    for labels, truth, detections in problem.parts():
        # The back ends report progress with print; warnings take other ways.
        with redirect_stdout(StringIO()):
            evaluator = _evaluator(truth, detections, problem.task)
            evaluator.params.maxDets = list(problem.task.max_detections)
            evaluator.params.catIds = labels
            evaluator.evaluate()
            evaluator.accumulate()
        found.append((np.asarray(evaluator.eval["precision"]), np.asarray(evaluator.eval["recall"])))
        scores.append(np.asarray(evaluator.eval["scores"])[0, :, :, 0, -1])
    # The back ends differ in the last bit of divisions and in the order in memory; the same numbers must come of both.
    tables = np.concatenate([p for p, _ in found], axis=2), np.concatenate([r for _, r in found], axis=1)
    precision, recall = (np.ascontiguousarray(np.round(table, 12)) for table in tables)
    at_50, score = precision[0, :, :, 0, -1], np.concatenate(scores, axis=1)
    known = at_50 > -1
    curves = PrecisionRecall(np.linspace(0.0, 1.0, POINTS), np.where(known, at_50, np.nan), np.where(known, score, np.nan))
    return precision, recall, curves


def _evaluator(truth: Entry, detections: Entry, task: _Task) -> Any:
    if task.backend == "pycocotools":
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        evaluator = COCOeval(_indexed(COCO(), truth), _indexed(COCO(), detections), task.kind)
        if task.sigmas is not None:
            evaluator.params.kpt_oks_sigmas = np.asarray(task.sigmas)
        return evaluator
    from faster_coco_eval import COCO as FasterCOCO
    from faster_coco_eval import COCOeval_faster

    return COCOeval_faster(
        _indexed(FasterCOCO(), truth),
        _indexed(FasterCOCO(), detections),
        task.kind,
        print_function=_silent,
        kpt_oks_sigmas=None if task.sigmas is None else list(task.sigmas),
        lvis_style=task.federated,
    )


def _indexed(api: Any, content: Entry) -> Any:
    api.dataset = content
    api.createIndex()
    return api


def _silent(*_: Any) -> None:
    """Print nothing."""


def _mean(values: Floats) -> float:
    """Mean of what has ground truth, in percent."""
    return 100 * nan_mean(np.where(values > -1, values, np.nan).ravel())


def _summary(problem: _Problem, names: Sequence[str]) -> CocoScores:
    precision, recall, curves = _run(problem)
    areas = _KEYPOINT_AREAS if problem.task.kind == "keypoints" else _AREAS
    places = {f"AR{count}": m for m, count in enumerate(problem.task.max_detections)}
    thresholds = {"50": 0, "75": 5}
    values: dict[str, float] = {}
    for name in names:
        # The number of detections is told from an IoU by the list of counts: AR50 of keypoints, AR100 of boxes.
        part, end = name[:2], name[2:]
        table = precision[..., -1] if part == "AP" else recall[..., places.get(name, -1)]
        if end in thresholds and name not in places:
            table = table[thresholds[end]][None]
        values[name] = _mean(table[..., areas.get(end, 0)])
    labels = range(len(problem.category_ids))
    return CocoScores(
        values,
        problem.category_ids,
        np.array([_mean(precision[:, :, c, 0, -1]) for c in labels]),
        np.array([_mean(precision[0, :, c, 0, -1]) for c in labels]),
        np.array([problem.judged(c + 1) for c in labels], dtype=np.int64),
        np.array([len(problem.detections.get(c + 1, ())) for c in labels], dtype=np.int64),
        curves,
    )
