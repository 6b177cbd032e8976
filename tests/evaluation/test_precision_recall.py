"""Curves of precision, recall, F1 and ROC equal those of torchmetrics and of the COCO tools."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multilabel_auroc, multilabel_precision_recall_curve, multilabel_roc

from pet.evaluation.coco_metrics import coco_metrics
from pet.evaluation.precision_recall import precision_recall, roc


@pytest.fixture(scope="module")
def decisions() -> tuple[np.ndarray, np.ndarray]:
    """Scores with many ties, and targets that depend on them."""
    generator = np.random.default_rng(0)
    scores = np.round(generator.random((300, 4)), 2)
    return scores, (generator.random((300, 4)) < scores * 0.7).astype(np.int64)


def test_precision_at_each_recall_is_that_of_torchmetrics(decisions) -> None:
    scores, targets = decisions
    curves = precision_recall(scores, targets)
    precisions, recalls, _ = multilabel_precision_recall_curve(torch.tensor(scores), torch.tensor(targets), 4)
    for c in range(4):
        p, r = precisions[c][:-1].numpy(), recalls[c][:-1].numpy()
        expected = [p[r >= at - 1e-6].max() for at in curves.recalls]
        np.testing.assert_allclose(curves.precisions[:, c], expected, atol=1e-6)


def test_roc_and_its_area_are_those_of_torchmetrics(decisions) -> None:
    scores, targets = decisions
    rates, found, areas = roc(scores, targets)
    np.testing.assert_allclose(areas, multilabel_auroc(torch.tensor(scores), torch.tensor(targets), 4, average=None), atol=1e-6)
    false, true, _ = multilabel_roc(torch.tensor(scores), torch.tensor(targets), 4)
    for c in range(4):
        x, y = false[c].numpy(), true[c].numpy()
        last = np.flatnonzero(np.diff(x, append=2.0))
        np.testing.assert_allclose(found[:, c], np.interp(rates, x[last], y[last]), atol=1e-6)


def test_what_cannot_be_judged_is_nan() -> None:
    scores, targets = np.array([[0.9, 0.2, 0.5], [0.1, 0.7, 0.5]]), np.array([[1, 0, -1], [0, 0, -1]])
    assert np.isnan(precision_recall(scores, targets).precisions).all(axis=0).tolist() == [False, True, True]
    assert np.isnan(roc(scores, targets)[2]).tolist() == [False, True, True]


def test_f1_over_the_score_is_what_counting_gives(decisions) -> None:
    scores, targets = decisions
    grid = np.linspace(0.05, 0.9, 18)
    curve = precision_recall(scores, targets).f1_by_score(grid)
    for at, values in zip(grid, curve, strict=True):
        made, hits = (scores >= at).sum(0), ((scores >= at) & (targets == 1)).sum(0)
        # Precision never rises with recall here, so the curve lies above the plain count, but for the steps between 101 points.
        plain = 2 * hits / (made + (targets == 1).sum(0))
        assert (values >= plain - 0.05).all()
        assert (values <= plain + 0.12).all()


@pytest.mark.parametrize("backend", ["faster_coco_eval", "pycocotools"])
def test_the_area_under_the_curve_of_a_detector_is_its_ap50(backend, shared_data: Path) -> None:
    folder = shared_data / "evaluation" / "coco_val2014_fake100"
    truth = json.loads((folder / "instances_val2014_100.json").read_text())
    results = json.loads((folder / "instances_val2014_fakebbox100_results.json").read_text())
    scores = coco_metrics(truth, results, "bbox", backend=backend)
    np.testing.assert_allclose(100 * scores.curves.precisions.mean(axis=0), scores.ap50)
    known = scores.truths > 0
    assert np.isnan(scores.curves.scores[:, ~known]).all()
    assert (np.diff(scores.curves.scores[:, known], axis=0) <= 0).all()
    assert scores.curves.scores[0, known].max() == pytest.approx(max(entry["score"] for entry in results), abs=0.01)
