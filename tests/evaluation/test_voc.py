"""VOC average precision equals stored numbers; difficult objects and doubles count as the definition says."""

from __future__ import annotations

import csv
import json
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pet.evaluation import VocEvaluator
from pet.evaluation.boxes import box_iou, greedy_overlaps
from pet.evaluation.proposals import box_recalls
from pet.evaluation.voc import VocPicture, voc_average_precision
from tests.evaluation.fakes import Rows, Truth, detections, feed, noisy, perfect, random_truth, run

BOX, FAR = [0, 0, 10, 10], [20, 20, 30, 30]


def read_case(folder: Path) -> list[VocPicture]:
    """Text files with x y w h at the end of each line; x + w is the last pixel."""

    def rows(path: Path, width: int) -> np.ndarray:
        return np.array([line.split()[1:] for line in path.read_text().splitlines() if line.strip()], float).reshape(-1, width)

    pictures = []
    for path in sorted((folder / "gts").iterdir()):
        truths, found = rows(path, 4), rows(folder / "dets" / path.name, 5)
        truths[:, 2:] += truths[:, :2]
        found[:, 3:] += found[:, 1:3]
        pictures.append(VocPicture(truths, np.zeros(len(truths), bool), found[:, 1:], found[:, 0]))
    return pictures


@pytest.mark.parametrize("iou", ["0.1", "0.3", "0.5", "0.75"])
@pytest.mark.parametrize("eleven_points", [False, True], ids=["area", "11points"])
def test_stored_case_has_its_expected_average_precision(shared_data: Path, iou: str, eleven_points: bool) -> None:
    folder = shared_data / "evaluation" / "voc_ap_case1"
    expected = json.loads((folder / "expected.json").read_text())["AP_11_point" if eleven_points else "AP_all_point"][iou]
    value = voc_average_precision(read_case(folder), float(iou), eleven_points, inclusive=True)
    assert value == pytest.approx(expected, abs=1e-9)


def picture(truths: Any, difficult: Any, boxes: Any, scores: Any) -> VocPicture:
    def shaped(values: Any) -> np.ndarray:
        return np.array(values, float).reshape(-1, 4)

    return VocPicture(shaped(truths), np.array(difficult, bool), shaped(boxes), np.array(scores, float))


CASES = {
    "perfect": ([BOX], [False], [BOX], [0.9], 1.0),
    "second find is a mistake": ([BOX, FAR], [False] * 2, [BOX, BOX, FAR], [0.9, 0.8, 0.7], 0.5 + 0.5 * 2 / 3),
    "difficult counts neither way": ([BOX, FAR], [True, False], [BOX, BOX, FAR], [0.9, 0.8, 0.7], 1.0),
    "only the best object is tried": ([BOX, [0, 0, 10, 12]], [False] * 2, [BOX, BOX], [0.9, 0.8], 0.5),
    "equal to the threshold is enough": ([[0, 0, 10, 20]], [False], [BOX], [0.9], 1.0),
    "no detection": ([BOX], [False], [], [], 0.0),
    "no object": ([], [], [BOX], [0.5], float("nan")),
    "only difficult objects": ([BOX], [True], [BOX], [0.5], float("nan")),
}


@pytest.mark.parametrize("case", CASES)
def test_average_precision_follows_the_definition(case: str) -> None:
    *given, expected = CASES[case]
    assert voc_average_precision([picture(*given)]) == pytest.approx(expected, nan_ok=True)


def test_eleven_points_are_the_multiples_of_a_tenth() -> None:
    truths = [[20 * i, 0, 20 * i + 10, 10] for i in range(10)]
    for count, points in ((2, 3), (4, 5), (10, 11)):
        found = picture(truths, [False] * 10, truths[:count], np.linspace(0.9, 0.1, count))
        assert voc_average_precision([found], eleven_points=True) == pytest.approx(points / 11)


def test_inclusive_pixels_widen_boxes_by_one() -> None:
    assert box_iou(np.array([[0, 0, 9, 9]]), np.array([[0, 0, 9, 4]]), inclusive=True) == pytest.approx(0.5)
    assert box_iou(np.array([[0, 0, 9, 9]]), np.array([[0, 0, 9, 4]])) == pytest.approx(4 / 9)
    assert box_iou(np.zeros((1, 4)), np.zeros((1, 4))) == 0


