"""The confusion matrix of a detector counts each object and each detection once."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from pet.evaluation import detection_confusion
from pet.evaluation.confusion import match_boxes
from pet.evaluation.instances import Instances


def found(*rows: tuple[list[float], int, float]) -> Instances:
    """Detections from box, label and score."""
    boxes = np.array([row[0] for row in rows], np.float32).reshape(-1, 4)
    return Instances(boxes, np.array([row[2] for row in rows], np.float32), np.array([row[1] for row in rows], np.int64))


class Truth:
    """A data set of cats and dogs in memory."""

    name, class_names = "pets", ["cat", "dog"]

    def __init__(self, *pictures: list[tuple[list[float], int, str]]) -> None:
        self.pictures = pictures

    def __len__(self) -> int:
        return len(self.pictures)

    def annotations(self, index: int) -> SimpleNamespace:
        rows = self.pictures[index]
        return SimpleNamespace(
            boxes=np.array([row[0] for row in rows], np.float32).reshape(-1, 4),
            labels=np.array([row[1] for row in rows], np.int64),
            crowd=np.array([row[2] == "crowd" for row in rows], bool),
            difficult=np.array([row[2] == "difficult" for row in rows], bool),
        )


LEFT, RIGHT, FAR = [0, 0, 10, 10], [20, 0, 30, 10], [100, 100, 110, 110]


def test_right_wrong_missed_and_made_up_are_told_apart() -> None:
    truth = Truth([(LEFT, 0, ""), (RIGHT, 1, "")], [(LEFT, 1, "")])
    detections = [found((LEFT, 0, 0.9), (RIGHT, 0, 0.8), (FAR, 1, 0.7)), found()]
    assert detection_confusion(truth, detections).tolist() == [[1, 0, 0], [1, 0, 1], [0, 1, 0]]


def test_a_second_detection_of_an_object_is_made_up_and_the_closer_one_counts() -> None:
    truth = Truth([(LEFT, 0, "")])
    assert detection_confusion(truth, [found(([0, 0, 10, 8], 1, 0.9), (LEFT, 0, 0.5))]).tolist() == [
        [1, 0, 0],
        [0, 0, 0],
        [0, 1, 0],
    ]


def test_score_and_overlap_that_are_needed_can_be_chosen() -> None:
    truth, half = Truth([(LEFT, 0, "")]), found(([0, 0, 10, 6], 0, 0.4))
    assert detection_confusion(truth, [half], iou=0.5, score=0.3)[0, 0] == 1
    assert detection_confusion(truth, [half], iou=0.7, score=0.3)[0, 2] == 1
    assert detection_confusion(truth, [half], iou=0.5, score=0.5).tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize("kind", ["crowd", "difficult"])
def test_what_is_not_judged_counts_neither_way(kind: str) -> None:
    truth = Truth([(LEFT, 0, kind), (RIGHT, 1, "")])
    assert detection_confusion(truth, [found((LEFT, 0, 0.9), (LEFT, 1, 0.9), (RIGHT, 1, 0.9))]).tolist() == [
        [0, 0, 0],
        [0, 1, 0],
        [0, 0, 0],
    ]


def test_small_detections_inside_a_crowd_are_absorbed() -> None:
    assert not detection_confusion(Truth([([0, 0, 100, 100], 0, "crowd")]), [found((LEFT, 0, 0.9))]).any()


@pytest.mark.parametrize(("iou", "score"), [(0.0, 0.5), (1.1, 0.5), (0.5, -0.1), (0.5, 1.1)])
def test_impossible_limits_are_refused(iou: float, score: float) -> None:
    with pytest.raises(ValueError, match=r"iou is .* and score"):
        detection_confusion(Truth([]), [found()], iou=iou, score=score)


def test_every_picture_needs_an_entry() -> None:
    with pytest.raises(ValueError, match="0 entries of detections for the 1 pictures of pets"):
        detection_confusion(Truth([]), [])


def test_sums_on_the_results_of_the_coco_api_are_those_of_its_files(shared_data: Path) -> None:
    folder = shared_data / "evaluation" / "coco_val2014_fake100"
    content = json.loads((folder / "instances_val2014_100.json").read_text())
    results = json.loads((folder / "instances_val2014_fakebbox100_results.json").read_text())
    images = [image["id"] for image in content["images"]]
    label = {id: number for number, id in enumerate(sorted(c["id"] for c in content["categories"]))}

    def corners(entry: dict) -> list[float]:
        x, y, w, h = entry["bbox"]
        return [x, y, x + w, y + h]

    truth = Truth(
        *[
            [
                (corners(a), label[a["category_id"]], "crowd" if a["iscrowd"] else "")
                for a in content["annotations"]
                if a["image_id"] == id
            ]
            for id in images
        ]
    )
    truth.class_names = [str(id) for id in label]
    detections = [
        found(*[(corners(d), label[d["category_id"]], d["score"]) for d in results if d["image_id"] == id]) for id in images
    ]
    counts = detection_confusion(truth, detections, score=0.2)
    wanted = np.bincount([label[a["category_id"]] for a in content["annotations"] if not a["iscrowd"]], minlength=80)
    assert counts[:80].sum(axis=1).tolist() == wanted.tolist()
    made = np.bincount([label[d["category_id"]] for d in results if d["score"] >= np.float32(0.2)], minlength=80)
    assert (counts[:, :80].sum(axis=0) <= made).all()
    assert counts[:80, :80].trace() > 300


def test_pairs_overlap_as_torchvision_says_and_the_closest_pair_comes_first() -> None:
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(2, 12, 2, generator=generator) * 20
    boxes = torch.cat([corners, corners + 5 + torch.rand(2, 12, 2, generator=generator) * 10], dim=2)
    ious = box_iou(boxes[0], boxes[1]).numpy()
    pairs = match_boxes(ious, 0.1)
    assert ious[pairs[0]] == ious.max()
    assert len({row for row, _ in pairs}) == len({column for _, column in pairs}) == len(pairs)
    left = np.delete(np.delete(ious, [row for row, _ in pairs], 0), [column for _, column in pairs], 1)
    assert (left < 0.1).all(), "nobody who could be matched is left over"
