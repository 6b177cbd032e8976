"""LVIS judges a class only in pictures where it was looked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pet.evaluation import LvisEvaluator
from pet.evaluation.coco_metrics import best_of_each_image, compressed_rle, lvis_metrics
from tests.evaluation.fakes import Rows, Truth, detections, perfect, random_truth, run

BOX, FAR = [0, 0, 10, 10], [20, 20, 30, 30]


@pytest.fixture(scope="module")
def lvis(shared_data: Path) -> Any:
    return json.loads((shared_data / "detection" / "lvis_val_100" / "lvis_val_100.json").read_text())


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_truth_as_predictions_scores_100(lvis: Any, kind: Any) -> None:
    sizes = {image["id"]: (image["height"], image["width"]) for image in lvis["images"]}
    found = []
    for entry in lvis["annotations"]:
        shape = (
            {"segmentation": compressed_rle(entry["segmentation"], *sizes[entry["image_id"]])}
            if kind == "segm"
            else {"bbox": entry["bbox"]}
        )
        found.append({"image_id": entry["image_id"], "category_id": entry["category_id"], "score": 0.5, **shape})
    scores = lvis_metrics(lvis, found, kind)
    assert list(scores.values) == ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR300", "ARs", "ARm", "ARl", "APr", "APc", "APf"]
    assert all(value == pytest.approx(100) for value in scores.values.values())
    assert int(scores.truths.sum()) == len(lvis["annotations"])


def judged(**more: Any) -> dict[str, float]:
    """One dog is found in picture 0; a false dog of a higher score is reported in picture 1."""
    truth = Truth([Rows([BOX], [1]), Rows([BOX], [0], **more)], frequency=("r", "c", "f"))
    return run(LvisEvaluator(truth), [detections([BOX], [1], [0.5]), detections([BOX, FAR], [0, 1], [0.9, 0.8])])


def test_class_that_was_not_looked_for_is_not_judged() -> None:
    assert judged()["bbox_APc"] == pytest.approx(100)


def test_class_known_to_be_absent_is_a_mistake() -> None:
    results = judged(negative=(1,))
    assert results["bbox_APc"] == pytest.approx(50)
    assert results["bbox_APr"] == pytest.approx(100)
    assert np.isnan(results["bbox_APf"])
    assert results["bbox_AP"] == pytest.approx(75)


def test_class_not_annotated_exhaustively_makes_no_mistakes() -> None:
    assert judged(negative=(1,), not_exhaustive=(1,))["bbox_APc"] == pytest.approx(100)


def test_only_the_best_detections_of_a_picture_count_over_all_classes() -> None:
    truth = Truth([Rows([BOX, FAR], [0, 1])], frequency=("f", "f", "f"))
    found = [detections([FAR, BOX], [1, 0], [0.3, 0.9])]
    assert run(LvisEvaluator(truth), found)["bbox_AP"] == pytest.approx(100)
    assert run(LvisEvaluator(truth, max_detections=1), found)["bbox_AP"] == pytest.approx(50)
    entries = [{"image_id": 1, "score": score, "n": n} for n, score in enumerate([0.1, 0.5, 0.5, 0.2])]
    assert [entry["n"] for entry in best_of_each_image(entries, 2)] == [1, 2]


def test_masks_are_judged_too_and_files_have_lvis_ids(tmp_path: Path) -> None:
    truth = random_truth(5)
    truth.frequency = ("r", "c", "f")
    for row in truth.rows:
        row.crowd[:] = False
    evaluator = LvisEvaluator(truth, ("bbox", "segm"))
    results = run(evaluator, [perfect(truth, i) for i in range(5)])
    assert results["segm_AP"] == pytest.approx(100)
    assert results["bbox_AP"] == pytest.approx(100)
    files = evaluator.write(tmp_path / "run")
    assert [file.name for file in files] == ["run.bbox.json", "run.segm.json"]
    assert {entry["category_id"] for entry in json.loads(files[1].read_text())} <= {10, 20, 30}


def test_data_without_frequencies_are_refused() -> None:
    with pytest.raises(ValueError, match="does not say which classes are rare, common or frequent"):
        LvisEvaluator(Truth([Rows()]))
    with pytest.raises(ValueError, match="LVIS has no keypoints"):
        LvisEvaluator(Truth([Rows()], frequency="rcf"), ("keypoints",))
    with pytest.raises(ValueError, match="1 categories have no frequency"):
        lvis_metrics({"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}, [])