def test_greedy_overlaps_take_the_best_pair_first() -> None:
    ious = np.array([[0.9, 0.8], [0.7, 0.1]])
    assert greedy_overlaps(ious).tolist() == [0.9, 0.1]
    assert greedy_overlaps(np.zeros((0, 2))).tolist() == [0, 0]
    assert box_recalls([np.array([BOX])], [np.array([FAR, BOX])], (1, 2), (0.5,)).tolist() == [[0.0], [1.0]]


def test_perfect_detections_score_100_and_names_tell_thresholds() -> None:
    truth = random_truth()
    evaluator = VocEvaluator(truth, ("mAP", "recall"), thresholds=(0.5, 0.75), numbers=(100, 1))
    results = run(evaluator, [perfect(truth, i) for i in range(len(truth))])
    recalls = ["recall@1@0.5", "recall@1@0.75", "recall@100@0.5", "recall@100@0.75"]
    assert list(results) == ["mAP", "AP50", "AP75", *recalls]
    assert [results[name] for name in ("mAP", "AP50", "AP75", *recalls[2:])] == pytest.approx([100] * 5)
    assert results["recall@1@0.5"] < 60


def test_area_of_one_threshold_agrees_with_coco_on_the_same_detections() -> None:
    # COCO samples precision at 101 recalls and ignores crowds in another way; without crowds both are near.
    truth = random_truth(30)
    for row in truth.rows:
        row.crowd[:] = False
    found = noisy(truth)
    from pet.evaluation import CocoEvaluator

    ours = run(VocEvaluator(truth), found)["mAP"]
    assert ours == pytest.approx(run(CocoEvaluator(truth), found)["bbox_AP50"], abs=3)


def test_both_methods_and_the_mean_over_classes() -> None:
    truth = Truth([Rows([BOX, FAR], [0, 1]), Rows([BOX], [0])])
    found = [detections([BOX, FAR], [0, 1]), detections()]
    assert run(VocEvaluator(truth), found)["mAP"] == pytest.approx(75)
    evaluator = VocEvaluator(truth, method="11points")
    assert run(evaluator, found)["mAP"] == pytest.approx(100 * (6 / 11 + 1) / 2)
    assert evaluator.ap is not None
    np.testing.assert_allclose(evaluator.ap[:, 0], [600 / 11, 100, np.nan])
    assert evaluator.table().splitlines()[-1].split() == ["owl", "-", "0", "0"]


def test_recall_reads_proposals_and_detections_alike() -> None:
    truth = random_truth(4)
    found = noisy(truth)
    evaluator = VocEvaluator(truth, ("recall",))
    feed(evaluator, found, "proposals")
    assert evaluator.evaluate() == run(VocEvaluator(truth, ("recall",)), found)


def test_nothing_to_find_is_nan() -> None:
    results = run(VocEvaluator(Truth([Rows()], name="nothing for VOC"), ("mAP", "recall")), [detections([BOX], [0])])
    assert all(np.isnan(value) for value in results.values())


def test_detection_files_use_pixels_of_voc(tmp_path: Path) -> None:
    truth = Truth([Rows(), Rows()], kinds=frozenset())
    evaluator = VocEvaluator(truth, predictions_only=True)
    assert run(evaluator, [detections([[0, 1, 10, 20]], [1]), detections()]) == {}
    files = evaluator.write(tmp_path / "comp4_det_test")
    assert [file.name for file in files] == [f"comp4_det_test_{name}.txt" for name in ("cat", "dog", "owl")]
    assert files[1].read_text() == "p0 0.900000 1.000 2.000 10.000 20.000\n"
    assert files[0].read_text() == ""


def test_wrong_requests_are_refused() -> None:
    truth = Truth([Rows()])
    with pytest.raises(ValueError, match=r"no VOC metric is named 'map'. Did you mean 'mAP'"):
        VocEvaluator(truth, ("map",))
    with pytest.raises(ValueError, match="method is 'voc'; it must be one of area, 11points"):
        VocEvaluator(truth, method="voc")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="thresholds is"):
        VocEvaluator(truth, thresholds=(50,))
    with pytest.raises(ValueError, match="numbers is"):
        VocEvaluator(truth, numbers=())


# ------------------------------------------------------------------------------- the same boxes in several formats

Boxes = dict[str, list[tuple[str, list[float], float]]]


