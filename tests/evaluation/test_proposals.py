"""Average recall of boxes is the same for proposals and detections and does not regard classes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pet.evaluation import ProposalEvaluator
from tests.evaluation.fakes import Rows, Truth, detections, feed, noisy, perfect, random_truth, run

BOX, FAR = [0, 0, 10, 10], [20, 20, 30, 30]
BOTH = ("proposal", "proposal_fast")


def test_names_and_a_perfect_score() -> None:
    truth = random_truth()
    results = run(ProposalEvaluator(truth, BOTH), [perfect(truth, i) for i in range(len(truth))])
    assert list(results) == [
        *(f"proposal_{n}" for n in ("AR100", "AR300", "AR1000", "ARs", "ARm", "ARl")),
        *(f"proposal_fast_AR{n}" for n in (100, 300, 1000)),
    ]
    known = {name: value for name, value in results.items() if not np.isnan(value)}
    assert known.values() == pytest.approx([100] * len(known)) or list(known.values()) == pytest.approx([100] * len(known))
    assert len(known) >= 8


def test_class_is_not_regarded_and_proposals_need_none() -> None:
    truth = Truth([Rows([BOX, FAR], [0, 1])])
    found = [detections([BOX, FAR], [2, 2])]
    evaluator = ProposalEvaluator(truth, BOTH)
    results = run(evaluator, found)
    assert results["proposal_AR100"] == pytest.approx(100)
    feed(evaluator, [{"boxes": one["boxes"], "scores": one["scores"]} for one in found], "proposals")
    assert evaluator.evaluate() == pytest.approx(results, nan_ok=True)


def test_more_boxes_find_more() -> None:
    truth = Truth([Rows([BOX, FAR], [0, 0])])
    found = [detections([FAR, BOX, BOX], [0, 0, 0], [0.1, 0.9, 0.8])]
    results = run(ProposalEvaluator(truth, BOTH, numbers=(3, 1, 2)), found)
    assert [results[f"proposal_AR{n}"] for n in (1, 2, 3)] == pytest.approx([50, 50, 100])
    assert [results[f"proposal_fast_AR{n}"] for n in (1, 2, 3)] == pytest.approx([50, 50, 100])


def test_recall_is_the_mean_over_overlaps() -> None:
    truth = Truth([Rows([[0, 0, 10, 100]], [0], height=200)])
    found = [detections([[0, 0, 10, 72]], [0])]  # IoU 0.72: five of ten thresholds
    results = run(ProposalEvaluator(truth, BOTH), found)
    assert results["proposal_AR100"] == pytest.approx(50)
    assert results["proposal_fast_AR1000"] == pytest.approx(50)


def test_both_ways_of_matching_agree_where_boxes_lie_apart() -> None:
    truth = random_truth(20)
    for row in truth.rows:
        row.crowd[:] = False
    results = run(ProposalEvaluator(truth, BOTH), noisy(truth))
    assert results["proposal_AR1000"] == pytest.approx(results["proposal_fast_AR1000"], abs=2)


def test_crowds_need_not_be_found_and_nothing_to_find_is_nan() -> None:
    truth = Truth([Rows([BOX, FAR], [0, 0], crowd=[False, True])])
    assert run(ProposalEvaluator(truth, BOTH), [detections([BOX], [0])])["proposal_fast_AR100"] == 100
    empty = run(ProposalEvaluator(Truth([Rows()], name="no boxes"), BOTH), [detections([BOX], [0])])
    assert all(np.isnan(value) for value in empty.values())
    nothing = run(ProposalEvaluator(truth, BOTH), [detections()])
    assert nothing["proposal_AR100"] == nothing["proposal_fast_AR100"] == 0


def test_file_holds_the_best_boxes(tmp_path: Path) -> None:
    truth = Truth([Rows()], kinds=frozenset())
    evaluator = ProposalEvaluator(truth, predictions_only=True, numbers=(1,))
    assert run(evaluator, [detections([BOX, FAR], [0, 0], [0.25, 0.5])]) == {}
    (path,) = evaluator.write(tmp_path / "run")
    assert path.name == "run.proposal.json"
    assert json.loads(path.read_text()) == [{"image_id": "p_000", "category_id": 1, "bbox": [20, 20, 10, 10], "score": 0.5}]


def test_wrong_requests_are_refused() -> None:
    with pytest.raises(ValueError, match="Did you mean 'proposal'"):
        ProposalEvaluator(Truth([Rows()]), ("proposals",))
    with pytest.raises(ValueError, match="numbers is"):
        ProposalEvaluator(Truth([Rows()]), numbers=(0,))
