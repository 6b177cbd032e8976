"""A rank that does not answer is named with its place, and telling the place costs next to nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from time import perf_counter, thread_time

import pytest

from pet.engine.events import EventStorage
from pet.engine.heartbeat import FOLDER, PLACE, SINCE, UPDATE, describe_silent, open_pulse, read_pulse
from pet.engine.hooks.base import Hook, HookList
from pet.utils.env import process_state

_RANK = """
import sys, time
sys.path.insert(0, {repository!r})
from pet.engine.heartbeat import PLACE, SINCE, UPDATE, open_pulse, print_stack_on_quit
print_stack_on_quit()
pulse = open_pulse(["Evaluate", "data or step"], 1.0)
pulse[PLACE], pulse[UPDATE], pulse[SINCE] = 0, 37, time.perf_counter() - {ago}
def waiting_for_ever():
    print("ready", flush=True)
    time.sleep(60)
waiting_for_ever()
"""


class Slow(Hook):
    """Looks at the heartbeat from inside a stage."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.seen = folder, ""

    def after_step(self, storage: EventStorage) -> None:
        self.seen = str(read_pulse(self._folder, 0, os.getpid()))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    return tmp_path


def silent_rank(folder: Path, ago: float) -> subprocess.Popen[str]:
    code = _RANK.format(repository=str(Path(__file__).parents[2]), ago=ago)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_hook_that_runs_is_known_outside(folder: Path) -> None:
    slow = Slow(folder)
    hooks, storage = HookList([slow]), EventStorage(7)
    assert str(read_pulse(folder, 0, os.getpid())) == "in data or step for 0 s"
    hooks.after_step(storage)
    assert slow.seen == "in Slow of update 7 for 0 s"
    assert str(read_pulse(folder, 0, os.getpid())) == "in data or step of update 7 for 0 s"


def test_heartbeat_of_another_process_or_of_none_is_not_read(folder: Path) -> None:
    assert read_pulse(folder, 0, os.getpid()) is None
    open_pulse(["place"], 1.0)
    assert read_pulse(folder, 0, os.getpid()) is not None
    assert read_pulse(folder, 0, os.getpid() + 1) is None


def test_rank_that_hangs_is_named_and_prints_its_stack(folder: Path) -> None:
    with silent_rank(folder, ago=12.0) as rank:
        lines = describe_silent(folder, {0: rank.pid}, first_rank=4)
        assert lines == ["rank 4 does not answer: in Evaluate of update 37 for 12 s"]
        assert rank.wait(60) == -signal.SIGQUIT
        assert "in waiting_for_ever" in rank.communicate()[1]


def test_rank_that_was_stopped_is_named_as_such_and_ended(folder: Path) -> None:
    with silent_rank(folder, ago=12.0) as rank:
        os.kill(rank.pid, signal.SIGSTOP)
        deadline = time.monotonic() + 5.0
        while process_state(rank.pid) != "T" and time.monotonic() < deadline:
            time.sleep(0.01)
        lines = describe_silent(folder, {0: rank.pid})
        assert lines == ["rank 0 does not answer: in Evaluate of update 37 for 12 s, stopped by a signal"]
        assert rank.wait(60) == -signal.SIGKILL


def test_rank_that_moves_is_left_alone(folder: Path) -> None:
    with silent_rank(folder, ago=0.0) as rank:
        assert describe_silent(folder, {0: rank.pid}) == []
        assert rank.poll() is None
        rank.kill()


def test_telling_the_place_of_ten_hooks_takes_less_than_a_microsecond_a_step(folder: Path) -> None:
    pulse, now, steps = open_pulse(["place"], 1.0), perf_counter(), 2000

    def seconds() -> float:
        start = thread_time()
        for _ in range(steps):
            # Two stages of ten hooks together store as often as this.
            pulse[UPDATE] = pulse[SINCE] = pulse[PLACE] = pulse[PLACE] = pulse[PLACE] = pulse[PLACE] = pulse[SINCE] = now
            pulse[UPDATE] = pulse[SINCE] = pulse[PLACE] = pulse[PLACE] = pulse[PLACE] = pulse[PLACE] = pulse[PLACE] = now
            pulse[PLACE] = pulse[PLACE] = pulse[SINCE] = now
        return thread_time() - start

    assert min(seconds() for _ in range(50)) / steps < 1e-6
