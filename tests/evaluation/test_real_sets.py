"""Evaluators and the data sets of ``pet.data`` fit together: the truth as prediction scores 100."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pet.data.datasets.base import DATASETS
from pet.evaluation import CocoEvaluator, LvisEvaluator, PanopticEvaluator, ProposalEvaluator, SemanticEvaluator, VocEvaluator
from pet.evaluation.instances import decode_mask
from tests.evaluation.fakes import detections, feed


def build(kind: str, name: str, images: Path | None, annotations: Path | None, **options: Any) -> Any:
    return DATASETS.get(kind)(name, images, annotations, False, **options)


def answers(dataset: Any, count: int | None = None) -> list[dict[str, torch.Tensor]]:
    found = []
    for index in range(len(dataset) if count is None else count):
        row = dataset.annotations(index)
        kept, more = ~(row.crowd | row.difficult), {}
        if row.keypoints is not None:
            kept &= (row.keypoints[..., 2] > 0).any(axis=1)
        if row.masks is not None:
            pixels = [decode_mask(rle) for rle, wanted in zip(row.masks.to_rles(), kept, strict=True) if wanted]
            more["masks"] = np.array(pixels, bool).reshape(-1, row.height, row.width)
        elif "masks" in dataset.kinds:
            more["masks"] = np.zeros((int(kept.sum()), row.height, row.width), bool)
        if row.keypoints is not None:
            more["keypoints"] = row.keypoints[kept]
        elif "keypoints" in dataset.kinds:
            more["keypoints"] = np.zeros((int(kept.sum()), len(dataset.sigmas), 3), np.float32)
        found.append(detections(row.boxes[kept], row.labels[kept], **more))
    return found


def results_of(evaluator: Any, outputs: Any, key: str = "instances") -> dict[str, float]:
    feed(evaluator, outputs, key)
    results: dict[str, float] = evaluator.evaluate()
    assert list(results) == evaluator.result_names()
    return results


def test_coco_set(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "detection" / "coco_mini"
    file = next(iter(sorted(folder.rglob("*instances*val*.json"))))
    pictures = next(path.parent for path in folder.rglob(json.loads(file.read_text())["images"][0]["file_name"]))
    dataset = build("coco_dataset", "mini", pictures, file)
    evaluator = CocoEvaluator(dataset, ("bbox", "segm"))
    found = answers(dataset)
    results = results_of(evaluator, found)
    assert results["bbox_AP"] == pytest.approx(100, abs=0.01)
    assert results["segm_AP"] == pytest.approx(100, abs=0.01)
    ids = {category["id"] for category in json.loads(file.read_text())["categories"]}
    images = {image["id"] for image in json.loads(file.read_text())["images"]}
    for written in evaluator.write(tmp_path / "run"):
        entries = json.loads(written.read_text())
        assert {entry["category_id"] for entry in entries} <= ids
        assert {entry["image_id"] for entry in entries} <= images
    recalls = results_of(ProposalEvaluator(dataset, ("proposal", "proposal_fast")), found)
    assert recalls["proposal_AR1000"] == pytest.approx(100, abs=0.01)
    assert recalls["proposal_fast_AR1000"] == pytest.approx(100, abs=0.01)


def test_coco_keypoints_set(shared_data: Path) -> None:
    folder = shared_data / "detection" / "coco_mini"
    file = next(iter(sorted(folder.rglob("*keypoints*val*.json"))))
    pictures = next(path.parent for path in folder.rglob(json.loads(file.read_text())["images"][0]["file_name"]))
    dataset = build("coco_dataset", "mini keypoints", pictures, file)
    results = results_of(CocoEvaluator(dataset, ("keypoints",)), answers(dataset))
    assert results["keypoints_AP"] == pytest.approx(100, abs=0.01)


@pytest.mark.parametrize("place", ["voc2012_sample", "bccd_voc"])
def test_voc_set(shared_data: Path, place: str) -> None:
    folder = shared_data / "detection" / place
    xml = next(iter(sorted(folder.rglob("*.xml")))).parent
    pictures = next(iter(sorted(folder.rglob("*.jpg")))).parent
    dataset = build("voc_dataset", place, pictures, xml)
    found = answers(dataset)
    results = results_of(VocEvaluator(dataset, ("mAP", "recall")), found)
    assert results["mAP"] == pytest.approx(100)
    assert results["recall@100@0.5"] == pytest.approx(100, abs=0.5)
    assert results_of(CocoEvaluator(dataset), found)["bbox_AP"] == pytest.approx(100, abs=0.01)


def test_lvis_set(shared_data: Path) -> None:
    folder = shared_data / "detection" / "lvis_val_100"
    dataset = build("lvis_dataset", "lvis", None, folder / "lvis_val_100.json", kinds=("boxes",))
    results = results_of(LvisEvaluator(dataset), answers(dataset))
    assert [results[f"bbox_{name}"] for name in ("AP", "APr", "APc", "APf")] == pytest.approx([100] * 4, abs=0.01)


def test_panoptic_set(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "segmentation" / "coco_panoptic_sample"
    dataset = build("coco_panoptic_dataset", "panoptic", folder / "input_images", folder / "panoptic_examples.json")
    outputs = []
    for index in range(len(dataset)):
        ids, segments = dataset.panoptic(index)
        segments = [s for s in segments if not s["crowd"]]
        outputs.append((np.where(np.isin(ids, [s["id"] for s in segments]), ids, 0), segments))
    evaluator = PanopticEvaluator(dataset, keep_predictions=True)
    results = results_of(evaluator, outputs, "panoptic")
    assert results == pytest.approx(dict.fromkeys(results, 100))
    file, _ = evaluator.write(tmp_path / "run")
    original = {a["image_id"]: a for a in json.loads((folder / "panoptic_examples.json").read_text())["annotations"]}
    for entry in json.loads(file.read_text())["annotations"]:
        theirs = {s["id"]: s["category_id"] for s in original[entry["image_id"]]["segments_info"] if not s["iscrowd"]}
        assert {s["id"]: s["category_id"] for s in entry["segments_info"]} == theirs
    semantic = SemanticEvaluator(dataset)
    maps = [np.where(dataset.semseg(i) == 255, 0, dataset.semseg(i)) for i in range(len(dataset))]
    results = results_of(semantic, maps, "semseg")
    assert results == pytest.approx(dict.fromkeys(results, 100))