def from_coco(path: Path) -> Boxes:
    content = json.loads(path.read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    files = {image["id"]: Path(image["file_name"]).stem for image in content["images"]}
    found: Boxes = {stem: [] for stem in files.values()}
    for entry in content["annotations"]:
        x, y, w, h = entry["bbox"]
        found[files[entry["image_id"]]].append((names[entry["category_id"]], [x, y, x + w, y + h], entry.get("score", 1.0)))
    return found


def from_cvat(path: Path) -> Boxes:
    sides = ("xtl", "ytl", "xbr", "ybr")
    return {
        Path(image.get("name", "")).stem: [
            (box.get("label", ""), [float(box.get(s, "0")) for s in sides], 1.0) for box in image.iter("box")
        ]
        for image in ET.parse(path).getroot().iter("image")
    }


def from_open_images(path: Path) -> Boxes:
    sizes = json.loads((path.parents[1] / "coco_format_v2" / "instances_v2.json").read_text())["images"]
    scale = {Path(image["file_name"]).stem: (image["width"], image["height"]) for image in sizes}
    found: Boxes = {stem: [] for stem in scale}
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            stem = Path(row["ImageID"]).stem
            part = [float(row[name].replace(",", ".")) for name in ("XMin", "YMin", "XMax", "YMax")]
            found[stem].append((row["LabelName"], [p * s for p, s in zip(part, scale[stem] * 2, strict=True)], 1.0))
    return found


FORMATS: dict[str, Callable[[Path], Boxes]] = {
    "coco_format_v1/instances_default.json": from_coco,
    "coco_format_v2/instances_v2.json": from_coco,
    "cvat_format/annotations.xml": from_cvat,
    "openimages_format/all_bounding_boxes.csv": from_open_images,
}


@pytest.mark.parametrize("place", FORMATS, ids=["coco_v1", "coco_v2", "cvat", "open_images"])
def test_truth_in_any_format_gives_the_same_numbers(shared_data: Path, place: str) -> None:
    folder = shared_data / "evaluation" / "voc_database_formats"
    names = (folder / "voc.names").read_text().split()
    truths, found = FORMATS[place](folder / "gts" / place), from_coco(folder / "dets" / "coco_format" / "coco_dets.json")
    assert truths.keys() >= found.keys()
    order, found = sorted(truths), {stem: found.get(stem, []) for stem in truths}
    rows = [Rows([box for _, box, _ in truths[s]], [names.index(name) for name, _, _ in truths[s]]) for s in order]
    outputs = [
        detections([box for _, box, _ in found[s]], [names.index(n) for n, _, _ in found[s]], [score for *_, score in found[s]])
        for s in order
    ]
    results = run(VocEvaluator(Truth(rows, names), ("mAP", "recall"), thresholds=(0.3, 0.5), numbers=(100,)), outputs)
    wanted = [by_hand(truths, found, name, 0.5) for name in sorted({n for boxes in truths.values() for n, _, _ in boxes})]
    assert results["AP50"] == pytest.approx(100 * np.mean(wanted), abs=1e-6)
    assert results["mAP"] == pytest.approx(63.070893, abs=1e-6)  # of all four writers


def by_hand(truths: Boxes, found: Boxes, name: str, iou: float) -> float:
    """Average precision of a class, one detection after the other."""
    order = sorted(
        ((score, stem, box) for stem in sorted(found) for n, box, score in found[stem] if n == name), key=lambda d: -d[0]
    )
    boxes = {stem: [box for n, box, _ in truths[stem] if n == name] for stem in truths}
    wanted, used, hits, points = sum(map(len, boxes.values())), set(), 0, []
    for place, (_, stem, box) in enumerate(order, 1):
        ious = [one_iou(box, other) for other in boxes[stem]]
        best = ious.index(max(ious)) if ious else -1
        if ious and ious[best] >= iou and (stem, best) not in used:
            used.add((stem, best))
            hits += 1
            points.append((hits / wanted, hits / place))
    return sum(max(p for r, p in points if r >= recall) / wanted for recall, _ in points)


def one_iou(first: list[float], second: list[float]) -> float:
    w = max(0.0, min(first[2], second[2]) - max(first[0], second[0]))
    h = max(0.0, min(first[3], second[3]) - max(first[1], second[1]))
    sizes = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return w * h / (sum(sizes) - w * h)
