from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from pycocotools import mask as coco

from pet.apis import Prediction, Predictor
from pet.data.names import LabelNames

Made = Callable[[str], Predictor]
BLUE = np.full((60, 80, 3), (30, 60, 200), np.uint8)
NAMES = LabelNames(("cat", "dog", "cow"))


def two_objects(**more: torch.Tensor) -> Prediction:
    """A sure dog, and a doubtful cat."""
    boxes = torch.tensor([[10.0, 20.0, 40.0, 50.0], [50.0, 5.0, 70.0, 25.0]])
    found = {"boxes": boxes, "scores": torch.tensor([0.9, 0.2]), "labels": torch.tensor([1, 0]), **more}
    return Prediction(BLUE, "photo.jpg", NAMES, {"instances": found})


def test_boxes_by_class() -> None:
    cats, dogs, cows = two_objects().per_class()
    assert dogs.dtype == np.float32
    np.testing.assert_array_equal(dogs, np.float32([[10, 20, 40, 50, 0.9]]))
    np.testing.assert_array_equal(cats, np.float32([[50, 5, 70, 25, 0.2]]))
    assert cows.shape == (0, 5)


def test_masks_by_class_are_read_by_pycocotools() -> None:
    masks = torch.zeros(2, 60, 80, dtype=torch.bool)
    masks[0, 20:50, 10:40] = True
    masks[1, 5:25, 50:60] = True
    boxes, lengths = two_objects(masks=masks).per_class()
    assert [len(part) for part in boxes] == [len(part) for part in lengths] == [1, 1, 0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # its array type does not know an argument of NumPy 2
        np.testing.assert_array_equal(coco.decode(lengths[1][0]), masks[0].numpy())
    assert coco.area(lengths[0][0]) == 200
    again = Prediction.from_per_class(BLUE, (boxes, lengths), NAMES).instances
    assert again["labels"].tolist() == [0, 1]
    assert torch.equal(again["masks"][1], masks[0])
    np.testing.assert_array_equal(again["boxes"][1], [10, 20, 40, 50])


def test_proposals_are_one_class_and_come_back(predictor: Made) -> None:
    prediction = predictor("proposals")(BLUE)
    (rows,) = prediction.per_class()
    assert rows.shape == (len(prediction.proposals["boxes"]), 5)
    again = Prediction.from_per_class(BLUE, [rows], prediction.names)
    assert again.instances is None
    assert torch.equal(again.proposals["scores"], prediction.proposals["scores"])


def test_a_model_without_boxes_says_what_it_predicts(predictor: Made) -> None:
    with pytest.raises(ValueError, match="it predicts semseg"):
        predictor("semseg")(BLUE).per_class()
    with pytest.raises(ValueError, match="it predicts instances"):
        _ = predictor("boxes")(BLUE).pred_class


def test_only_objects_above_the_threshold_are_drawn() -> None:
    prediction = two_objects()

    def changed(threshold: float) -> np.ndarray:
        return (prediction.draw(threshold) != BLUE).any(axis=2)

    assert prediction.draw(0.95).shape == BLUE.shape
    assert not changed(0.95).any()
    sure, both = changed(0.5), changed(0.1)
    assert sure[35, 10]
    assert sure[49, 25]
    assert not sure[15, 69]
    assert both[15, 69]


@pytest.mark.parametrize("kind", ["boxes", "masks", "keypoints", "proposals", "semseg", "panoptic", "classes"])
def test_everything_a_model_predicts_is_drawn_written_and_told(predictor: Made, photos: Path, tmp_path: Path, kind: str) -> None:
    prediction = predictor(kind)(photos / "1.png")
    drawn = prediction.draw(score_thr=0.0)
    assert drawn.shape == prediction.image.shape == (40, 64, 3)
    assert (drawn != prediction.image).any()
    assert prediction.save(tmp_path / "new" / "a.jpg", score_thr=0.0).is_file()
    assert max(cv2.imdecode(np.fromfile(tmp_path / "new" / "a.jpg", np.uint8), cv2.IMREAD_COLOR).shape) >= 380
    content = json.loads(prediction.save(tmp_path / "a.json").read_text())
    assert content == json.loads(prediction.to_json())
    assert (content["height"], content["width"]) == (40, 64)
    told = {"boxes": "instances", "masks": "instances", "keypoints": "instances", "classes": "scores"}.get(kind, kind)
    assert len(content[told]) > 0
    assert prediction.summary().startswith(str(photos / "1.png"))
    if kind in ("semseg", "panoptic"):
        areas = [int(coco.area(part["segmentation"])) for part in content[kind]]
        assert 0 < sum(areas) <= 40 * 64
        assert sum(areas) == 40 * 64 or kind == "panoptic"
    if kind == "masks":
        assert content["instances"][0]["segmentation"]["size"] == [40, 64]
    if kind == "keypoints":
        assert np.array(content["instances"][0]["keypoints"]).shape == (5, 3)


def test_the_class_of_a_picture(predictor: Made, photos: Path) -> None:
    model = predictor("classes")
    prediction = model(photos / "2.png")
    assert prediction.scores.sum() == pytest.approx(1.0, abs=1e-5)
    assert prediction.pred_label == int(np.argmax(prediction.scores.numpy()))
    assert prediction.pred_class == model.CLASSES[prediction.pred_label]
    assert prediction.pred_score == float(prediction.scores.max())
    assert f"{prediction.pred_class} {prediction.pred_score:.4f}" in prediction.summary()
