"""Panoptic quality follows its definition, with void and crowds, and its files read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from pet.evaluation import PanopticEvaluator
from pet.evaluation.panoptic import colour_ids, id_colours, panoptic_matches, panoptic_scores
from tests.evaluation.fakes import Rows, Truth, run

KINDS = frozenset({"panoptic"})
CAT, DOG, SKY = 0, 1, 2


def row(*ids: int) -> np.ndarray:
    return np.array([ids], np.int32)


def segment(id: int, label: int, crowd: bool = False) -> dict[str, Any]:
    return {"id": id, "label": label, "crowd": crowd, "area": 0}


def truth_of(*pictures: tuple[np.ndarray, list[dict[str, Any]]], **more: Any) -> Truth:
    rows = [Rows(height=ids.shape[0], width=ids.shape[1]) for ids, _ in pictures]
    return Truth(rows, ("cat", "dog"), KINDS, stuff_names=("sky",), segments=pictures, **more)


def judge(truth: Any, predicted: Any) -> tuple[list[float], list[int], list[int]]:
    """Overlaps of matches, classes of false and of missed segments."""
    found = panoptic_matches(*truth, *predicted)
    return found.ious.tolist(), found.false_labels.tolist(), found.missed_labels.tolist()


def test_overlap_must_exceed_one_half() -> None:
    cat = [segment(7, CAT)]
    assert judge((row(7, 7, 7, 7), cat), (row(7, 7, 0, 0), cat)) == ([], [CAT], [CAT])
    assert judge((row(7, 7, 7, 7), cat), (row(7, 7, 7, 0), cat)) == ([0.75], [], [])


def test_class_must_be_right() -> None:
    assert judge((row(7, 7), [segment(7, CAT)]), (row(7, 7), [segment(7, DOG)])) == ([], [DOG], [CAT])


def test_void_is_left_out_of_the_union_and_hides_mistakes() -> None:
    cat = [segment(1, CAT)]
    assert judge((row(1, 1, 0, 0), cat), (row(5, 5, 5, 5), [segment(5, CAT)])) == ([1.0], [], [])
    dog = (row(1, 6, 6, 6), [segment(1, CAT), segment(6, DOG)])
    assert judge((row(1, 1, 0, 0), cat), dog)[1] == [CAT]  # one of two pixels is no match; two of three of the dog are void


def test_crowds_are_never_missed_and_absorb_their_class_only() -> None:
    truth = (row(9, 9, 9, 9), [segment(9, CAT, crowd=True)])
    assert judge(truth, (row(1, 1, 2, 2), [segment(1, CAT), segment(2, DOG)])) == ([], [DOG], [])
    assert judge(truth, (row(0, 0, 0, 0), [])) == ([], [], [])


def test_quality_by_hand() -> None:
    # cat: one match of 0.75, one false, one missed; sky: perfect; dog: neither
    truth = truth_of(
        (row(1, 1, 1, 1, 2, 2, 3, 3), [segment(1, CAT), segment(2, CAT), segment(3, SKY)]),
        name="by hand",
    )
    output = (torch.from_numpy(row(4, 4, 4, 5, 0, 0, 6, 6)), [segment(4, CAT), segment(5, CAT), segment(6, SKY)])
    evaluator = PanopticEvaluator(truth)
    results = run(evaluator, [output], "panoptic")
    assert results == pytest.approx(
        {
            "PQ": (37.5 + 100) / 2, "SQ": 87.5, "RQ": 75,
            "PQ_things": 37.5, "SQ_things": 75, "RQ_things": 50,
            "PQ_stuff": 100, "SQ_stuff": 100, "RQ_stuff": 100,
        }
    )  # fmt: skip
    lines = {line.split()[0]: line.split()[1:] for line in evaluator.table().splitlines()[1:]}
    assert lines["cat"] == ["37.50", "75.00", "50.00", "1", "1", "1"]
    assert lines["dog"] == ["-", "-", "-", "0", "0", "0"]


def test_nothing_predicted_scores_zero_and_nothing_at_all_is_nan() -> None:
    truth = truth_of((row(1, 1), [segment(1, CAT)]), name="one cat")
    results = run(PanopticEvaluator(truth), [(row(0, 0), [])], "panoptic")
    assert results["PQ"] == results["PQ_things"] == 0
    assert np.isnan(results["PQ_stuff"])
    empty = run(PanopticEvaluator(truth_of((row(0, 0), []), name="void only")), [(row(0, 0), [])], "panoptic")
    assert all(np.isnan(value) for value in empty.values())


def read_set(file: Path, folder: Path) -> tuple[list[str], list[Any], list[Any]]:
    """Names of classes, segments of each picture and whether classes are things, of a COCO panoptic file."""
    content = json.loads(file.read_text())
    labels = {category["id"]: c for c, category in enumerate(content["categories"])}
    pictures = []
    for entry in content["annotations"]:
        image = cv2.imread(str(folder / entry["file_name"]))
        infos = [segment(s["id"], labels[s["category_id"]], bool(s["iscrowd"])) for s in entry["segments_info"]]
        pictures.append((colour_ids(image[..., ::-1]), infos))
    return [c["name"] for c in content["categories"]], pictures, [bool(c["isthing"]) for c in content["categories"]]


def places(shared_data: Path) -> dict[str, tuple[Path, Path]]:
    sample = shared_data / "segmentation" / "coco_panoptic_sample"
    found = {"sample": (sample / "panoptic_examples.json", sample / "panoptic_examples")}
    for file in sorted((shared_data / "segmentation" / "coco128_panoptic" / "annotations").rglob("*.json")):
        found[file.stem] = (file, file.with_suffix(""))
    return found


@pytest.mark.parametrize("kept", ["all", "half"])
def test_photographs_predicted_perfectly_score_100(shared_data: Path, kept: str) -> None:
    for name, (file, folder) in places(shared_data).items():
        assert folder.is_dir(), name
        names, pictures, is_thing = read_set(file, folder)
        truth = Truth([Rows() for _ in pictures], names, KINDS, is_thing=is_thing, segments=pictures)
        outputs = [(ids, [s for s in segments if not s["crowd"]]) for ids, segments in pictures]
        outputs = [(np.where(np.isin(ids, [s["id"] for s in segments]), ids, 0), segments) for ids, segments in outputs]
        if kept == "half":
            outputs = [(np.where(ids % 2 == 0, ids, 0), [s for s in segments if s["id"] % 2 == 0]) for ids, segments in outputs]
        results = run(PanopticEvaluator(truth), outputs, "panoptic")
        if kept == "all":
            assert results == pytest.approx(dict.fromkeys(results, 100)), name
        else:
            assert 0 < results["PQ"] < 100
            assert results["PQ"] == pytest.approx(results["RQ"])


def test_files_read_back(tmp_path: Path) -> None:
    truth = truth_of((row(1, 1, 2, 2), [segment(1, CAT), segment(2, SKY)]))
    ids = row(70_000, 70_000, 3, 3)
    evaluator = PanopticEvaluator(truth, keep_predictions=True)
    run(evaluator, [(ids, [segment(70_000, CAT), segment(3, SKY), segment(8, DOG)])], "panoptic")
    file, folder = evaluator.write(tmp_path / "run")
    assert (file.name, folder.name) == ("run.panoptic.json", "run.panoptic")
    (entry,) = json.loads(file.read_text())["annotations"]
    assert entry["image_id"] == "p_000"
    assert [(s["id"], s["category_id"], s["area"], s["bbox"]) for s in entry["segments_info"]] == [
        (70_000, 10, 2, [0, 0, 2, 1]),
        (3, 30, 2, [2, 0, 2, 1]),
    ]
    assert colour_ids(cv2.imread(str(folder / entry["file_name"]))[..., ::-1]).tolist() == ids.tolist()
    assert colour_ids(id_colours(row(2**24 - 1))).tolist() == [[2**24 - 1]]


def test_outputs_that_do_not_fit_are_named() -> None:
    truth = truth_of((row(1, 1), [segment(1, CAT)]))
    cases = [
        ((row(1, 2), [segment(1, CAT)]), "p0.jpg: pixels of the prediction have ids that are not among its segments: 2"),
        ((row(1), [segment(1, CAT)]), "has shape"),
        ((row(1, 1), [segment(1, 3)]), "finds class 3 in picture 0, but the data set has classes 0 to 2"),
        ((row(1, 1), [segment(1, CAT), segment(1, DOG)]), "two segments of the prediction have the same id"),
    ]
    for output, message in cases:
        with pytest.raises(ValueError, match=message):
            run(PanopticEvaluator(truth), [output], "panoptic")
    with pytest.raises(ValueError, match="needs 'panoptic'"):
        run(PanopticEvaluator(truth), [{}])
    with pytest.raises(ValueError, match="no annotations of kind 'panoptic', so PQ"):
        PanopticEvaluator(Truth([Rows()]))


def test_scores_of_no_picture_are_nan() -> None:
    assert np.isnan(panoptic_scores([], 2).pq).all()
