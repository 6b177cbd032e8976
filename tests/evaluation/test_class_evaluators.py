"""Evaluators give exact results on any number of processes and refuse what they cannot compute."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from pet.evaluation import ClassificationEvaluator, DatasetEvaluator, Evaluator, MultiLabelEvaluator
from pet.evaluation.class_evaluators import SINGLE_LABEL_METRICS
from tests.helpers import run_ranks

NAMES = ["cat", "dog", "owl"]


@dataclass
class Inputs:
    ids: torch.Tensor
    targets: dict[str, Any] = field(default_factory=dict)


def data(count: int, classes: int = 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, classes, generator=generator).softmax(1), torch.randint(classes, (count,), generator=generator)


def feed(evaluator: DatasetEvaluator, ids: list[int], count: int, batch: int = 2) -> None:
    scores, labels = data(count)
    targets = (scores > 0.3).float().roll(1, 0)
    evaluator.reset()
    for start in range(0, len(ids), batch):
        chosen = torch.tensor(ids[start : start + batch])
        evaluator.process(Inputs(chosen, {"label": labels[chosen], "scores": targets[chosen]}), {"scores": scores[chosen]})


def make(kind: str, count: int) -> DatasetEvaluator:
    if kind == "single":
        chosen = ("accuracy", "precision", "recall", "f1_score", "support")
        return ClassificationEvaluator("set", range(count), NAMES, chosen, topk=(1, 2), keep_scores=True)
    return MultiLabelEvaluator("set", range(count), NAMES, ("mAP", "CP", "CR", "CF1", "OP", "OR", "OF1"))


def share(rank: int, world: int, kind: str, count: int) -> tuple[dict[str, float], dict[str, Any]]:
    evaluator = make(kind, count)
    feed(evaluator, list(range(rank, count, world)), count)
    return evaluator.evaluate(), evaluator.columns


CASES = [("single", 5), ("multi", 5), ("single", 1)]  # of the last one, the second process gets no image


def doubled_image(rank: int) -> str:
    evaluator = make("single", 5)
    feed(evaluator, [0, 2, 4] if rank == 0 else [1, 3, 0], 5)
    try:
        evaluator.evaluate()
    except ValueError as error:
        return str(error)
    return ""


def two_ranks(rank: int) -> tuple[list[Any], str]:
    return [share(rank, 2, kind, count) for kind, count in CASES], doubled_image(rank)


def test_both_evaluators_follow_the_protocol() -> None:
    assert isinstance(make("single", 1), Evaluator)
    assert isinstance(make("multi", 1), Evaluator)


@pytest.fixture(scope="module")
def of_two_ranks() -> list[tuple[list[Any], str]]:
    return run_ranks(2, two_ranks)


@pytest.mark.distributed
@pytest.mark.parametrize("case", range(len(CASES)))
def test_evaluation_counts_each_image_once_on_two_processes(case: int, of_two_ranks: list[Any]) -> None:
    (first, kept), second = (shares[case] for shares, _ in of_two_ranks)
    alone, columns = share(0, 1, *CASES[case])
    assert first == alone
    assert second == ({}, {})
    assert columns.keys() == kept.keys()
    for name, column in columns.items():
        np.testing.assert_array_equal(column, kept[name])


@pytest.mark.distributed
def test_image_given_to_two_processes_is_named(of_two_ranks: list[Any]) -> None:
    first, second = (message for _, message in of_two_ranks)
    assert "6 predictions do not match the 5 images" in first
    assert "1 doubled (0)" in first
    assert second == ""


@pytest.mark.parametrize("average", ["macro", "none"])
def test_names_of_the_results_are_known_before_the_evaluation(average: Any) -> None:
    for evaluator in (ClassificationEvaluator("set", range(6), NAMES, SINGLE_LABEL_METRICS, average=average), make("multi", 6)):
        feed(evaluator, list(range(6)), 6)
        assert evaluator.result_names() == list(evaluator.evaluate())  # type: ignore[attr-defined]


def test_missing_and_unknown_images_are_named() -> None:
    evaluator = make("single", 30)
    feed(evaluator, [0, 1], 30)
    with pytest.raises(ValueError, match=r"28 missing \(2, 3, .*and 18 more\)"):
        evaluator.evaluate()
    evaluator = ClassificationEvaluator("set", [0, 1], NAMES)
    feed(evaluator, [0, 1, 2], 3)
    with pytest.raises(ValueError, match=r"1 unknown \(2\)"):
        evaluator.evaluate()


def test_reset_forgets_the_last_run() -> None:
    evaluator = make("single", 4)
    feed(evaluator, [0, 1, 2, 3], 4)
    first = evaluator.evaluate()
    feed(evaluator, [3, 2, 1, 0], 4, batch=3)
    assert evaluator.evaluate() == first


def test_results_have_the_names_and_values_of_the_definitions() -> None:
    evaluator = ClassificationEvaluator(
        "set",
        range(4),
        ["a", "b", "c", "d"],
        ("accuracy", "precision", "recall", "f1_score", "support", "confusion"),
        topk=(1, 2),
    )
    labels = torch.tensor([0, 2, 1, 3])
    scores = torch.eye(4)[[0, 1, 1, 3]]
    evaluator.process(Inputs(torch.arange(4), {"label": labels}), {"scores": scores})
    results = evaluator.evaluate()
    expected = {"top1": 75.0, "top2": 75.0, "precision": 62.5, "recall": 75.0, "f1": 200 / 3, "support": 4.0}
    assert results == pytest.approx(expected)
    assert evaluator.confusion is not None
    assert evaluator.confusion.tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]]
    assert evaluator.per_class is not None
    assert evaluator.per_class.support.tolist() == [1, 1, 1, 1]


def test_average_none_names_each_class() -> None:
    evaluator = ClassificationEvaluator("set", range(3), NAMES, ("recall", "support"), average="none")
    evaluator.process(Inputs(torch.arange(3), {"label": torch.tensor([0, 1, 2])}), {"scores": torch.eye(3)[[0, 0, 2]]})
    assert evaluator.evaluate() == {
        "recall/cat": 100.0, "recall/dog": 0.0, "recall/owl": 100.0, "support/cat": 1.0, "support/dog": 1.0, "support/owl": 1.0,
    }  # fmt: skip


def test_prediction_at_the_threshold_is_none() -> None:
    evaluator = ClassificationEvaluator(
        "set", range(2), ["a", "b"], ("accuracy", "precision", "recall"), topk=(1,), threshold=0.5
    )
    scores = torch.tensor([[0.5, 0.5], [0.25, 0.75]])
    evaluator.process(Inputs(torch.arange(2), {"label": torch.tensor([0, 1])}), {"scores": scores})
    assert evaluator.evaluate() == {"top1": 50.0, "precision": 50.0, "recall": 50.0}
    assert evaluator.confusion is not None
    assert evaluator.confusion.tolist() == [[0, 0], [0, 1]]


def test_diverged_model_scores_nothing_and_its_images_are_named(caplog: pytest.LogCaptureFixture) -> None:
    evaluator = ClassificationEvaluator("set", range(2), NAMES, ("accuracy", "f1_score"))
    scores = torch.full((2, 3), float("nan"))
    evaluator.process(Inputs(torch.arange(2), {"label": torch.tensor([0, 0])}), {"scores": scores})
    with caplog.at_level(logging.WARNING, "pet"):
        assert evaluator.evaluate() == {"top1": 0.0, "top5": 0.0, "f1": 0.0}
    assert "2 images are NaN (ids 0, 1)" in caplog.text


def test_k_above_the_number_of_classes_is_clipped_with_one_notice(caplog: pytest.LogCaptureFixture) -> None:
    evaluator = ClassificationEvaluator("set of three classes", range(4), NAMES, ("accuracy",))
    with caplog.at_level(logging.WARNING, "pet"):
        for _ in range(2):
            feed(evaluator, [0, 1, 2, 3], 4)
            results = evaluator.evaluate()
    assert results["top5"] == 100.0
    assert caplog.text.count("top5 counts all of them") == 1


def test_class_without_ground_truth_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    evaluator = ClassificationEvaluator("set without owls", range(2), NAMES, ("recall",))
    with caplog.at_level(logging.WARNING, "pet"):
        for _ in range(2):
            evaluator.reset()
            evaluator.process(Inputs(torch.arange(2), {"label": torch.tensor([0, 1])}), {"scores": torch.eye(3)[[0, 2]]})
            assert evaluator.evaluate() == {"recall": 50.0}
    assert caplog.text.count("no ground truth for 1 of 3 classes (owl)") == 1


def test_only_what_the_metrics_need_is_kept() -> None:
    evaluator = ClassificationEvaluator("set", range(8), [str(c) for c in range(3)])
    feed(evaluator, list(range(8)), 8)
    evaluator.evaluate()
    assert "class_scores" not in evaluator.columns
    assert all(column.shape == (8,) for column in evaluator.columns.values())


def test_predictions_without_metrics_need_no_labels() -> None:
    evaluator = ClassificationEvaluator("set", range(2), NAMES, ())
    evaluator.process(Inputs(torch.arange(2)), {"scores": torch.eye(3)[:2]})
    assert evaluator.evaluate() == {}
    assert evaluator.columns["pred_label"].tolist() == [0, 1]


def test_half_precision_scores_are_accepted() -> None:
    evaluator = ClassificationEvaluator("set", range(2), NAMES)
    evaluator.process(
        Inputs(torch.arange(2), {"label": torch.tensor([0, 1])}), {"scores": torch.eye(3, dtype=torch.bfloat16)[:2]}
    )
    assert evaluator.evaluate()["top1"] == 100.0


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (("acuracy",), "Did you mean 'accuracy'"),
        (("mAP",), "for data with several labels"),
        (("top1",), "no metric is named 'top1'"),
    ],
)
def test_wrong_metric_is_refused_at_construction(chosen: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClassificationEvaluator("set", range(2), NAMES, chosen)


def test_single_label_metric_on_multi_label_data_is_refused() -> None:
    with pytest.raises(ValueError, match="for data with one label"):
        MultiLabelEvaluator("set", range(2), NAMES, ("accuracy",))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"topk": ()}, "at least 1"),
        ({"topk": (0,)}, "at least 1"),
        ({"average": "weighted"}, "macro, micro, none"),
        ({"class_names": []}, "names no classes"),
        ({"ids": []}, "has no images"),
    ],
)
def test_wrong_option_is_refused_at_construction(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClassificationEvaluator(**{"name": "set", "ids": [0], "class_names": NAMES, **options})


def test_outputs_that_do_not_fit_are_refused() -> None:
    evaluator = ClassificationEvaluator("set", range(2), NAMES)
    ids, label = torch.arange(2), torch.tensor([0, 1])
    with pytest.raises(ValueError, match=r"shape \(2, 4\) for 3 classes"):
        evaluator.process(Inputs(ids, {"label": label}), {"scores": torch.zeros(2, 4)})
    with pytest.raises(ValueError, match="image 1 has label 3"):
        evaluator.process(Inputs(ids, {"label": torch.tensor([0, 3])}), {"scores": torch.zeros(2, 3)})
    with pytest.raises(ValueError, match="has no labels"):
        evaluator.process(Inputs(ids), {"scores": torch.zeros(2, 3)})
    with pytest.raises(ValueError, match="one prediction for each image"):
        evaluator.process(Inputs(torch.arange(3), {"label": label}), {"scores": torch.zeros(2, 3)})
