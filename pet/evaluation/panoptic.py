"""Panoptic quality: segments matched by overlap, averaged over classes; files in the COCO panoptic format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pet.evaluation.coco import write_json
from pet.evaluation.evaluator import Columns, DatasetEvaluator, Inputs, short_list
from pet.evaluation.instances import to_numpy, write_bytes
from pet.evaluation.semantic import encode_png, picture_stems
from pet.evaluation.tables import ClassNumbers, nan_mean, result_line
from pet.evaluation.truth import PanopticTruth, check_classes, check_kind
from pet.utils.logger import log_once

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Segment = Mapping[str, Any]
VOID = 0
_GROUPS = ("", "_things", "_stuff")


@dataclass(frozen=True)
class PanopticMatches:
    """Matches of one picture.

    Attributes:
        labels: (M,) class of each matched pair.
        ious: (M,) its overlap, above 0.5.
        false_labels: class of each predicted segment without a match.
        missed_labels: class of each segment of the truth without a match.
    """

    labels: Ints
    ious: Floats
    false_labels: Ints
    missed_labels: Ints


@dataclass(frozen=True)
class PanopticScores:
    """Numbers of each class: percent, NaN for a class that is neither in the truth nor predicted; and counts."""

    pq: Floats
    sq: Floats
    rq: Floats
    matched: Ints
    false: Ints
    missed: Ints


def panoptic_matches(
    truth_ids: NDArray[Any], truth: Sequence[Segment], predicted_ids: NDArray[Any], predicted: Sequence[Segment]
) -> PanopticMatches:
    """Match the segments of one picture.

    Two segments of a class match when their IoU, without the pixels that are void in the truth, is above 0.5. A crowd is
    never missed. A prediction without a match is dropped when more than half of it lies on void or on crowds of its class.

    Args:
        truth_ids: (H, W) segment of each pixel, 0 = void.
        truth: segments with id, label and optionally crowd.
        predicted_ids: (H, W), 0 = no prediction.
        predicted: segments with id and label; those without a pixel are left out.

    Raises:
        ValueError: the shapes differ, or pixels have an id that is not among the segments.
    """
    if truth_ids.shape != predicted_ids.shape:
        raise ValueError(f"the prediction has shape {predicted_ids.shape}, the truth {truth_ids.shape}; they must be equal")
    rows, row_of = _classes(truth_ids, truth, "truth")
    columns, column_of = _classes(predicted_ids, predicted, "prediction")
    shared = np.bincount(row_of * len(columns.labels) + column_of, minlength=len(rows.labels) * len(columns.labels))
    shared = shared.reshape(len(rows.labels), len(columns.labels))
    own, other, void = shared.sum(axis=1), shared.sum(axis=0), shared[0]
    union = own[:, None] + other[None, :] - shared - void[None, :]
    same = (rows.labels[:, None] == columns.labels[None, :]) & (rows.labels >= 0)[:, None] & ~rows.crowd[:, None]
    ious = np.divide(shared, union, out=np.zeros(shared.shape), where=same & (union > 0))
    # Above 0.5 a segment has one partner at most.
    pairs = np.argwhere(ious > 0.5)
    free = np.ones(len(columns.labels), dtype=bool)
    free[pairs[:, 1]] = False
    missed = ~rows.crowd & (rows.labels >= 0) & (own > 0)
    missed[pairs[:, 0]] = False
    crowd = (shared * ((rows.labels[:, None] == columns.labels[None, :]) & rows.crowd[:, None])).sum(axis=0)
    false = free & (columns.labels >= 0) & (other > 0) & (2 * (void + crowd) <= other)
    return PanopticMatches(rows.labels[pairs[:, 0]], ious[pairs[:, 0], pairs[:, 1]], columns.labels[false], rows.labels[missed])


@dataclass(frozen=True)
class _Segments:
    """Segments of a picture; the first one is void with label -1."""

    labels: Ints
    crowd: NDArray[np.bool_]


def _classes(ids: NDArray[Any], segments: Sequence[Segment], what: str) -> tuple[_Segments, Ints]:
    """The segments, and for each pixel the place of its segment."""
    known = np.array([VOID, *(int(segment["id"]) for segment in segments)], dtype=np.int64)
    if len(np.unique(known)) != len(known):
        raise ValueError(f"two segments of the {what} have the same id, or one has id {VOID}, which means void")
    order = np.argsort(known)
    pixels = ids.astype(np.int64).ravel()
    places = np.searchsorted(known[order], pixels).clip(max=len(known) - 1)
    unknown = np.unique(pixels[known[order][places] != pixels])
    if len(unknown):
        raise ValueError(f"pixels of the {what} have ids that are not among its segments: {short_list(unknown.tolist())}")
    labels = np.array([-1, *(int(segment["label"]) for segment in segments)], dtype=np.int64)
    crowd = np.array([False, *(bool(segment.get("crowd", False)) for segment in segments)], dtype=bool)
    return _Segments(labels, crowd), order[places]


def panoptic_scores(matches: Sequence[PanopticMatches], classes: int) -> PanopticScores:
    """Quality of each class over all pictures.

    SQ is the mean overlap of matches (0 without one), RQ = TP / (TP + FP / 2 + FN / 2), PQ = SQ RQ.
    """
    overlap = np.zeros(classes)
    matched, false, missed = (np.zeros(classes, dtype=np.int64) for _ in range(3))
    for one in matches:
        np.add.at(overlap, one.labels, one.ious)
        for counts, labels in ((matched, one.labels), (false, one.false_labels), (missed, one.missed_labels)):
            np.add.at(counts, labels, 1)
    weight = matched + false / 2 + missed / 2
    nothing = np.where(weight > 0, 0.0, np.nan)
    sq = np.divide(100 * overlap, matched, out=nothing.copy(), where=matched > 0)
    rq = np.divide(100 * matched, weight, out=nothing.copy(), where=weight > 0)
    pq = np.divide(100 * overlap, weight, out=nothing.copy(), where=weight > 0)
    return PanopticScores(pq, sq, rq, matched, false, missed)


def panoptic_means(scores: PanopticScores, is_thing: Sequence[bool]) -> dict[str, float]:
    """PQ, SQ, RQ as means over all classes that occur, and over things and stuff alone."""
    things = np.asarray(is_thing, dtype=bool)
    groups = zip(_GROUPS, (np.ones_like(things), things, ~things), strict=True)
    tables = {"PQ": scores.pq, "SQ": scores.sq, "RQ": scores.rq}
    return {f"{name}{group}": nan_mean(table[chosen]) for group, chosen in groups for name, table in tables.items()}


class PanopticEvaluator(DatasetEvaluator):
    """``PQ``, ``SQ``, ``RQ``, and the same with ``_things`` and ``_stuff``, percent; NaN where there is no class.

    Reads ``outputs["panoptic"]``, for each picture (H, W) segment ids at its original size and the segments (id, label).

    Args:
        truth: data set with segments; image ids are its indices.
        classwise: ``table`` has a row for each class, of many the 30 worst; ``scores`` has all.
        keep_predictions: keep the segments, too, as PNG, for ``write``.
        predictions_only: keep the segments and compute nothing: annotations are not needed.

    Attributes:
        scores: after ``evaluate`` on rank 0, numbers of each class.
    """

    def __init__(
        self, truth: PanopticTruth, *, classwise: bool = True, keep_predictions: bool = False, predictions_only: bool = False
    ) -> None:
        whole = len(truth.is_thing) == len(truth.class_names)
        self.class_names = [*truth.class_names, *(() if whole else truth.stuff_names)]
        self.category_ids = [*truth.category_ids, *(() if whole else truth.stuff_ids)]
        check_classes(truth, self.class_names)
        if not predictions_only:
            check_kind(truth, "panoptic", "PQ")
        self.truth, self.classwise = truth, classwise
        self.keep_predictions, self.predictions_only = keep_predictions or predictions_only, predictions_only
        super().__init__(truth.name, range(len(truth)))

    def reset(self) -> None:
        """Forget all predictions and results."""
        super().reset()
        self.scores: PanopticScores | None = None

    def collect(self, inputs: Inputs, outputs: Any) -> Columns:
        """Matches of each picture, which are few numbers."""
        if "panoptic" not in outputs:
            raise ValueError(
                f"{self.name}: the model returns {short_list(sorted(outputs)) or 'nothing'}, but its evaluation needs "
                "'panoptic'; choose EVAL.METRICS that fit the heads of the model"
            )
        found = [(to_numpy(ids), list(segments)) for ids, segments in outputs["panoptic"]]
        for index, (_, segments) in zip(inputs.ids.tolist(), found, strict=False):
            self._check(index, segments)
        kept: Columns = {"matches": [None] * len(found)}
        if not self.predictions_only:
            kept["matches"] = [self._match(i, *one) for i, one in zip(inputs.ids.tolist(), found, strict=False)]
        if self.keep_predictions:
            kept["png"] = [encode_png(id_colours(ids)) for ids, _ in found]
            kept["segments"] = [_plain(ids, segments, self.category_ids) for ids, segments in found]
        return kept

    def _check(self, index: int, segments: Sequence[Segment]) -> None:
        classes = len(self.class_names)
        wrong = [int(s["label"]) for s in segments if not 0 <= int(s["label"]) < classes]
        if wrong:
            raise ValueError(
                f"{self.name}: the model finds class {wrong[0]} in picture {index}, but the data set has classes 0 to "
                f"{classes - 1}; the number of classes of the heads does not fit the data set"
            )

    def _match(self, index: int, ids: NDArray[Any], segments: Sequence[Segment]) -> PanopticMatches:
        try:
            return panoptic_matches(*self.truth.panoptic(index), ids, segments)
        except ValueError as error:
            raise ValueError(f"{self.name}, picture {self.truth.annotations(index).file}: {error}") from error

    def compute(self) -> dict[str, float]:
        """The metrics; fills ``scores``."""
        if self.predictions_only:
            return {}
        classes = len(self.class_names)
        self.scores = panoptic_scores(self.columns["matches"], classes)
        absent = [self.class_names[c] for c in np.flatnonzero(np.isnan(self.scores.pq)).tolist()]
        if absent:
            log_once(
                f"{self.name}: no segment of {len(absent)} of {classes} classes in the ground truth or the predictions "
                f"({short_list(absent)}); their numbers are NaN and means leave them out"
            )
        return panoptic_means(self.scores, self.truth.is_thing)

    def result_names(self) -> list[str]:
        """What ``evaluate`` returns, known before."""
        return [] if self.predictions_only else [f"{name}{group}" for group in _GROUPS for name in ("PQ", "SQ", "RQ")]

    def class_tables(self) -> dict[str, ClassNumbers]:
        """PQ, SQ, RQ and segments of each class."""
        scores = self.scores
        if scores is None:
            return {}
        columns = {"PQ": scores.pq, "SQ": scores.sq, "RQ": scores.rq}
        counts = {"matched": scores.matched, "false": scores.false, "missed": scores.missed}
        return {"panoptic": ClassNumbers(self.class_names, {**columns, **counts})}

    def table(self) -> str:
        """The results and numbers of the classes as lines of text, for rank 0 after ``evaluate``."""
        if self.scores is None:
            return self.no_metrics()
        rows = self.class_tables()["panoptic"].lines() if self.classwise else []
        return "\n".join([result_line(self.results), *rows])

    def write(self, prefix: str | Path) -> list[Path]:
        """Write ``<prefix>.panoptic.json`` and ``<prefix>.panoptic/<picture>.png``, on rank 0 after ``evaluate``.

        Ids of pictures and categories are those of the annotation file; a pixel's segment is R + 256 G + 65536 B.

        Raises:
            ValueError: the segments were not kept.
        """
        if "png" not in self.columns:
            raise ValueError(f"{self.name}: no segments were kept to write; construct the evaluator with keep_predictions=True")
        names, folder, entries = picture_stems(self.truth), Path(f"{prefix}.panoptic"), []
        rows = zip(self.expected_ids, self.columns["png"], self.columns["segments"], strict=True)
        for index, png, segments in rows:
            path = write_bytes(folder / f"{names[index]}.png", png)
            image = self.truth.image_id(index)
            entries.append({"image_id": image, "file_name": path.name, "segments_info": segments})
        return [write_json(f"{prefix}.panoptic.json", {"annotations": entries}), folder]


def id_colours(ids: NDArray[Any]) -> NDArray[np.uint8]:
    """(H, W, 3) RGB of segment ids below 2**24, as in files of the COCO panoptic format."""
    colours: NDArray[np.uint8] = np.stack([ids & 255, ids >> 8 & 255, ids >> 16 & 255], axis=-1).astype(np.uint8)
    return colours


def colour_ids(colours: NDArray[Any]) -> NDArray[np.int32]:
    """(H, W) segment ids of (H, W, 3) RGB."""
    parts = colours.astype(np.int32)
    ids: NDArray[np.int32] = parts[..., 0] + (parts[..., 1] << 8) + (parts[..., 2] << 16)
    return ids


def _plain(ids: NDArray[Any], segments: Sequence[Segment], category_ids: Sequence[int]) -> list[dict[str, Any]]:
    """Segments with at least one pixel, as in files."""
    present = set(np.unique(ids).tolist())
    return [
        {
            "id": int(s["id"]),
            "category_id": int(category_ids[int(s["label"])]),
            "area": int((ids == int(s["id"])).sum()),
            "bbox": _box(ids == int(s["id"])),
            "iscrowd": 0,
        }
        for s in segments
        if int(s["id"]) in present
    ]


def _box(mask: NDArray[np.bool_]) -> list[int]:
    """x, y, width, height of a mask with at least one pixel."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [int(columns[0]), int(rows[0]), int(columns[-1] - columns[0] + 1), int(rows[-1] - rows[0] + 1)]
