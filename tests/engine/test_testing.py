"""What a test does around its metrics: ranks that wait for rank 0, and errors when much is done already."""

from __future__ import annotations

import argparse
import errno
import json
import time
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist

from pet.config import get_base_cfg
from pet.engine import testing
from pet.engine.arguments import UsageError
from pet.utils import comm
from pet.visualization.detections import DetectionPictures
from pet.visualization.predictions import PredictionPictures
from tests.engine.toys import make_model
from tests.helpers import run_ranks
from tests.shell import Shell, check

_LIMIT, _LONGER = 1.5, 2.5  # seconds
_YAML = """
MISC: {DEVICE: cpu, CUDNN: False}
ANALYSER: {ENABLED: False}
VIS: {ENABLED: False}
DATA:
  LOADER_THREADS: 0
  CATALOG: {tiny: {TYPE: shapes_dataset, NUM_IMAGES: 16, IMAGE_SIZE: 20}}
TRAIN: {DATASETS: [tiny], BATCH_SIZE: 8, TRANSFORMS: [normalize]}
TEST: {DATASETS: [tiny], TRANSFORMS: [normalize]}
SOLVER: {SCHEDULER: {TOTAL_EPOCHS: 1}}
MODEL:
  BACKBONE: tests.faults.small_net.SmallNet
  GLOBAL_HEAD: {CLS: {NUM_CLASSES: 10}}
"""


class Measured:
    """An evaluator that has nothing to do, and a visualizer that takes its time on rank 0."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def reset(self) -> None: ...

    def process(self, inputs: Any, outputs: Any) -> None: ...

    def evaluate(self) -> dict[str, float]:
        return {"top1": 50.0}

    def table(self) -> str:
        return ""

    def pictures(self) -> dict[str, Any]:
        if comm.is_main_process():
            time.sleep(self.seconds)
        return {}


def _write(path: Path, evaluator: Any, prefix: Path | None, folder: Path | None) -> list[Path]:
    return [*evaluator.pictures(), path.with_suffix(".bbox.json")] if comm.is_main_process() else []


def _test_two_sets(rank: int, folder: str) -> list[dict[str, float]]:
    dist.destroy_process_group()
    limit = {"init_method": f"file://{folder}/store", "timeout": timedelta(seconds=_LIMIT)}
    dist.init_process_group("gloo", rank=rank, world_size=2, **limit)
    cfg, args = get_base_cfg(), argparse.Namespace(show=False, eval_options=[])
    domain = SimpleNamespace(
        make_test_data_loader=lambda cfg, dataset: [],
        build_visualizer=lambda cfg, dataset, evaluator: evaluator,
        forward_test=None,
        write_predictions=_write,
    )
    sets = [(SimpleNamespace(name=name), Measured(seconds)) for name, seconds in (("a", _LONGER), ("b", 0.0))]
    parts = [testing.TestedSet(*part, Path("out.json"), None, None, None) for part in sets]
    return [testing.run_one(cfg, args, make_model(), domain, torch.device("cpu"), part) for part in parts]


@pytest.mark.distributed
def test_rank_0_may_write_and_draw_longer_than_the_ranks_wait_for_one_another(tmp_path: Path) -> None:
    assert run_ranks(2, _test_two_sets, str(tmp_path)) == [[{"top1": 50.0}] * 2] * 2


def test_pictures_wait_for_a_rank_that_still_draws_others(monkeypatch: pytest.MonkeyPatch) -> None:
    patience: list[bool] = []

    def gather(value: Any, dst: int = 0, *, patient: bool = False) -> list[Any]:
        patience.append(patient)
        return []

    class Pictures(list[int]):
        name, class_names = "mine", ["cat"]

    monkeypatch.setattr(comm, "gather", gather)
    assert DetectionPictures(Pictures([1]), 1).pictures() == PredictionPictures(["cat"], 1).pictures() == {}
    assert patience == [True, True]


def test_labels_that_meant_another_class_in_training_are_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cfg, model = get_base_cfg(), make_model()
    path = tmp_path / "x.pth"
    cfg.merge_from_list(["TEST.WEIGHTS", str(path)])

    def load(*names: str, **meta: Any) -> None:
        torch.save({"model": model.state_dict(), "meta": meta}, path)
        testing.load_test_weights(cfg, model, [SimpleNamespace(name="mine", class_names=list(names))])

    with pytest.raises(ValueError, match=r"'cat' in the checkpoint .*x.pth and 'dog' in mine: .*CLASSES: \[cat, dog\]"):
        load("dog", "cat", class_names=["cat", "dog"])
    load("dog", "cat")
    load("dog", "cat", class_names=["dog", "cat"])
    assert "compared by number" not in caplog.text
    load("n1", "n2", class_names=["dog", "cat"])
    assert "labels are compared by number" in caplog.text


def test_pictures_of_an_earlier_test_of_the_set_are_removed(tmp_path: Path) -> None:
    for name in ("a[1]_x.png", "a[1]_y.png", "a1_x.png", "b_x.png"):
        (tmp_path / name).touch()
    testing.remove_pictures(tmp_path, ["a[1]", "c"])
    testing.remove_pictures(tmp_path / "not there", ["b"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a1_x.png", "b_x.png"]


def test_windows_of_several_processes_are_refused_whoever_started_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    with pytest.raises(UsageError, match="--show is for one process, not for 2"):
        testing.build_test_sets(get_base_cfg(), argparse.Namespace(show=True), None, tmp_path)


def test_a_test_that_fails_late_is_a_failure_and_leaves_the_training_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def end_with(error: BaseException) -> Any:
        def write(*args: Any) -> list[Path]:
            raise error

        return write

    shell = Shell(tmp_path, monkeypatch, capsys, _YAML)
    assert shell.train().status == 0
    record = (shell.run / "run.json").read_text()
    assert json.loads(record)["starts"][-1]["status"] == "finished"

    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr("pet.tasks.cls.write_predictions", end_with(full))
    ended = shell.test()
    check(ended, 1, "Traceback", "No space left on device", "Testing the weights")
    assert "Nothing was started" not in ended.text
    assert "--resume" not in ended.text, "a test is not continued"
    (log,) = (shell.run / "log").glob("test_*.txt")
    assert "No space left on device" in log.read_text()

    monkeypatch.setattr("pet.tasks.cls.write_predictions", end_with(KeyboardInterrupt()))
    check(shell.test(), 130, "interrupted during the test")
    assert (shell.run / "run.json").read_text() == record
