"""Files of predictions, read back, give the numbers of the test that wrote them, and belong to one data set only."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

import pet.vision as domain
from pet.config import CfgNode
from pet.evaluation import read_plain
from pet.evaluation.instance_predictions import instance_predictions
from pet.evaluation.semantic import picture_stems
from pet.evaluation.stored import read_stored
from pet.vision.evaluation import evaluate_file, write_predictions
from tests.evaluation.fakes import Rows, Truth, feed, noisy, random_truth

HEADS = [
    "MODEL.GLOBAL_HEAD.DET.TYPE=rpn",
    "MODEL.ROI_HEAD.TYPE=faster",
    "MODEL.ROI_HEAD.MASK.TYPE=mask_rcnn",
    "MODEL.ROI_HEAD.KEYPOINT.TYPE=keypoint_rcnn",
    "MODEL.GLOBAL_HEAD.SEMSEG.TYPE=semseg_fpn",
    "MODEL.GLOBAL_HEAD.PANOSEG.TYPE=merge",
]
INSTANCES = ("bbox", "segm", "keypoints", "proposal", "proposal_fast", "recall", "mAP", "cityscapes")


def config(*metrics: str) -> CfgNode:
    cfg = domain.get_base_cfg()
    cfg.merge_from_list([*HEADS, f"EVAL.METRICS=[{','.join(metrics)}]"])
    return cfg


def judged(folder: Path, metrics: Sequence[str], truth: Any, outputs: Sequence[Any], key: str, suffix: str = ".pkl") -> Any:
    """The evaluator of a test that wrote its files into ``folder``."""
    evaluator = domain.build_evaluator(config(*metrics), truth, keep_scores=True)
    feed(evaluator, outputs, key)
    evaluator.evaluate()
    write_predictions(folder / f"found{suffix}", evaluator)
    return evaluator


def same(first: dict[str, float], second: dict[str, float], tolerance: float = 0.0) -> None:
    assert first.keys() == second.keys()
    assert any(value > 1 for value in first.values()), "otherwise the comparison says nothing"
    for name, value in first.items():
        assert second[name] == pytest.approx(value, abs=tolerance, rel=0, nan_ok=True), name


@pytest.mark.parametrize("suffix", [".json", ".yaml", ".pkl"])
def test_file_of_out_gives_all_instance_metrics_exactly(suffix: str, tmp_path: Path) -> None:
    truth = random_truth(6)
    metrics = INSTANCES if suffix != ".yaml" else INSTANCES[:3]
    evaluator = judged(tmp_path, metrics, truth, noisy(truth), "instances", suffix)
    again = evaluate_file(config(*metrics), truth, tmp_path / f"found{suffix}")
    same(evaluator.results, again.results)
    assert len(read_plain(tmp_path / f"found{suffix}")["predictions"]) == len(truth)


@pytest.mark.parametrize(
    ("name", "metrics", "tolerance"),
    [
        pytest.param("found.bbox.json", ("bbox", "mAP"), 0.0, id="boxes"),
        pytest.param("found.segm.json", ("segm", "cityscapes"), 0.0, id="masks"),
        pytest.param("found.keypoints.json", ("keypoints",), 0.0, id="keypoints"),
        pytest.param("found.proposal.json", ("proposal", "proposal_fast"), 0.0, id="proposals"),
        pytest.param("found", ("bbox", "segm", "keypoints", "proposal", "mAP", "cityscapes"), 0.0, id="all JSON files"),
        pytest.param("found_cat.txt", ("bbox", "mAP"), 0.01, id="VOC text, rounded to 0.001 pixels"),
        pytest.param("found.cityscapes", ("cityscapes",), 0.0, id="Cityscapes"),
    ],
)
def test_files_of_other_tools_give_their_metrics(name: str, metrics: Sequence[str], tolerance: float, tmp_path: Path) -> None:
    truth = random_truth(6)
    evaluator = judged(tmp_path, INSTANCES, truth, noisy(truth), "instances")
    again = evaluate_file(config(*metrics), truth, tmp_path / name)
    same({name: evaluator.results[name] for name in again.results}, again.results, tolerance)
    assert len(again.evaluators) == len({type(part) for part in again.evaluators})


def test_small_file_of_a_test_finds_the_files_beside_it(tmp_path: Path) -> None:
    truth = random_truth(6)
    evaluator = domain.build_evaluator(config("bbox", "segm"), truth)
    feed(evaluator, noisy(truth))
    evaluator.evaluate()
    write_predictions(tmp_path / "found.json", evaluator, prefix=tmp_path / "elsewhere" / "mine")
    assert "predictions" not in read_plain(tmp_path / "found.json")
    same(evaluator.results, evaluate_file(config("bbox", "segm"), truth, tmp_path / "found.json").results)


def label_map_truth() -> Truth:
    rng = np.random.default_rng(0)
    maps = [rng.integers(0, 3, (20, 30)).astype(np.uint8) for _ in range(4)]
    rows = [Rows(height=20, width=30, file=f"{folder}/1.jpg") for folder in "abcd"]
    return Truth(rows, kinds=frozenset({"semseg"}), semseg_names=["a", "b", "c"], semseg_ids=[7, 11, 300], maps=maps)


def test_label_maps_give_the_same_iou_and_hold_the_ids_of_files(tmp_path: Path) -> None:
    truth = label_map_truth()
    outputs = [np.where(np.arange(30) < 20, one, (one + 1) % 3) for one in truth.maps]
    evaluator = judged(tmp_path, ["mIoU"], truth, outputs, "semseg")
    for name in ("found.semseg", "found.pkl"):
        same(evaluator.results, evaluate_file(config("mIoU"), truth, tmp_path / name).results)
    files = sorted(path.name for path in (tmp_path / "found.semseg").iterdir())
    assert files == ["a_1.png", "b_1.png", "c_1.png", "d_1.png"], "equal names in sub-folders stay apart"
    assert set(np.unique(cv2.imread(str(tmp_path / "found.semseg/a_1.png"), cv2.IMREAD_UNCHANGED))) == {7, 11, 300}
    (tmp_path / "found.semseg/b_1.png").unlink()
    with pytest.raises(ValueError, match=r"1 of 4 label maps of fake are not there \(b_1.png\)"):
        evaluate_file(config("mIoU"), truth, tmp_path / "found.semseg")


def test_panoptic_files_give_the_same_quality(tmp_path: Path) -> None:
    ids = np.repeat([[1, 2, 3, 0]], 8, axis=0).repeat(10, axis=1)
    segments = [{"id": 1, "label": 0}, {"id": 2, "label": 1}, {"id": 3, "label": 3}]
    truth = Truth(
        [Rows(height=8, width=40), Rows(height=8, width=40)],
        kinds=frozenset({"panoptic"}),
        stuff_names=("sky",),
        segments=[(ids, [{**s, "crowd": False} for s in segments])] * 2,
    )
    outputs = [(np.roll(ids, shift, axis=1), segments) for shift in (1, 2)]
    evaluator = judged(tmp_path, ["PQ"], truth, outputs, "panoptic")
    for name in ("found.panoptic.json", "found.panoptic", "found.pkl"):
        same(evaluator.results, evaluate_file(config("PQ"), truth, tmp_path / name).results)
    content = json.loads((tmp_path / "found.panoptic.json").read_text())["annotations"]
    assert {s["category_id"] for entry in content for s in entry["segments_info"]} == {10, 20, 40}


def test_rle_and_boxes_in_the_files_are_those_of_the_model(tmp_path: Path) -> None:
    truth = random_truth(6)
    outputs = noisy(truth)
    judged(tmp_path, ["bbox", "segm"], truth, outputs, "instances")
    entries = [e for e in json.loads((tmp_path / "found.segm.json").read_text()) if e["image_id"] == truth.image_id(0)]
    pixels = sorted(int(coco_mask.area(entry["segmentation"])) for entry in entries)
    assert pixels == sorted(outputs[0]["masks"].flatten(1).sum(1).tolist())
    assert {entry["category_id"] for entry in entries} <= set(truth.category_ids)


# --------------------------------------------------------------------------------------------------------- wrong files


def renumbered(content: list[dict[str, Any]]) -> None:
    for entry in content:
        entry["image_id"] = f"x{entry['image_id']}"


def other_category(content: list[dict[str, Any]]) -> None:
    content[0]["category_id"] = 77


def without(key: str) -> Callable[[list[dict[str, Any]]], None]:
    def change(content: list[dict[str, Any]]) -> None:
        del content[1][key]

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(renumbered, r"image id 'xp_000' is not in fake, which has 6 images \(ids p_000, p_001", id="images"),
        pytest.param(other_category, "category id 77 is none of the data set", id="categories"),
        pytest.param(without("score"), r"found.bbox.json: entry 1 of \d+ \(from 0\) has no score; .* score, bbox", id="no score"),
        pytest.param(without("category_id"), r"found.bbox.json: entry 1 of .* has no category_id; every", id="no category"),
        pytest.param(without("bbox"), r"found.bbox.json: entry 1 of .* has no bbox; every", id="no box"),
        pytest.param(lambda content: content.insert(0, 3), r"entry 0 of .* must be an object with image_id", id="no object"),
    ],
)
def test_results_of_another_set_are_refused(change: Callable[[Any], None], message: str, tmp_path: Path) -> None:
    truth = random_truth(6)
    judged(tmp_path, ["bbox"], truth, noisy(truth), "instances")
    file = tmp_path / "found.bbox.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        evaluate_file(config("bbox"), truth, file)


def test_file_of_another_set_or_with_too_little_in_it_is_refused(tmp_path: Path) -> None:
    truth = random_truth(6)
    judged(tmp_path, ["bbox"], truth, noisy(truth), "instances")
    file = tmp_path / "found.pkl"
    with pytest.raises(ValueError, match="has predictions of 6 images, but fake has 4; they belong to another data set"):
        evaluate_file(config("bbox"), random_truth(4), file)
    other = random_truth(6)
    other.rows[4].file = "pictures/another.jpg"
    with pytest.raises(ValueError, match=r"image 4 is p4.jpg, but another.jpg in fake"):
        evaluate_file(config("bbox"), other, file)
    with pytest.raises(ValueError, match=r"has boxes, from which segm cannot be computed; it needs masks"):
        evaluate_file(config("bbox"), truth, file, ["segm"])
    with pytest.raises(FileNotFoundError, match=r"nothing does not exist, and neither does .*nothing.bbox.json"):
        evaluate_file(config("bbox"), truth, tmp_path / "nothing")
    (tmp_path / "metrics.json").write_text('{"eval": {}}')
    with pytest.raises(ValueError, match="holds no predictions, only eval"):
        evaluate_file(config("bbox"), truth, tmp_path / "metrics.json")


def test_cityscapes_texts_go_where_they_are_asked_for_with_the_ids_of_cityscapes(tmp_path: Path) -> None:
    truth = random_truth(4)
    truth.category_ids = [24, 26, 33]
    evaluator = domain.build_evaluator(config("bbox", "cityscapes"), truth)
    feed(evaluator, noisy(truth))
    evaluator.evaluate()
    files = write_predictions(tmp_path / "found.json", evaluator, prefix=tmp_path / "mine", folder=tmp_path / "submission")
    assert files == [tmp_path / "mine.bbox.json", tmp_path / "submission"]
    lines = [line.split() for path in (tmp_path / "submission").glob("*_pred.txt") for line in path.read_text().splitlines()]
    assert {int(id) for _, id, _ in lines} == {24, 26, 33}
    assert {name for name, _, _ in lines} == {path.name for path in (tmp_path / "submission").glob("*.png")}
    with Image.open(tmp_path / "submission" / lines[0][0]) as picture:
        assert set(np.unique(np.asarray(picture))) == {0, 255}


def test_prefix_may_hold_signs_of_patterns(tmp_path: Path) -> None:
    truth = random_truth(4)
    evaluator = domain.build_evaluator(config("bbox"), truth)
    feed(evaluator, noisy(truth))
    evaluator.evaluate()
    write_predictions(tmp_path / "found.json", evaluator, prefix=tmp_path / "run[1]")
    same(evaluator.results, evaluate_file(config("bbox"), truth, tmp_path / "run[1]").results)


def test_names_of_pictures_are_known_without_reading_their_truth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = random_truth(4)
    evaluator = judged(tmp_path, ["bbox", "mAP"], truth, noisy(truth), "instances")
    monkeypatch.setattr(Truth, "annotations", lambda self, index: pytest.fail("decodes a picture for Cityscapes"))
    rows = instance_predictions(evaluator.evaluators)
    assert [row["file"] for row in rows] == [f"p{index}.jpg" for index in range(4)]
    assert picture_stems(truth) == [f"p{index}" for index in range(4)]
    for name in ("found.pkl", "found_cat.txt"):
        assert read_stored(tmp_path / name, truth).instances.keys() <= {0, 1, 2, 3}
