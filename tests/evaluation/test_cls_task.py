"""From a config: evaluators, pictures and files of predictions for classification data."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pet.tasks.cls as cls
from pet.data.datasets.base import VisionDataset
from pet.data.structures import Batch, Sample
from pet.evaluation import ClassificationEvaluator, MultiLabelEvaluator, class_evaluators, read_plain
from pet.tasks.cls import config

NAMES = ["cat", "dog", "owl"]
SCORES = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.5, 0.1, 0.4], [0.2, 0.5, 0.3]])


class Listed(VisionDataset):
    """Grey images with given labels."""

    def __init__(self, labels: Any) -> None:
        super().__init__("listed", NAMES, None)
        self._labels = np.asarray(labels)

    def __len__(self) -> int:
        return len(self._labels)

    def read(self, index: int) -> Sample:
        return Sample(np.full((32, 32, 3), 40, np.uint8), {}, index)

    def labels(self) -> np.ndarray:
        return self._labels


def run(cfg: Any, dataset: Listed, **options: Any) -> Any:
    evaluator = cls.build_evaluator(cfg, dataset, **options)
    visualizer = cls.build_visualizer(cfg, dataset, evaluator)
    labels = dataset.labels()
    target = {"scores": torch.tensor(labels).float()} if labels.ndim == 2 else {"label": torch.tensor(labels)}
    images = torch.full((len(dataset), 3, 32, 32), 40, dtype=torch.uint8)
    batch = Batch(images, target if labels.min() >= 0 else {}, torch.arange(len(dataset)))
    evaluator.process(batch, {"scores": SCORES[: len(dataset)]})
    visualizer.process(batch, {"scores": SCORES[: len(dataset)]})
    return evaluator, evaluator.evaluate(), visualizer.pictures()


def cfg_with(**options: Any) -> Any:
    cfg = cls.get_base_cfg()
    cfg.MODEL.GLOBAL_HEAD.CLS.NUM_CLASSES = len(NAMES)
    for name, value in options.items():
        cfg.EVAL[name] = value
    return cfg


def test_one_label_is_evaluated_as_the_config_says() -> None:
    evaluator, results, pictures = run(
        cfg_with(METRICS=("accuracy", "f1_score"), TOPK=(1, 2), AVERAGE="micro"), Listed([0, 1, 2, 2])
    )
    assert isinstance(evaluator, ClassificationEvaluator)
    assert results == {"top1": 50.0, "top2": 100.0, "f1": 50.0}
    assert sorted(pictures) == ["confusion", "predictions"]
    text = evaluator.table()
    assert "dog        50.00   100.00    66.67        1" in text
    assert "1 x owl taken for cat" in text


def test_several_labels_are_recognised_and_evaluated() -> None:
    labels = [[1, 0, 0], [0, 1, 1], [1, 0, 1], [0, 1, 0]]
    evaluator, results, pictures = run(cfg_with(METRICS=("mAP", "OP", "OR"), THRESHOLD=0.4), Listed(np.array(labels, bool)))
    assert isinstance(evaluator, MultiLabelEvaluator)
    assert results == {"mAP": pytest.approx(100 * (1 + 1 + 5 / 6) / 3), "OP": 100.0, "OR": pytest.approx(100 * 5 / 6)}
    assert sorted(pictures) == ["precision_recall", "predictions", "roc"]
    evaluator, results, _ = run(cfg_with(METRICS=("OP", "OR"), NUM_PREDICTED=2), Listed(np.array(labels, bool)))
    assert results == {"OP": 75.0, "OR": 100.0}


@pytest.mark.parametrize("suffix", [".json", ".yaml", ".pkl"])
def test_file_holds_predictions_and_metrics_together(tmp_path: Path, suffix: str) -> None:
    evaluator, results, _ = run(cfg_with(METRICS=("accuracy", "confusion")), Listed([0, 1, 2, 2]), keep_scores=True)
    path = tmp_path / f"out{suffix}"
    cls.write_predictions(path, evaluator)
    content = read_plain(path)
    assert content["metrics"] == results
    assert content["class_names"] == NAMES
    assert content["id"] == [0, 1, 2, 3]
    assert content["path"][3] == "listed[3]"
    assert content["pred_label"] == [0, 1, 0, 1]
    assert content["pred_class"] == ["cat", "dog", "cat", "dog"]
    assert content["label"] == [0, 1, 2, 2]
    np.testing.assert_array_equal(np.array(content["class_scores"], np.float32), SCORES.numpy())
    np.testing.assert_array_equal(np.array(content["pred_score"], np.float32), SCORES.max(1).values.numpy())
    assert content["confusion"] == [[1, 0, 0], [0, 1, 0], [1, 1, 0]]


def test_file_of_several_labels_lists_the_most_certain_first(tmp_path: Path) -> None:
    evaluator, _, _ = run(cfg_with(METRICS=("mAP",), THRESHOLD=0.3), Listed(np.eye(3, dtype=bool)), keep_scores=True)
    cls.write_predictions(tmp_path / "out.json", evaluator)
    content = json.loads((tmp_path / "out.json").read_text())
    assert content["pred_class"] == [["cat"], ["dog", "owl"], ["cat", "owl"]]
    assert content["label"] == [[0], [1], [2]]


def test_number_without_meaning_is_null_in_the_file(tmp_path: Path) -> None:
    evaluator, results, _ = run(cfg_with(METRICS=("recall",), AVERAGE="none"), Listed([0, 1, 1, 1]), keep_scores=True)
    assert math.isnan(results["recall/owl"])
    cls.write_predictions(tmp_path / "out.json", evaluator)
    assert read_plain(tmp_path / "out.json")["metrics"]["recall/owl"] is None


def test_scores_that_were_not_kept_are_left_out_of_the_predictions(tmp_path: Path) -> None:
    evaluator, _, _ = run(cfg_with(), Listed([0, 1, 2]))
    cls.write_predictions(tmp_path / "out.json", evaluator)
    assert {"pred_label", "pred_score", "label"} <= read_plain(tmp_path / "out.json").keys()
    assert "class_scores" not in read_plain(tmp_path / "out.json")


def test_predictions_cannot_be_written_before_the_evaluation(tmp_path: Path) -> None:
    evaluator = cls.build_evaluator(cfg_with(), Listed([0, 1, 2]))
    with pytest.raises(ValueError, match="evaluate first"):
        cls.write_predictions(tmp_path / "out.json", evaluator)


def test_metrics_of_unlabelled_data_are_refused_before_inference() -> None:
    with pytest.raises(ValueError, match=r"2 of 3 images have no label \(first: listed\[1\]\), so accuracy cannot be computed"):
        cls.build_evaluator(cfg_with(), Listed([0, -1, -1]))
    with pytest.raises(ValueError, match="3 of 3 images have no label"):
        cls.build_evaluator(cfg_with(), Listed([-1, -1, -1]), metrics=("accuracy",), keep_scores=True)


def test_unlabelled_data_can_be_predicted(tmp_path: Path) -> None:
    evaluator, results, pictures = run(cfg_with(), Listed([-1, -1, -1]), keep_scores=True)
    assert results == {}
    assert sorted(pictures) == ["predictions"]
    assert evaluator.table() == "3 images, predictions only"
    cls.write_predictions(tmp_path / "out.json", evaluator)
    assert "label" not in read_plain(tmp_path / "out.json")


def test_metric_of_the_other_kind_is_refused_before_inference() -> None:
    with pytest.raises(ValueError, match="'mAP' is for data with several labels"):
        cls.build_evaluator(cfg_with(), Listed([0, 1]), metrics=("mAP",))
    with pytest.raises(ValueError, match="'accuracy' is for data with one label"):
        cls.build_evaluator(cfg_with(), Listed(np.eye(3, dtype=bool)))


def test_label_outside_the_classes_is_refused_before_inference() -> None:
    with pytest.raises(ValueError, match=r"label 3 of listed\[1\] is outside 0 to 2"):
        cls.build_evaluator(cfg_with(), Listed([0, 3]))


def test_the_config_allows_exactly_the_metrics_that_exist() -> None:
    assert config.SINGLE_LABEL_METRICS == class_evaluators.SINGLE_LABEL_METRICS
    assert config.MULTI_LABEL_METRICS == class_evaluators.MULTI_LABEL_METRICS


@pytest.mark.parametrize("suffix", [".json", ".yaml", ".pkl"])
@pytest.mark.parametrize(
    ("options", "labels"),
    [
        pytest.param({"METRICS": ("accuracy", "f1_score"), "TOPK": (1, 2)}, [0, 1, 2, 2], id="one label"),
        pytest.param({"METRICS": ("mAP", "CF1")}, [[1, 0, 0], [0, 1, 1], [1, 0, 1], [0, 1, 0]], id="several labels"),
    ],
)
def test_file_of_a_test_gives_its_metrics_without_the_model(options: Any, labels: Any, suffix: str, tmp_path: Path) -> None:
    cfg, dataset, file = cfg_with(**options), Listed(labels), tmp_path / f"found{suffix}"
    evaluator, results, _ = run(cfg, dataset, keep_scores=True)
    cls.write_predictions(file, evaluator, prefix=tmp_path / "mine")
    for path in (file, tmp_path / "mine.json"):
        assert cls.evaluate_file(cfg, dataset, path).results == results
    with pytest.raises(ValueError, match="has predictions of 4 images, but listed has 2; they belong to another data set"):
        cls.evaluate_file(cfg, Listed(labels[:2]), file)


def test_file_without_all_scores_or_of_other_classes_is_refused(tmp_path: Path) -> None:
    cfg, dataset, file = cfg_with(), Listed([0, 1, 2, 2]), tmp_path / "found.json"
    cls.write_predictions(file, run(cfg, dataset)[0])
    with pytest.raises(ValueError, match="has no class_scores.*--out FILE"):
        cls.evaluate_file(cfg, dataset, file)
    cls.write_predictions(file, run(cfg, dataset, keep_scores=True)[0])
    dataset.class_names = ["cat", "dog", "owls"]
    with pytest.raises(ValueError, match="has classes cat, dog, owl, but listed has cat, dog, owls"):
        cls.evaluate_file(cfg, dataset, file)
