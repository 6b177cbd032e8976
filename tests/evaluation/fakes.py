"""A data set in memory with the truth that evaluators ask for, and models that are right or wrong on purpose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from pet.evaluation.instances import decode_mask, encode_masks


@dataclass
class Inputs:
    ids: torch.Tensor
    targets: dict[str, Any] = field(default_factory=dict)


@dataclass
class FakeMasks:
    bitmaps: np.ndarray

    def to_rles(self) -> list[dict[str, Any]]:
        return encode_masks(self.bitmaps)


@dataclass
class Rows:
    """Truth of one picture; only boxes and labels must be given."""

    boxes: Any = ()
    labels: Any = ()
    crowd: Any = None
    difficult: Any = None
    areas: Any = None
    masks: Any = None
    keypoints: Any = None
    height: int = 40
    width: int = 50
    file: str = ""
    image_id: int | str = 0
    negative: tuple[int, ...] = ()
    not_exhaustive: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        self.boxes = np.asarray(self.boxes, np.float32).reshape(-1, 4)
        self.labels = np.asarray(self.labels, np.int64).reshape(-1)
        count = len(self.labels)
        self.crowd = np.zeros(count, bool) if self.crowd is None else np.asarray(self.crowd, bool)
        self.difficult = np.zeros(count, bool) if self.difficult is None else np.asarray(self.difficult, bool)
        sides = self.boxes[:, 2:] - self.boxes[:, :2]
        self.areas = sides.prod(1).astype(float) if self.areas is None else np.asarray(self.areas, float)


@dataclass
class Truth:
    rows: Sequence[Rows]
    class_names: Sequence[str] = ("cat", "dog", "owl")
    kinds: frozenset[str] = frozenset({"boxes"})
    name: str = "fake"
    category_ids: Sequence[int] = ()
    stuff_names: Sequence[str] = ()
    semseg_names: Sequence[str] = ()
    semseg_ids: Sequence[int] = ()
    stuff_ids: Sequence[int] = ()
    is_thing: Sequence[bool] = ()
    sigmas: Sequence[float] | None = None
    frequency: Sequence[str] | None = None
    maps: Sequence[np.ndarray] = ()
    segments: Sequence[tuple[np.ndarray, list[dict[str, Any]]]] = ()

    def __post_init__(self) -> None:
        things = len(self.class_names)
        self.category_ids = self.category_ids or [10 * (c + 1) for c in range(things)]
        self.stuff_ids = [10 * (things + c + 1) for c in range(len(self.stuff_names))]
        self.is_thing = self.is_thing or [True] * len(self.class_names) + [False] * len(self.stuff_names)
        for index, row in enumerate(self.rows):
            row.file = row.file or f"pictures/p{index}.jpg"
            row.image_id = row.image_id or f"p_{index:03d}"

    def __len__(self) -> int:
        return len(self.rows)

    def annotations(self, index: int) -> Rows:
        return self.rows[index]

    def path(self, index: int) -> str:
        return self.rows[index].file

    def image_id(self, index: int) -> int | str:
        return self.rows[index].image_id

    def semseg(self, index: int) -> np.ndarray:
        return self.maps[index]

    def panoptic(self, index: int) -> tuple[np.ndarray, list[dict[str, Any]]]:
        return self.segments[index]


def detections(boxes: Any = (), labels: Any = (), scores: Any = None, **more: Any) -> dict[str, torch.Tensor]:
    """What a detector returns for one picture."""
    labels = torch.as_tensor(np.asarray(labels, np.int64).reshape(-1))
    scores = torch.full((len(labels),), 0.9) if scores is None else torch.as_tensor(np.asarray(scores, np.float32))
    found = {"boxes": torch.as_tensor(np.asarray(boxes, np.float32).reshape(-1, 4)), "labels": labels, "scores": scores}
    return found | {name: torch.as_tensor(np.asarray(value)) for name, value in more.items()}


def perfect(truth: Truth, index: int) -> dict[str, torch.Tensor]:
    """Detections equal to the truth of a picture, crowd left out."""
    row = truth.annotations(index)
    kept = ~row.crowd
    more: dict[str, Any] = {}
    if row.masks is not None:
        pixels = [decode_mask(rle) for rle in row.masks.to_rles()]
        more["masks"] = np.array(pixels, dtype=bool).reshape(len(kept), row.height, row.width)[kept]
    if row.keypoints is not None:
        more["keypoints"] = row.keypoints[kept]
    return detections(row.boxes[kept], row.labels[kept], **more)


def feed(
    evaluator: Any, outputs: Sequence[Any], key: str = "instances", ids: Sequence[int] | None = None, batch: int = 2
) -> None:
    """Hand the outputs of pictures to an evaluator in batches."""
    evaluator.reset()
    ids = list(range(len(outputs))) if ids is None else list(ids)
    for start in range(0, len(ids), batch):
        chosen = ids[start : start + batch]
        evaluator.process(Inputs(torch.tensor(chosen)), {key: [outputs[i] for i in chosen]})


def run(evaluator: Any, outputs: Sequence[Any], key: str = "instances") -> dict[str, float]:
    """The results for these outputs, after a check of their names."""
    feed(evaluator, outputs, key)
    results: dict[str, float] = evaluator.evaluate()
    assert list(results) == evaluator.result_names()
    assert isinstance(evaluator.table(), str)
    return results


def random_truth(pictures: int = 12, seed: int = 0, classes: int = 3) -> Truth:
    """Pictures with boxes, masks (ellipses) and keypoints; some are empty, some objects are crowds."""
    rng, rows = np.random.default_rng(seed), []
    y, x = np.mgrid[:160, :200]
    for index in range(pictures):
        count = 0 if index == 3 else int(rng.integers(1, 6))
        corner, side = rng.uniform(0, 90, (count, 2)), rng.uniform(8, 70, (count, 2)) * rng.choice([0.4, 1.0], (count, 1))
        boxes = np.concatenate([corner, corner + side], axis=1)
        centre, half = corner + side / 2, side / 2
        masks = [((x - c[0]) / h[0]) ** 2 + ((y - c[1]) / h[1]) ** 2 < 1 for c, h in zip(centre, half, strict=True)]
        bitmaps = np.array(masks, dtype=np.uint8).reshape(count, 160, 200)
        points = np.concatenate(
            [rng.uniform(boxes[:, None, :2], boxes[:, None, 2:], (count, 5, 2)), rng.integers(0, 3, (count, 5, 1))], 2
        )
        labels, crowd = rng.integers(0, classes, count), rng.random(count) < 0.15
        rows.append(
            Rows(
                boxes,
                labels,
                crowd,
                areas=bitmaps.sum((1, 2)),
                masks=FakeMasks(bitmaps),
                keypoints=points.astype(np.float32),
                height=160,
                width=200,
            )
        )
    kinds = frozenset({"boxes", "masks", "keypoints"})
    return Truth(rows, ("cat", "dog", "owl"), kinds, sigmas=(0.05, 0.1, 0.05, 0.1, 0.07))


def noisy(truth: Truth, seed: int = 0) -> list[dict[str, torch.Tensor]]:
    """Detections near the truth, with false ones, doubles, wrong classes and equal scores."""
    rng, found = np.random.default_rng(seed), []
    for row in truth.rows:
        pick = rng.integers(0, len(row.labels), 2 * len(row.labels)) if len(row.labels) else np.zeros(0, int)
        shift = rng.integers(-4, 5, (len(pick), 2))
        boxes = row.boxes[pick] + np.tile(shift, 2) + rng.normal(0, 1, (len(pick), 4))
        masks = np.array([np.roll(row.masks.bitmaps[k], tuple(s[::-1]), (0, 1)) for k, s in zip(pick, shift, strict=True)])
        labels = np.where(rng.random(len(pick)) < 0.85, row.labels[pick], rng.integers(0, 3, len(pick)))
        points = row.keypoints[pick] + np.concatenate([rng.normal(0, 3, (len(pick), 5, 2)), np.zeros((len(pick), 5, 1))], 2)
        masks = masks.reshape(len(pick), 160, 200).astype(bool)
        found.append(detections(boxes, labels, rng.random(len(pick)).round(1), masks=masks, keypoints=points.astype(np.float32)))
    return found
