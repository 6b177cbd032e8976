"""Sheets of an evaluation show truth and prediction of the chosen images, whatever the sizes and the number of processes."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pet.visualization import DetectionPictures, palette, training_mosaic
from pet.visualization.detections import display, instances_of, truth_of
from tests.helpers import run_ranks

NAMES = ["cat", "dog", "owl"]
CAT, DOG, OWL = (tuple(c) for c in palette("distinct", 3).tolist())
ORIGINAL, INPUT = (600, 800), (150, 200)


@dataclass
class Inputs:
    ids: torch.Tensor
    images: torch.Tensor
    targets: dict[str, Any] = field(default_factory=dict)


class Bitmaps:
    """What is used of ``pet.data.masks.InstanceMasks``."""

    def __init__(self, bitmaps: np.ndarray) -> None:
        self.bitmaps = bitmaps

    def resize(self, size: tuple[int, int]) -> Bitmaps:
        rows = np.arange(size[0]) * self.bitmaps.shape[1] // size[0]
        columns = np.arange(size[1]) * self.bitmaps.shape[2] // size[1]
        return Bitmaps(self.bitmaps[:, rows][:, :, columns])

    def to_bitmaps(self) -> np.ndarray:
        return self.bitmaps.astype(np.uint8)


class Pictures:
    """Nine pictures with one cat each, and maps that are half owl."""

    name, class_names, stuff_names, semseg_names = "toys", NAMES[:2], NAMES[2:], NAMES
    is_thing, skeleton = [True, True, False], [(0, 1)]

    def __init__(self, *kinds: str) -> None:
        self.kinds = frozenset(kinds)

    def __len__(self) -> int:
        return 9

    def annotations(self, index: int) -> Any:
        masks = np.zeros((1, *ORIGINAL), np.uint8)
        masks[0, 200:400, 200:400] = 1
        return SimpleNamespace(
            file=f"folder/{index}.jpg",
            boxes=np.array([[200.0, 200, 400, 400]], np.float32),
            labels=np.array([0]),
            crowd=np.array([False]),
            difficult=np.array([False]),
            masks=Bitmaps(masks) if "masks" in self.kinds else None,
            keypoints=np.array([[[250.0, 250, 2], [350, 350, 2]]]) if "keypoints" in self.kinds else None,
        )

    def semseg(self, index: int) -> np.ndarray:
        classes = np.zeros(ORIGINAL, np.uint8)
        classes[:, 400:] = 2
        return classes

    def panoptic(self, index: int) -> tuple[np.ndarray, list[dict[str, Any]]]:
        return self.semseg(index).astype(np.int32) + 1, [{"id": 1, "label": 0}, {"id": 3, "label": 2}]


def batch(id: int) -> Inputs:
    images = torch.full((1, 3, 160, 224), 50, dtype=torch.uint8)
    images[:, :, INPUT[0] :] = 255
    images[:, :, :, INPUT[1] :] = 255
    return Inputs(torch.tensor([id]), images, {"sizes": [INPUT], "original_sizes": [ORIGINAL]})


def found(**more: Any) -> dict[str, Any]:
    instances = {
        "boxes": torch.tensor([[100.0, 100, 300, 300], [400, 400, 500, 500]]),
        "scores": torch.tensor([0.9, 0.2]),
        "labels": torch.tensor([1, 1]),
        **more,
    }
    return {"instances": [instances]}


def sheet(dataset: Pictures, outputs: dict[str, Any], name: str, **options: Any) -> np.ndarray:
    pictures = DetectionPictures(dataset, 1, **options)
    pictures.process(batch(next(iter(pictures.ids))), outputs)
    drawn = pictures.pictures()
    assert list(drawn) == [name]
    return drawn[name]


def colours(picture: np.ndarray) -> set[tuple[int, ...]]:
    return {tuple(c) for c in np.unique(picture.reshape(-1, 3), axis=0).tolist()}


def rank_pictures(rank: int, world: int) -> dict[str, np.ndarray]:
    pictures = DetectionPictures(Pictures("boxes"), 4)
    for id in range(rank, 9, world):
        pictures.process(batch(id), found())
    return pictures.pictures()


@pytest.mark.distributed
def test_pictures_are_the_same_for_two_processes() -> None:
    alone = rank_pictures(0, 1)
    first, second = run_ranks(2, rank_pictures, 2)
    assert second == {}
    np.testing.assert_array_equal(first["predictions"], alone["predictions"])


def test_truth_is_left_and_predictions_are_right_without_the_padding() -> None:
    picture = sheet(Pictures("boxes"), found(), "predictions", show={"box"})
    top, left, height, width, gap = 34 + 12, 12, 300, 400, 4
    truth = picture[top : top + height, left : left + width]
    predicted = picture[top : top + height, left + width + gap : left + 2 * width + gap]
    assert colours(truth) == {(50, 50, 50), CAT}
    assert colours(predicted) == {(50, 50, 50), DOG}
    assert tuple(truth[100, 100]) == CAT  # 200, 200 of the original picture
    assert tuple(predicted[50, 50]) == DOG


def test_without_truth_the_prediction_stands_alone() -> None:
    with_truth, alone = (sheet(Pictures(*kinds), found(), "predictions", show={"box"}) for kinds in (("boxes",), ()))
    assert alone.shape[1] < with_truth.shape[1]
    assert CAT not in colours(alone)


@pytest.mark.parametrize(("threshold", "count"), [(0.5, 1), (0.1, 2), (0.95, 0)])
def test_objects_below_the_threshold_are_left_out(threshold: float, count: int) -> None:
    assert len(instances_of(found()["instances"][0], threshold, 0.0)) == count


def test_masks_and_keypoints_of_original_size_are_drawn() -> None:
    masks = torch.zeros(2, *ORIGINAL, dtype=torch.bool)
    masks[:, 100:300, 100:300] = True
    points = torch.tensor([[[150.0, 150, 1], [250, 250, 1]]]).repeat(2, 1, 1)
    outputs = found(masks=masks, keypoints=points, keypoint_scores=torch.tensor([[5.0, -1.0]] * 2))
    plain = sheet(Pictures("boxes", "masks", "keypoints"), found(), "predictions")
    full = sheet(Pictures("boxes", "masks", "keypoints"), outputs, "predictions")
    changed = (plain != full).any(axis=2)[46:346, 416:816]
    assert changed[60:140, 60:140].all()
    assert not changed[160:].any()
    chosen = instances_of(outputs["instances"][0], 0.5, 2.0)
    assert chosen.keypoints is not None
    assert chosen.keypoints[0, :, 2].tolist() == [2.0, 0.0]


@pytest.mark.parametrize("name", ["semseg", "panoptic"])
def test_maps_come_with_truth_and_legend(name: str) -> None:
    dataset = Pictures(name)
    output = torch.tensor(dataset.semseg(0)) if name == "semseg" else dataset.panoptic(0)
    picture = sheet(dataset, {name: [output]}, name)
    np.testing.assert_array_equal(picture[100, 20:400], picture[100, 424:804])
    assert OWL in colours(picture[360:])
    assert (CAT in colours(picture[360:])) is (name == "semseg")  # things have their names in the picture


def test_proposals_and_classes_of_whole_pictures_are_drawn() -> None:
    proposals = {"boxes": torch.rand(100, 4) * 100 + torch.tensor([0.0, 0, 200, 200]), "scores": torch.rand(100)}
    sheet(Pictures("boxes"), {"proposals": [proposals]}, "proposals")
    sheet(Pictures(), {"scores": torch.tensor([[0.1, 0.9]])}, "classes")


def test_kinds_that_are_switched_off_or_absent_make_no_sheet() -> None:
    pictures = DetectionPictures(Pictures("boxes"), 9, show={"semseg"})
    pictures.process(batch(0), found())
    assert pictures.pictures() == {}


def test_reset_forgets() -> None:
    pictures = DetectionPictures(Pictures("boxes"), 9)
    pictures.process(batch(0), found())
    pictures.reset()
    assert pictures.pictures() == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_images": 0}, "at least 1"),
        ({"show": {"boxes"}}, "no 'boxes' to show"),
        ({"colours": "viridis"}, "no palette 'viridis'"),
    ],
    ids=["count", "show", "palette"],
)
def test_mistakes_are_named_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DetectionPictures(Pictures("boxes"), **{"num_images": 4, **options})


def test_crowds_and_difficult_objects_bear_a_note() -> None:
    truth = Pictures("boxes").annotations(0)
    truth.crowd = np.array([True])
    assert truth_of(truth, ORIGINAL, (300, 400)).notes == ("crowd",)
    np.testing.assert_allclose(truth_of(truth, ORIGINAL, (300, 400)).boxes, [[100, 100, 200, 200]])


@pytest.mark.parametrize(
    ("size", "shown"), [((64, 64), (256, 256)), ((600, 800), (300, 400)), ((100, 1000), (48, 480)), ((200, 200), (300, 300))]
)
def test_images_are_shown_at_sizes_that_make_rows(size: tuple[int, int], shown: tuple[int, int]) -> None:
    assert display(torch.zeros(3, size[0] + 32, size[1] + 32, dtype=torch.uint8), size).shape[:2] == shown


def test_mosaic_shows_a_training_batch_with_all_that_belongs_to_it() -> None:
    images = torch.full((2, 3, 64, 96), 50, dtype=torch.uint8)
    targets = {
        "sizes": [(64, 64), (48, 96)],
        "boxes": [torch.tensor([[8.0, 8, 40, 40]]), torch.zeros(0, 4)],
        "labels": [torch.tensor([1]), torch.zeros(0, dtype=torch.int64)],
        "masks": [torch.ones(1, 64, 64, dtype=torch.uint8), torch.zeros(0, 48, 96, dtype=torch.uint8)],
        "keypoints": [torch.tensor([[[20.0, 20, 2]]]), torch.zeros(0, 1, 3)],
        "semseg": torch.full((2, 64, 96), 2, dtype=torch.uint8),
        "label": torch.tensor([0, -1]),
    }
    full = training_mosaic(Inputs(torch.arange(2), images, targets), NAMES, "toys")
    bare = training_mosaic(Inputs(torch.arange(2), images, {"sizes": targets["sizes"]}), NAMES, limit=1)
    assert OWL in colours(full)
    assert (full == CAT).all(axis=2).any()
    assert bare.shape[1] < full.shape[1]
