"""Cityscapes instance AP discounts void, groups and small instances as its definition says; its files have its layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pet.evaluation import CityscapesEvaluator
from pet.evaluation.cityscapes import city_picture, cityscapes_average_precision
from pet.evaluation.instances import encode_masks
from tests.evaluation.fakes import FakeMasks, Rows, Truth, detections, perfect, random_truth, run

KINDS = frozenset({"boxes", "masks"})


def mask(x: int, width: int, height: int = 20) -> np.ndarray:
    """A strip of a picture of 40 x 50."""
    found = np.zeros((40, 50), np.uint8)
    found[:height, x : x + width] = 1
    return found


def ap(truth: Any, found: Any, void: np.ndarray | None = None, groups: Any = None) -> float:
    """AP at 0.5 of class 0 for masks of the truth and pairs (mask, score)."""
    masks = encode_masks(np.array(truth, np.uint8).reshape(-1, 40, 50))
    predicted = encode_masks(np.array([m for m, _ in found], np.uint8).reshape(-1, 40, 50))
    groups = groups or [False] * len(masks)
    picture = city_picture(
        (masks, np.zeros(len(masks)), np.array(groups)), (predicted, np.zeros(len(predicted)), np.array([s for _, s in found])),
        encode_masks(void[None])[0] if void is not None else None,
    )  # fmt: skip
    return float(cityscapes_average_precision([picture], 1)[0, 0])


CAR, OTHER = mask(0, 10), mask(20, 10)
# The curve starts at precision 1 and is summed by the trapezoidal rule: a mistake of the highest score costs three quarters.
CASES: dict[str, tuple[Any, ...]] = {
    "perfect": ([CAR, OTHER], [(CAR, 0.9), (OTHER, 0.8)], None, None, 1.0),
    "half found": ([CAR, OTHER], [(CAR, 0.9)], None, None, 0.5),
    "nothing found": ([CAR], [], None, None, 0.0),
    "nothing to find": ([], [(CAR, 0.9)], None, None, float("nan")),
    "overlap of exactly one half is none": ([mask(0, 10)], [(mask(0, 5), 0.9)], None, None, 0.0),
    "mistake above": ([CAR], [(CAR, 0.5), (OTHER, 0.9)], None, None, 0.25),
    "mistake below costs its step": ([CAR], [(CAR, 0.9), (OTHER, 0.5)], None, None, 1.0),
    "second find is a mistake": ([CAR], [(CAR, 0.9), (mask(0, 9), 0.95)], None, None, 1.0),
    "mistake on void is none": ([CAR], [(CAR, 0.5), (OTHER, 0.9)], mask(20, 6), None, 1.0),
    "half on void is still one": ([CAR], [(CAR, 0.5), (OTHER, 0.9)], mask(20, 5), None, 0.25),
    "mistake on a group is none": ([CAR, mask(20, 30)], [(CAR, 0.5), (OTHER, 0.9)], None, [False, True], 1.0),
    "group need not be found": ([CAR, OTHER], [(CAR, 0.5)], None, [False, True], 1.0),
    "small instance need not be found": ([CAR, mask(20, 4)], [(CAR, 0.5)], None, None, 1.0),
    "mistake on a small instance is none": ([CAR, mask(20, 4)], [(CAR, 0.5), (mask(20, 5), 0.9)], None, None, 1.0),
    "empty prediction is none": ([CAR], [(CAR, 0.5), (0 * CAR, 0.9)], None, None, 1.0),
}


@pytest.mark.parametrize("case", CASES)
def test_definition(case: str) -> None:
    truth, found, void, groups, expected = CASES[case]
    assert ap(truth, found, void, groups) == pytest.approx(expected, nan_ok=True)


def world() -> Truth:
    truth = random_truth(6)
    for row in truth.rows:
        row.crowd[:] = False
    truth.name = "streets"
    return truth


def test_perfect_masks_score_100() -> None:
    truth = world()
    evaluator = CityscapesEvaluator(truth)
    results = run(evaluator, [perfect(truth, i) for i in range(len(truth))])
    assert results == pytest.approx({"cityscapes_AP": 100, "cityscapes_AP50": 100})
    assert evaluator.table().splitlines()[1].split() == ["class", "AP", "AP50"]


@pytest.mark.parametrize("source", ["void_mask", "semseg"])
def test_void_comes_from_the_data_set(source: str) -> None:
    row = Rows([[0, 0, 10, 20]], [0], masks=FakeMasks(CAR[None]))
    found = [detections([[0, 0, 10, 20], [20, 0, 30, 20]], [0, 0], [0.5, 0.9], masks=np.stack([CAR, OTHER]).astype(bool))]
    plain = Truth([row], kinds=KINDS)
    assert run(CityscapesEvaluator(plain), found)["cityscapes_AP50"] < 100
    if source == "void_mask":
        plain.void_mask = lambda index: OTHER > 0  # type: ignore[attr-defined]
    else:
        plain = Truth([row], kinds=KINDS | {"semseg"}, maps=[np.where(OTHER > 0, 255, 0).astype(np.uint8)])
    assert run(CityscapesEvaluator(plain), found)["cityscapes_AP50"] == 100


def test_files_have_the_layout_of_the_benchmark(tmp_path: Path) -> None:
    truth = Truth([Rows(file="aachen/aachen_0_0_leftImg8bit.png"), Rows()], ("car", "bus"), frozenset(), category_ids=(26, 28))
    evaluator = CityscapesEvaluator(truth, predictions_only=True)
    masks = np.stack([CAR, OTHER]).astype(bool)
    assert (
        run(
            evaluator, [detections([[0, 0, 1, 1]] * 2, [1, 0], [0.25, 0.5], masks=masks), detections(masks=np.zeros((0, 40, 50)))]
        )
        == {}
    )
    (folder,) = evaluator.write(tmp_path / "run")
    lines = (folder / "aachen_0_0_leftImg8bit_pred.txt").read_text().splitlines()
    assert [line.split()[1:] for line in lines] == [["26", "0.5"], ["28", "0.25"]]
    assert (folder / "p1_pred.txt").read_text() == ""
    assert len(list(folder.glob("*.png"))) == 2
    image = cv2.imread(str(folder / lines[0].split()[0]), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(image, 255 * OTHER)


def test_data_without_masks_are_refused() -> None:
    with pytest.raises(ValueError, match="no annotations of kind 'masks', so cityscapes"):
        CityscapesEvaluator(Truth([Rows()]))
