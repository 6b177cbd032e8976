"""Saving in the background: what is written is the state of the moment, and nobody believes in a file that is not there."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pet.data.loader import EvalLoader
from pet.engine import checkpoint_file
from pet.engine.background import Background, HostCopy
from pet.engine.checkpoint_file import read_checkpoint
from pet.engine.checkpointer import CheckPointer
from pet.engine.events import EventStorage
from pet.engine.hooks.base import Hook, Phase
from tests.engine.toys import CountingScheduler, make_model, make_sgd
from tests.faults.toy import TermAt, ToyDataset, train
from tests.helpers import run_ranks

REAL_WRITE = checkpoint_file.write_checkpoint


class Gate:
    """Holds the writer before its file until it is opened; then the file is written, or ``error`` raised."""

    def __init__(self, patch: pytest.MonkeyPatch, error: OSError | None = None) -> None:
        self.open, self.reached, self.error = threading.Event(), threading.Event(), error
        patch.setattr(checkpoint_file, "write_checkpoint", self._write)

    def _write(self, state: Any, path: Path) -> None:
        self.reached.set()
        assert self.open.wait(30)
        if self.error is not None:
            raise self.error
        REAL_WRITE(state, path)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate(monkeypatch)
    yield gate
    gate.open.set()


class Saver:
    """A model, what trains it, and a checkpointer that writes in the background."""

    def __init__(self, folder: Path) -> None:
        self.model = make_model()
        self.optimizer, self.scheduler = make_sgd(self.model), CountingScheduler()
        self.checkpointer = CheckPointer(folder, asynchronous=True)

    def save(self) -> Path:
        self.scheduler.iteration += 1
        return self.checkpointer.save(self.model, self.optimizer, self.scheduler)


def test_the_file_holds_the_state_of_the_moment_however_late_it_is_written(gate: Gate, tmp_path: Path) -> None:
    saver = Saver(tmp_path)
    expected = {name: tensor.clone() for name, tensor in saver.model.state_dict().items()}
    path = saver.save()
    assert gate.reached.wait(10)
    assert not path.exists()
    with torch.no_grad():
        for parameter in saver.model.parameters():
            parameter.add_(1.0)
    gate.open.set()
    saver.checkpointer.wait()
    saved = read_checkpoint(path)["model"]
    assert all(torch.equal(saved[name], tensor) for name, tensor in expected.items())
    assert (tmp_path / "model_latest.pth").resolve() == path.resolve()


def test_a_save_waits_for_the_one_before_it(gate: Gate, tmp_path: Path) -> None:
    saver = Saver(tmp_path)
    first = saver.save()
    threading.Timer(0.2, gate.open.set).start()
    second = saver.save()
    assert first.exists()
    saver.checkpointer.wait()
    assert second.exists()


def test_an_error_of_the_background_is_raised_by_the_next_save_and_the_file_is_not_claimed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    saver = Saver(tmp_path)
    good = saver.save()
    saver.checkpointer.wait()
    gate = Gate(monkeypatch, OSError("cannot write: the disk is full"))
    gate.open.set()
    saver.save()
    with pytest.raises(OSError, match="the disk is full"):
        saver.save()
    assert (saver.checkpointer.last_path, saver.checkpointer.last_saved) == (good, 1)
    saver.checkpointer.wait()
    assert sorted(tmp_path.glob("model_iter*.pth")) == [good]


def test_what_follows_a_write_is_dropped_when_it_fails() -> None:
    background, done = Background("test"), list[str]()

    def fail() -> None:
        raise OSError("no space")

    background.submit(fail)
    background.follow(lambda: done.append("after the failure"))
    with pytest.raises(OSError, match="no space"):
        background.wait()
    background.follow(lambda: done.append("at once"))
    background.submit(lambda: done.append("again"))
    background.wait()
    assert done == ["at once", "again"]


def test_host_memory_is_used_again_and_tied_weights_stay_one() -> None:
    tied = nn.Linear(3, 3, bias=False)
    model = nn.ModuleDict({"one": tied, "two": tied, "image": nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)})
    copy = HostCopy()
    first = copy({"model": model.state_dict(), "numbers": [1, [2.0, "three"]]})
    places = {name: tensor.data_ptr() for name, tensor in first["model"].items()}
    assert places["one.weight"] == places["two.weight"] != tied.weight.data_ptr()
    assert first["model"]["image.weight"].stride() == model["image"].weight.stride()
    assert first["model"]._metadata == model.state_dict()._metadata
    second = copy({"numbers": [], "model": model.state_dict()})
    assert {name: tensor.data_ptr() for name, tensor in second["model"].items()} == places
    assert first["numbers"] == [1, [2.0, "three"]]


class SlowDisk:
    """Makes every write take a while."""

    def __init__(self, patch: pytest.MonkeyPatch, seconds: float = 0.2) -> None:
        self.threads: set[str] = set()

        def write(state: Any, path: Path) -> None:
            self.threads.add(threading.current_thread().name)
            time.sleep(seconds)
            REAL_WRITE(state, path)

        patch.setattr(checkpoint_file, "write_checkpoint", write)


class FailAt(Hook):
    """Raises after the checkpoint of an update was begun."""

    phase = Phase.EVALUATE

    def __init__(self, update: int) -> None:
        self._update = update

    def after_step(self, storage: EventStorage) -> None:
        if storage.iteration == self._update:
            raise ArithmeticError("a hook fails")


def test_a_stopped_run_has_its_checkpoint_on_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    disk = SlowDisk(monkeypatch)
    train(tmp_path, [TermAt(2)])
    assert read_checkpoint(tmp_path / "model_latest.pth")["meta"]["iteration"] == 2
    assert disk.threads == {"checkpoint writer"}


def test_a_failed_run_writes_to_its_end_what_it_has_begun(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    SlowDisk(monkeypatch)
    with pytest.raises(ArithmeticError):
        train(tmp_path, [FailAt(3)])
    assert read_checkpoint(tmp_path / "model_latest.pth")["meta"]["iteration"] == 3


def test_the_best_is_linked_after_the_write_that_it_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    SlowDisk(monkeypatch)
    train(tmp_path, [TermAt(5)])
    assert read_checkpoint(tmp_path / "model_best.pth")["meta"]["iteration"] == 4


class Updates(Hook):
    """Counts updates, each of which lasts a while."""

    def __init__(self) -> None:
        self.count = 0

    def after_step(self, storage: EventStorage) -> None:
        self.count += 1
        time.sleep(0.05)


def test_a_run_whose_checkpoint_cannot_be_written_ends_before_the_next_one_is_due(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    Gate(monkeypatch, OSError("cannot write: the disk is full")).open.set()
    updates = Updates()
    with pytest.raises(OSError, match="the disk is full"):
        train(tmp_path, [updates], SOLVER__SNAPSHOT_ITER=1000, EVAL__PERIOD_EPOCHS=None, EVAL__PERIOD_ITERS=4)
    assert 4 < updates.count < 8
    assert not (tmp_path / "finished.json").exists()


def test_loader_workers_may_start_while_a_checkpoint_is_written(tmp_path: Path) -> None:
    saver = Saver(tmp_path)
    saver.model.append(nn.Linear(1024, 1024))
    loader = EvalLoader(ToyDataset(6), batch_size=2, num_workers=2)
    stop, writes = threading.Event(), list[Path]()

    def write() -> None:
        while not stop.is_set():
            writes.append(tmp_path / f"model_iter{len(writes)}.pth")
            checkpoint_file.write_checkpoint({"model": saver.model.state_dict()}, writes[-1])

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(6):
            assert sum(len(batch) for batch in loader) == 6
    finally:
        stop.set()
        thread.join()
    for path in writes:
        read_checkpoint(path)


def fail_on_rank_0(rank: int, folder: Path) -> str:
    """What a rank sees when rank 0 cannot write."""
    with pytest.MonkeyPatch.context() as patch:
        Gate(patch, OSError("cannot write: the disk is full")).open.set()
        try:
            train(folder, MISC__STOP_CHECK_ITER=1)
        except OSError as error:
            return str(error)
    return ""


@pytest.mark.distributed
def test_every_rank_ends_with_the_error_of_rank_0(tmp_path: Path) -> None:
    first, second = run_ranks(2, fail_on_rank_0, tmp_path)
    assert first == "cannot write: the disk is full"
    assert second == f"rank 0 could not save: {first}"
