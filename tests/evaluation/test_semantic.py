"""Semantic numbers follow the counts of pixels."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from pet.evaluation import SemanticEvaluator
from pet.evaluation.semantic import pixel_confusion, semantic_scores
from tests.evaluation.fakes import Rows, Truth, run

KINDS = frozenset({"semseg"})


def truth_of(*maps: Any, **more: Any) -> Truth:
    arrays = [np.array(one, np.uint8) for one in maps]
    rows = [Rows(height=one.shape[0], width=one.shape[1]) for one in arrays]
    return Truth(rows, kinds=KINDS, maps=arrays, **more)


def test_numbers_by_hand() -> None:
    #            cat 3 of 4 right, dog 1 of 2 right, owl absent, one pixel not judged
    truth = truth_of([[0, 0, 0, 0, 1, 1, 255]])
    evaluator = SemanticEvaluator(truth)
    results = run(evaluator, [torch.tensor([[0, 0, 0, 1, 1, 0, 2]])], "semseg")
    expected = {"mIoU": 100 * (3 / 5 + 1 / 3) / 2, "aAcc": 400 / 6, "mAcc": 62.5, "fwIoU": 100 * (4 * 3 / 5 + 2 / 3) / 6}
    assert results == pytest.approx(expected)
    assert evaluator.confusion is not None
    assert evaluator.confusion.tolist() == [[3, 1, 0], [1, 1, 0], [0, 0, 0]]
    assert evaluator.table().splitlines()[-1].split() == ["owl", "-", "-", "0"]


def test_class_that_is_predicted_but_absent_counts_zero(caplog: pytest.LogCaptureFixture) -> None:
    truth = truth_of([[0, 0]], name="cats only")
    with caplog.at_level(logging.WARNING, "pet"):
        results = run(SemanticEvaluator(truth), [torch.tensor([[0, 2]])], "semseg")
    assert results == pytest.approx({"mIoU": 25, "aAcc": 50, "mAcc": 50, "fwIoU": 50})
    assert "cats only: 1 of 3 classes are neither in the ground truth nor predicted (dog)" in caplog.text


def test_nothing_to_judge_is_nan() -> None:
    results = run(SemanticEvaluator(truth_of([[255, 255]], name="void")), [torch.tensor([[0, 1]])], "semseg")
    assert all(np.isnan(value) for value in results.values())


def test_pictures_of_any_size_add_up_and_only_pairs_are_kept() -> None:
    rng = np.random.default_rng(0)
    maps = [rng.choice([0, 1, 2, 255], size).astype(np.uint8) for size in ((30, 40), (7, 9), (50, 3))]
    outputs = [rng.integers(0, 3, one.shape) for one in maps]
    evaluator = SemanticEvaluator(truth_of(*maps))
    results = run(evaluator, [torch.as_tensor(one) for one in outputs], "semseg")
    whole = pixel_confusion(np.concatenate([m.ravel() for m in maps]), np.concatenate([o.ravel() for o in outputs]), 3)
    assert results == semantic_scores(whole).values
    assert all(len(places) <= 9 for places, _ in evaluator.columns["pairs"])
    assert set(evaluator.columns) == {"pairs", "id"}


def test_perfect_maps_of_photographs_score_100(shared_data: Path) -> None:
    folder = shared_data / "segmentation" / "coco128_panoptic" / "semantic_masks"
    maps = [cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in sorted(folder.rglob("*.png"))[:6]]
    present = np.unique(np.concatenate([one.ravel() for one in maps]))
    ranks = np.full(256, 255, np.uint8)
    ranks[present] = np.arange(len(present))
    truth = truth_of(*(ranks[one] for one in maps))
    truth.class_names, truth.category_ids = [f"c{value}" for value in present], present.tolist()
    results = run(SemanticEvaluator(truth), [torch.as_tensor(ranks[one]) for one in maps], "semseg")
    assert results == pytest.approx(dict.fromkeys(results, 100))


def test_wrong_maps_are_named() -> None:
    truth = truth_of([[0, 1]])
    for output, message in (([[0]], r"p0.jpg: the prediction has shape \(1, 1\)"), ([[0, 3]], "has class 3; classes are 0 to 2")):
        with pytest.raises(ValueError, match=message):
            run(SemanticEvaluator(truth), [torch.tensor(output)], "semseg")
    with pytest.raises(ValueError, match="needs 'semseg'"):
        run(SemanticEvaluator(truth), [{}])
    with pytest.raises(ValueError, match="no annotations of kind 'semseg', so mIoU"):
        SemanticEvaluator(Truth([Rows()]))


def test_files_hold_category_ids(tmp_path: Path) -> None:
    truth = Truth([Rows(file="a/x.jpg"), Rows(file="b/x.jpg")], kinds=frozenset())
    evaluator = SemanticEvaluator(truth, predictions_only=True)
    assert run(evaluator, [torch.tensor([[0, 1]]), torch.tensor([[2, 2]])], "semseg") == {}
    (folder,) = evaluator.write(tmp_path / "run")
    assert folder.name == "run.semseg"
    assert {p.name: cv2.imread(str(p), cv2.IMREAD_UNCHANGED).tolist() for p in folder.iterdir()} == {
        "a_x.png": [[10, 20]],
        "b_x.png": [[30, 30]],
    }
    assert SemanticEvaluator(truth, predictions_only=True).table() == "0 images, predictions only"
    plain = SemanticEvaluator(truth_of([[0, 1]]))
    run(plain, [torch.tensor([[0, 1]])], "semseg")
    with pytest.raises(ValueError, match="keep_predictions=True"):
        plain.write(tmp_path / "run")


def test_classes_of_pixels_may_be_others_than_those_of_instances(tmp_path: Path) -> None:
    truth = truth_of([[0, 1]], stuff_names=("sky",), semseg_names=("sky", "things"), semseg_ids=(40, 99))
    evaluator = SemanticEvaluator(truth, keep_predictions=True)
    assert run(evaluator, [torch.tensor([[0, 1]])], "semseg")["mIoU"] == 100
    (folder,) = evaluator.write(tmp_path / "run")
    assert cv2.imread(str(folder / "p0.png"), cv2.IMREAD_UNCHANGED).tolist() == [[40, 99]]
