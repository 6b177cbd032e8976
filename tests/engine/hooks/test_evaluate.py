from __future__ import annotations

import json
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pet.engine.checkpointer import CheckPointer
from pet.engine.evaluation import Evaluation, EvaluationSet
from pet.engine.events import EventStorage
from pet.engine.hooks.base import Hook, HookList, Phase
from pet.engine.hooks.build import check_same_classes
from pet.engine.hooks.checkpoint import Checkpoint
from pet.engine.hooks.evaluate import Best, EarlyStopping, Evaluate, better, find_metric
from pet.engine.hooks.lr_scheduler import LRScheduler
from pet.engine.loop import run_loop
from pet.engine.step import TrainStep
from tests.engine.toys import CountingScheduler, ToyLoader, forward_train, make_model, make_sgd


class FixedResults:
    """An evaluation that returns prepared values, one after another."""

    def __init__(self, *values: float, name: str = "val/top1") -> None:
        self.values, self.name, self.calls = list(values), name, 0

    def __call__(self, should_stop: Any, *, pictures: bool = False) -> tuple[dict[str, float], list[Any]]:
        self.calls += 1
        return {self.name: self.values[min(self.calls, len(self.values)) - 1]}, []


def train(folder, evaluation, extra: list[Hook], updates: int = 8, period: int = 2, check=None) -> EventStorage:
    model = make_model()
    optimizer, scheduler = make_sgd(model), CountingScheduler()
    checkpointer = CheckPointer(folder)
    hooks = HookList(
        [
            LRScheduler(optimizer, scheduler),
            Checkpoint(checkpointer, model, optimizer, scheduler, (period,), check=check),
            Evaluate(evaluation, period),
            *[hook(checkpointer) if callable(hook) else hook for hook in extra],
        ]
    )
    with EventStorage(1, 4, max_iter=updates, iter_per_epoch=4) as storage:
        run_loop(TrainStep(model, optimizer, forward_train), ToyLoader(), hooks, storage)
    return storage


def test_the_best_checkpoint_is_kept_though_retention_removes_its_file(tmp_path):
    train(tmp_path, FixedResults(10, 90, 50, 60), [lambda c: Best(c, "top1")])
    record = json.loads((tmp_path / "best.json").read_text())
    assert (record["value"], record["iteration"], record["results"]) == (90, 4, {"val/top1": 90})
    assert not (tmp_path / "model_iter4.pth").exists()
    assert torch.load(tmp_path / "model_best.pth", weights_only=True)["meta"]["iteration"] == 4
    assert (tmp_path / "model_latest.pth").resolve().name == "model_iter8.pth"


def test_smaller_can_be_better(tmp_path):
    train(tmp_path, FixedResults(3, 1, 2, 4), [lambda c: Best(c, "top1", "min")])
    assert json.loads((tmp_path / "best.json").read_text())["value"] == 1


def test_a_metric_that_does_not_exist_is_reported_at_the_first_evaluation(tmp_path):
    evaluation = FixedResults(1)
    with pytest.raises(KeyError, match="EVAL.BEST.METRIC is 'top5', but the evaluation returned val/top1"):
        train(tmp_path, evaluation, [lambda c: Best(c, "top5")])
    assert evaluation.calls == 1


def test_a_full_metric_name_chooses_the_data_set():
    assert find_metric({"a/top1": 1.0, "b/top1": 2.0}, "b/top1") == 2.0
    assert find_metric({"a/top1": 1.0, "b/top1": 2.0}, "top1") == 1.0


@pytest.mark.parametrize(
    ("value", "best", "mode", "delta", "expected"),
    [(1, None, "max", 0, True), (2, 1, "max", 0, True), (2, 1, "max", 1, False), (0, 1, "min", 0, True), (math.nan, None, "max", 0, False)],
)
def test_better(value, best, mode, delta, expected):
    assert better(value, best, mode, delta) is expected


