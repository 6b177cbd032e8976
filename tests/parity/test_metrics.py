"""Metrics of detection and segmentation equal those of independent implementations on the same predictions."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pet.evaluation import CocoEvaluator, PanopticEvaluator, ProposalEvaluator, SemanticEvaluator
from pet.evaluation.coco import coco_truth
from tests.evaluation.fakes import Rows, Truth, detections, noisy, random_truth, run

KINDS = ("bbox", "segm", "keypoints")


@pytest.mark.parametrize("seed", range(3))
def test_both_back_ends_give_equal_numbers(seed: int) -> None:
    truth = random_truth(15, seed)
    found = noisy(truth, seed)
    fast, reference = (CocoEvaluator(truth, KINDS, backend=name) for name in ("faster_coco_eval", "pycocotools"))  # type: ignore[arg-type]
    np.testing.assert_equal(run(fast, found), run(reference, found))
    for kind in KINDS:
        np.testing.assert_equal(fast.scores[kind].ap, reference.scores[kind].ap)
    proposals = [run(ProposalEvaluator(truth, backend=name), found) for name in ("faster_coco_eval", "pycocotools")]  # type: ignore[arg-type]
    np.testing.assert_equal(*proposals)


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_are_those_of_pycocotools_used_by_hand(kind: Any, tmp_path: Path) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth = random_truth(15)
    evaluator = CocoEvaluator(truth, (kind,))
    results = run(evaluator, noisy(truth))
    content = coco_truth(truth, kind)
    for number, entry in enumerate(content["annotations"], 1):
        entry["id"] = number
        entry["num_keypoints"] = int((np.array(entry.get("keypoints", ()))[2::3] > 0).sum())
    with contextlib.redirect_stdout(io.StringIO()):
        reader = COCO()
        reader.dataset = content
        reader.createIndex()
        official = COCOeval(reader, reader.loadRes(evaluator.entries(kind, original=False)), kind)
        if kind == "keypoints":
            official.params.kpt_oks_sigmas = np.array(truth.sigmas)
        official.evaluate()
        official.accumulate()
        official.summarize()
    wanted = np.where(official.stats > -1, 100 * official.stats, np.nan)
    np.testing.assert_allclose(list(results.values()), wanted, rtol=0, atol=1e-9)


def segments(rng: np.random.Generator, classes: int) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Blocks of random classes; 0 is void."""
    ids = np.kron(rng.integers(0, 12, (6, 8)), np.ones((5, 5), np.int64)).astype(np.int32)
    return ids, [{"id": int(i), "label": int(rng.integers(0, classes)), "crowd": False, "area": 0} for i in np.unique(ids) if i]


def test_panoptic_quality_is_that_of_torchmetrics() -> None:
    functional = pytest.importorskip("torchmetrics.functional.detection")
    rng, classes, void = np.random.default_rng(0), 4, 99
    truths = [segments(rng, classes) for _ in range(8)]
    outputs = []
    for ids, infos in truths:
        moved = np.where(rng.random(ids.shape) < 0.15, np.roll(ids, 3), ids)
        # Every pixel is predicted: where nothing is, torchmetrics leaves pixels out of unions, which the definition does not.
        moved = np.where(moved == 0, 20, moved)
        wrong = [{**s, "label": s["label"] if rng.random() < 0.8 else (s["label"] + 1) % classes} for s in infos]
        outputs.append((moved, [*wrong, {"id": 20, "label": 0}]))
    truth = Truth([Rows() for _ in truths], ("a", "b", "c", "d"), frozenset({"panoptic"}), segments=truths)
    evaluator = PanopticEvaluator(truth)
    run(evaluator, outputs, "panoptic")

    def coloured(pictures: Any) -> torch.Tensor:
        planes = []
        for ids, infos in pictures:
            label_of = {0: void} | {s["id"]: s["label"] for s in infos}
            planes.append(np.stack([np.vectorize(label_of.get)(ids), ids], axis=-1))
        return torch.as_tensor(np.stack(planes))

    options: dict[str, Any] = {"things": set(range(classes)), "stuffs": set(), "allow_unknown_preds_category": True}
    (theirs,) = functional.panoptic_quality(coloured(outputs), coloured(truths), return_per_class=True, **options)
    assert evaluator.scores is not None
    np.testing.assert_allclose(evaluator.scores.pq / 100, theirs.numpy(), atol=1e-6)
    assert 0.1 < theirs.mean() < 0.9


def test_mean_iou_is_that_of_torchmetrics() -> None:
    functional = pytest.importorskip("torchmetrics.functional.classification")
    rng = np.random.default_rng(0)
    maps = [rng.choice([0, 1, 2, 3, 255], (30, 40)).astype(np.uint8) for _ in range(4)]
    outputs = [
        torch.as_tensor(np.where(rng.random(one.shape) < 0.6, one % 4, rng.integers(0, 4, one.shape)).astype(np.int64))
        for one in maps
    ]
    truth = Truth([Rows() for _ in maps], ("a", "b", "c", "d"), frozenset({"semseg"}), maps=maps)
    evaluator = SemanticEvaluator(truth)
    run(evaluator, outputs, "semseg")
    targets = torch.as_tensor(np.stack(maps).astype(np.int64))
    theirs = functional.multiclass_jaccard_index(torch.stack(outputs), targets, 4, average="none", ignore_index=255)
    assert evaluator.scores is not None
    np.testing.assert_allclose(evaluator.scores.iou / 100, theirs.numpy(), atol=1e-6)


def test_greedy_recall_is_that_of_an_exhaustive_search_where_boxes_lie_apart() -> None:
    truth = Truth([Rows([[20 * i, 0, 20 * i + 10, 10] for i in range(6)], [0] * 6)])
    shifts = [0, 1, 2, 3, 4, 5]  # IoU (10 - s) / (10 + s)
    found = detections([[20 * i + s, 0, 20 * i + 10 + s, 10] for i, s in enumerate(shifts)], [0] * 6)
    results = run(ProposalEvaluator(truth, ("proposal", "proposal_fast")), [found])
    ious = np.array([(10 - s) / (10 + s) for s in shifts])
    expected = 100 * np.mean([(ious >= t).mean() for t in np.linspace(0.5, 0.95, 10)])
    assert results["proposal_AR1000"] == pytest.approx(expected)
    assert results["proposal_fast_AR1000"] == pytest.approx(expected)
