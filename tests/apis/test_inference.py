"""What users of MMDetection and MMClassification type."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from pet.apis import inference_classifier, inference_detector, init_classifier, init_detector
from tests.apis.models import Saved

SavedModel = Callable[[str], Saved]


def test_detector_on_a_path_and_on_an_array_of_opencv(saved: SavedModel, photos: Path) -> None:
    config, checkpoint = saved("boxes")
    model = init_detector(str(config), str(checkpoint), device="cpu")
    path = str(photos / "0.png")
    result, same = inference_detector(model, path), inference_detector(model, cv2.imread(path))
    assert len(result) == len(model.CLASSES) == 10
    assert all(part.shape[1:] == (5,) for part in result)
    assert sum(map(len, result)) > 5
    for one, other in zip(result, same, strict=True):
        np.testing.assert_array_equal(one, other)
    several = inference_detector(model, [path, cv2.imread(path)])
    assert isinstance(several, list)
    assert len(several) == 2
    np.testing.assert_allclose(np.concatenate(several[1]), np.concatenate(result), atol=1e-4)
    assert model.cfg.MODEL.NUM_CLASSES == 10
    assert not model.training


def test_detector_with_masks_gives_a_pair(saved: SavedModel, photos: Path) -> None:
    model = init_detector(*saved("masks"), device="cpu", cfg_options={"MODEL.ROI_HEAD.FASTER.DETECTIONS_PER_IMG": 4})
    boxes, masks = inference_detector(model, str(photos / "0.png"))
    assert [len(part) for part in boxes] == [len(part) for part in masks]
    assert sum(map(len, boxes)) == 4
    drawn = model.show_result(str(photos / "0.png"), (boxes, masks), score_thr=0.0)
    assert drawn.shape == (60, 44, 3)


def test_show_result_draws_in_bgr_and_writes_the_file(saved: SavedModel, photos: Path, tmp_path: Path) -> None:
    model = init_detector(*saved("boxes"), device="cpu")
    image = cv2.imread(str(photos / "0.png"))
    result = inference_detector(model, image)
    before = image.copy()
    drawn = model.show_result(image, result, score_thr=0.05, out_file=tmp_path / "new" / "folder" / "result.png")
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "new" / "folder" / "result.png")), drawn)
    untouched = (drawn == image).all(axis=2)
    assert 0 < untouched.sum() < untouched.size
    np.testing.assert_array_equal(model.show_result(image, result, score_thr=1.0), image)


def test_show_without_a_display_names_out_file(saved: SavedModel, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    model = init_detector(*saved("boxes"), device="cpu")
    image = cv2.imread(str(photos / "0.png"))
    with pytest.raises(OSError, match="out_file"):
        model.show_result(image, inference_detector(model, image), show=True)


def test_classifier(saved: SavedModel, photos: Path) -> None:
    config, checkpoint = saved("classes")
    model = init_classifier(config, checkpoint, device="cpu")
    result = inference_classifier(model, str(photos / "0.png"))
    assert result.keys() == {"pred_label", "pred_score", "pred_class"}
    assert model.CLASSES[result["pred_label"]] == result["pred_class"]
    assert 0.1 <= result["pred_score"] <= 1
    assert inference_classifier(model, [cv2.imread(str(photos / "0.png"))]) == [result]
    image = np.full((300, 300, 3), 255, np.uint8)
    assert (model.show_result(image, result) != image).any()


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("none.png", FileNotFoundError, "none.png does not exist"),
        ("notes.txt", ValueError, "cannot read image .*notes.txt"),
        (".", IsADirectoryError, "is a folder"),
    ],
)
def test_a_wrong_picture_is_told(saved: SavedModel, photos: Path, name: str, error: type[Exception], words: str) -> None:
    model = init_detector(*saved("boxes"), device="cpu")
    with pytest.raises(error, match=words):
        inference_detector(model, str(photos / name))