def test_early_stopping_ends_the_run_and_saves_the_update_it_ended_at(tmp_path):
    storage = train(tmp_path, FixedResults(50, 60, 55, 58), [EarlyStopping("top1", patience=2)], updates=100)
    assert storage.last_update == 8
    assert storage.stop is not None
    assert "did not improve on 60 in 2 evaluations" in storage.stop.reason
    assert storage.stop.status == 0
    assert (tmp_path / "model_latest.pth").resolve().name == "model_iter8.pth"


def test_a_crash_of_the_evaluation_leaves_the_checkpoint_of_that_update(tmp_path):
    def crash(should_stop: Any, *, pictures: bool = False) -> Any:
        raise RuntimeError("broken metric")

    with pytest.raises(RuntimeError, match="broken metric"):
        train(tmp_path, crash, [])
    assert (tmp_path / "model_latest.pth").resolve().name == "model_iter2.pth"


def test_after_a_failure_nothing_is_saved(tmp_path):
    class Fails(Hook):
        phase = Phase.UPDATE

        def before_step(self, storage: EventStorage) -> None:
            if storage.iteration == 4:
                raise ValueError("bad data")

    with pytest.raises(ValueError, match="bad data"):
        train(tmp_path, FixedResults(1), [Fails()])
    assert [path.name for path in tmp_path.glob("model_iter*.pth")] == ["model_iter2.pth"]


def test_a_refused_state_is_not_written(tmp_path):
    def refuse(storage: EventStorage) -> None:
        raise FloatingPointError("not finite")

    with pytest.raises(FloatingPointError):
        train(tmp_path, FixedResults(1), [], check=refuse)
    assert list(tmp_path.glob("*.pth")) == []


def test_the_log_says_which_weights_were_measured(caplog):
    storage = EventStorage(4, max_iter=4, iter_per_epoch=4)
    with caplog.at_level("INFO", "pet"):
        Evaluate(FixedResults(50), 0, weights_name="averaged weights (EMA)").after_step(storage)
    assert "Evaluation of the averaged weights (EMA) after update 4 (epoch 1): val: top1 50" in caplog.text


def test_states_survive_a_round_trip():
    best = Best(None, "top1")  # type: ignore[arg-type]
    best.load_state_dict({"value": 3.0, "iteration": 7})
    assert best.state_dict() == {"value": 3.0, "iteration": 7}
    early = EarlyStopping("top1")
    early.load_state_dict({"best": 2.0, "waited": 1})
    assert early.state_dict() == {"best": 2.0, "waited": 1}


@pytest.mark.parametrize("attribute", ["class_names", "semseg_names", "keypoint_names"])
def test_a_test_set_where_a_class_has_another_label_is_refused(attribute, caplog):
    def data(*names: str) -> SimpleNamespace:
        return SimpleNamespace(**{attribute: list(names)})

    def evaluation(*names: str) -> Evaluation:
        part = EvaluationSet("val", SimpleNamespace(dataset=data(*names)), None)  # type: ignore[arg-type]
        return Evaluation(make_model(), [part], forward_train, "cpu")

    with pytest.raises(ValueError, match=f"{attribute} 0 is 'cat' in the training data and 'dog' in val: the same names"):
        check_same_classes(data("cat", "dog"), evaluation("dog", "cat"))
    with pytest.raises(ValueError, match=f"{attribute} 0 is 'cat' in the training data and 'dog' in val: the same name for another"):
        check_same_classes(data("cat", "dog", "emu"), evaluation("dog", "emu"))
    check_same_classes(data("cat", "dog"), evaluation("cat", "dog"))
    check_same_classes(data("cat", "dog"), evaluation())
    assert not caplog.records
    check_same_classes(data("cat", "dog"), evaluation("cat", "puppy"))
    assert f"{attribute} 1 is 'dog' in the training data and 'puppy' in val" in caplog.text
