"""COCO metrics equal the published numbers, on any number of processes, and say NaN where there is nothing to find."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pet.evaluation import CocoEvaluator, Evaluator, SemanticEvaluator
from pet.evaluation.coco import coco_truth
from pet.evaluation.coco_metrics import coco_metrics, coco_names
from tests.evaluation.fakes import Inputs, Rows, Truth, detections, feed, noisy, perfect, random_truth, run
from tests.helpers import run_ranks

ALL = ("bbox", "segm", "keypoints")
BACKENDS = ["faster_coco_eval", "pycocotools"]
BOX = [0, 0, 10, 10]


def load(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_sample_results_of_the_coco_api_have_their_published_numbers(shared_data: Path, kind: Any, backend: Any) -> None:
    folder = shared_data / "evaluation" / "coco_val2014_fake100"
    found = load(folder / f"instances_val2014_fake{kind}100_results.json")
    scores = coco_metrics(load(folder / "instances_val2014_100.json"), found, kind, backend=backend)
    expected = {name: 100 * value for name, value in load(folder / "expected.json")[kind].items()}
    assert list(scores.values) == list(expected)
    assert scores.values == pytest.approx(expected, abs=1e-8, rel=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_masks_of_drawn_shapes_have_their_expected_numbers_and_nan_where_there_is_no_object(
    shared_data: Path, backend: Any
) -> None:
    folder = shared_data / "evaluation" / "coco_shapes_small"
    scores = coco_metrics(load(folder / "gt_dataset.json"), load(folder / "dt_dataset.json"), "segm", backend=backend)
    (expected,) = load(folder / "expected.json").values()
    wanted = {name: float("nan") if value == -1 else 100 * value for name, value in expected.items()}
    assert scores.values == pytest.approx(wanted, abs=1e-8, rel=0, nan_ok=True)


@pytest.mark.parametrize("backend", BACKENDS)
def test_keypoints_have_their_expected_numbers(shared_data: Path, backend: Any) -> None:
    folder = shared_data / "evaluation" / "coco_keypoints_small"
    scores = coco_metrics(load(folder / "gt_dataset.json"), load(folder / "dt_dataset.json"), "keypoints", backend=backend)
    expected = {name: 100 * value for name, value in load(folder / "expected.json")["keypoints"].items()}
    assert list(scores.values) == list(expected)
    assert scores.values == pytest.approx(expected, abs=1e-8, rel=0)


def test_perfect_detections_score_100(capfd: pytest.CaptureFixture[str]) -> None:
    truth = random_truth()
    evaluator = CocoEvaluator(truth, ALL)
    assert isinstance(evaluator, Evaluator)
    results = run(evaluator, [perfect(truth, i) for i in range(len(truth))])
    assert len(results) == 12 + 12 + 10
    assert {name for name, value in results.items() if value < 99.99} <= {f"{k}_{n}" for k in ALL for n in ("AR1", "AR10")}
    assert capfd.readouterr() == ("", "")


def test_names_of_other_detection_limits() -> None:
    assert coco_names("bbox", (50, 5))[6:8] == ["AR5", "AR50"]
    truth = random_truth(4)
    results = run(CocoEvaluator(truth, max_detections=(1, 50)), noisy(truth))
    assert results["bbox_AR50"] >= results["bbox_AR1"]
    assert results["bbox_AR50"] != results["bbox_AP50"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_detections_score_zero_and_no_truth_is_nan(backend: Any, caplog: pytest.LogCaptureFixture) -> None:
    truth = Truth([Rows([BOX], [0]), Rows(), Rows([BOX], [2])], name=f"no dogs for {backend}")
    evaluator = CocoEvaluator(truth, backend=backend)
    with caplog.at_level(logging.WARNING, "pet"):
        results = run(evaluator, [detections()] * 3)
        run(evaluator, [detections()] * 3)
    assert results["bbox_AP"] == 0.0
    assert np.isnan(results["bbox_APl"])
    assert caplog.text.count("no ground truth of bbox for 1 of 3 classes") == 1
    dog = next(line for line in evaluator.table().splitlines() if line.startswith("dog"))
    assert dog.split() == ["dog", "-", "-", "0", "0"]

    nothing = CocoEvaluator(Truth([Rows(), Rows()], name=f"nothing for {backend}"), backend=backend)
    for outputs in ([detections()] * 2, [detections([BOX], [1])] * 2):
        assert all(np.isnan(value) for value in run(nothing, outputs).values())


@pytest.mark.parametrize("backend", BACKENDS)
def test_keypoints_without_any_labelled_point_are_nan(backend: Any) -> None:
    row = Rows([BOX], [0], keypoints=np.zeros((1, 2, 3), np.float32))
    truth = Truth([row], kinds=frozenset({"boxes", "keypoints"}), sigmas=(0.1, 0.1))
    results = run(CocoEvaluator(truth, ("keypoints",), backend=backend), [detections([BOX], [0], keypoints=np.ones((1, 2, 3)))])
    assert all(np.isnan(value) for value in results.values())


@pytest.mark.parametrize("marked", ["crowd", "difficult"])
def test_crowd_and_difficult_regions_absorb_detections(marked: Any) -> None:
    row = Rows([BOX, [20, 20, 40, 40]], [0, 0], **{marked: [False, True]})
    inside = [[20, 20, 30, 30], [30, 30, 40, 40]]
    results = run(CocoEvaluator(Truth([row])), [detections([*inside, BOX], [0, 0, 0], [0.9, 0.8, 0.7])])
    assert results["bbox_AP"] == pytest.approx(100)


def test_mask_and_not_the_box_says_the_size_of_a_detection_in_segm() -> None:
    truth = random_truth(2)
    found = [perfect(truth, i) for i in range(2)]
    for one in found:
        one["boxes"] = torch.zeros_like(one["boxes"])
    assert run(CocoEvaluator(truth, ("segm",)), found)["segm_AP"] == pytest.approx(100)


def test_broken_scores_detect_nothing_and_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    truth = Truth([Rows([BOX], [0]), Rows([BOX], [0])])
    bad = detections([BOX, [0, 0, float("inf"), 1]], [0, 0], [float("nan"), 0.5])
    with caplog.at_level(logging.WARNING, "pet"):
        results = run(CocoEvaluator(truth), [bad, detections([BOX], [0])])
    assert results["bbox_AR100"] == 50.0
    assert "2 detections in 1 pictures have scores or coordinates that are NaN" in caplog.text
    with pytest.raises(ValueError, match="has score nan"):
        coco_metrics(coco_truth(truth), [{"image_id": 0, "category_id": 0, "bbox": BOX, "score": float("nan")}])


def test_wrong_requests_are_refused_before_inference() -> None:
    truth = Truth([Rows([BOX], [0])])
    with pytest.raises(ValueError, match=r"no COCO metric is named 'box'.*bbox"):
        CocoEvaluator(truth, ("box",))
    with pytest.raises(
        ValueError, match="fake has no annotations of kind 'masks', so bbox, segm cannot be computed; it has: boxes"
    ):
        CocoEvaluator(truth, ("bbox", "segm"))
    with pytest.raises(ValueError, match=r"no COCO back end is named 'pycoco'. Did you mean 'pycocotools'"):
        CocoEvaluator(truth, backend="pycoco")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="gives no sigmas"):
        CocoEvaluator(Truth([Rows()], kinds=frozenset({"keypoints"})), ("keypoints",))
    with pytest.raises(ValueError, match="names no classes"):
        CocoEvaluator(Truth([Rows()], ()))


def test_outputs_that_do_not_fit_are_named() -> None:
    evaluator = CocoEvaluator(Truth([Rows([BOX], [0])]))
    with pytest.raises(ValueError, match="detects class 7 in picture 0, but the data set has classes 0 to 2"):
        feed(evaluator, [detections([BOX], [7])])
    with pytest.raises(ValueError, match="returns semseg, but its evaluation needs 'instances'"):
        feed(evaluator, [np.zeros((2, 2))], "semseg")
    masks = CocoEvaluator(random_truth(1), ("segm",))
    with pytest.raises(ValueError, match="the model returns boxes, labels, scores but no masks"):
        feed(masks, [detections([BOX], [0])])
    with pytest.raises(ValueError, match=r"are \[4, 4\], but the picture is \[160, 200\]"):
        feed(masks, [detections([BOX], [0], masks=np.ones((1, 4, 4), bool))])
    with pytest.raises(ValueError, match="detection 1 of 1 refers to image 5, which is not in the ground truth"):
        coco_metrics(coco_truth(Truth([Rows()])), [{"image_id": 5, "category_id": 0, "bbox": BOX, "score": 1.0}])
    with pytest.raises(ValueError, match="has no annotations"):
        coco_metrics({"images": [], "categories": []}, [])


def test_written_files_hold_original_ids_and_give_the_same_numbers(tmp_path: Path) -> None:
    from pycocotools.coco import COCO

    truth = random_truth()
    evaluator = CocoEvaluator(truth, ALL)
    results = run(evaluator, noisy(truth))
    files = evaluator.write(tmp_path / "out" / "run")
    assert [file.name for file in files] == ["run.bbox.json", "run.segm.json", "run.keypoints.json"]
    for kind, file in zip(ALL, files, strict=True):
        content = coco_truth(truth, kind)  # type: ignore[arg-type]
        for image in content["images"]:
            image["id"] = truth.image_id(image["id"])
        for entry in content["annotations"]:
            entry |= {"image_id": truth.image_id(entry["image_id"]), "category_id": truth.category_ids[entry["category_id"]]}
        for entry in content["categories"]:
            entry["id"] = truth.category_ids[entry["id"]]
        scores = coco_metrics(content, load(file), kind, sigmas=truth.sigmas)  # type: ignore[arg-type]
        assert {f"{kind}_{name}": value for name, value in scores.values.items()} == pytest.approx(
            {name: value for name, value in results.items() if name.startswith(kind)}, nan_ok=True
        )
    entry = load(files[1])[0]
    assert entry["image_id"] == "p_000"
    assert entry["category_id"] in (10, 20, 30)
    assert entry["segmentation"]["size"] == [160, 200]
    assert isinstance(entry["segmentation"]["counts"], str)
    # An independent reader: ids as numbers, as COCO has them.
    reader = COCO()
    reader.dataset = {"images": [{"id": 0}], "annotations": [], "categories": [{"id": id} for id in truth.category_ids]}
    reader.createIndex()
    assert len(reader.loadRes([{**e, "image_id": 0} for e in load(files[0])]).anns) == len(load(files[0]))


def test_predictions_without_annotations_are_written_and_not_judged(tmp_path: Path) -> None:
    truth = Truth([Rows(), Rows()], kinds=frozenset())
    evaluator = CocoEvaluator(truth, ("bbox",), predictions_only=True)
    assert run(evaluator, [detections([[1, 2, 4, 8]], [1]), detections()]) == {}
    assert evaluator.table() == "2 images, predictions only"
    (entry,) = load(evaluator.write(tmp_path / "run")[0])
    assert entry == {"image_id": "p_000", "category_id": 20, "bbox": [1, 2, 3, 6], "score": pytest.approx(0.9)}
    with pytest.raises(ValueError, match="evaluate first"):
        CocoEvaluator(truth, ("bbox",), predictions_only=True).write(tmp_path / "run")


def test_table_names_the_thirty_worst_of_many_classes() -> None:
    names = [f"class{c}" for c in range(40)]
    truth = Truth([Rows([BOX] * 40, range(40))], names)
    evaluator = CocoEvaluator(truth)
    run(evaluator, [detections([BOX] * 20, range(20))])
    lines = evaluator.table().splitlines()
    assert lines[1] == "the 30 lowest AP of 40 classes:"
    assert len(lines) == 33
    assert lines[3].split() == ["class20", "0.00", "0.00", "1", "0"]


def test_many_classes_are_judged_in_parts_with_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = random_truth()
    whole = run(CocoEvaluator(truth), noisy(truth))
    monkeypatch.setattr("pet.evaluation.coco_metrics._PAIRS", len(truth))
    np.testing.assert_equal(run(CocoEvaluator(truth), noisy(truth)), whole)


# ------------------------------------------------------------------------------------------------------- processes


def semantic_truth() -> Truth:
    rng = np.random.default_rng(0)
    maps = [rng.choice([0, 1, 2, 255], (40, 50)).astype(np.uint8) for _ in range(5)]
    return Truth([Rows() for _ in maps], kinds=frozenset({"semseg"}), maps=maps)


def share(rank: int, world: int) -> list[dict[str, float]]:
    truth, maps = random_truth(7), semantic_truth()
    coco, semantic = CocoEvaluator(truth, ALL), SemanticEvaluator(maps)
    feed(coco, noisy(truth), ids=range(rank, len(truth), world))
    rng = np.random.default_rng(1)
    outputs = [torch.as_tensor(rng.integers(0, 3, (40, 50))) for _ in range(5)]
    feed(semantic, outputs, "semseg", ids=range(rank, len(maps), world))
    return [coco.evaluate(), semantic.evaluate()]


@pytest.mark.distributed
def test_numbers_are_identical_on_one_and_two_processes() -> None:
    first, second = run_ranks(2, share_of_two)
    np.testing.assert_equal(first, share(0, 1))  # NaN equal NaN, and every bit of the rest
    assert second == [{}, {}]


def share_of_two(rank: int) -> list[dict[str, float]]:
    return share(rank, 2)


def test_missing_pictures_are_named() -> None:
    evaluator = CocoEvaluator(random_truth(5))
    evaluator.process(Inputs(torch.tensor([0, 0])), {"instances": [detections()] * 2})
    with pytest.raises(ValueError, match=r"4 missing \(1, 2, 3, 4\); 1 doubled \(0\)"):
        evaluator.evaluate()
