"""Loader processes: they outlive signals to the group and die with their parent."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import textwrap
import time

import pytest

from pet.data import worker
from tests.helpers import start_cli

SCRIPT = textwrap.dedent(
    """
    import os, signal, sys, threading, time
    from pet.data.datasets import ShapesDataset
    from pet.data.loader import TrainLoader
    loader = TrainLoader(ShapesDataset("s", num_images=64, image_size=32), (), 8, num_workers=2)
    if sys.argv[1] == "die":
        for delay in sys.argv[2:]:
            parent = os.fork()
            if not parent:
                threading.Timer(float(delay), lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
                for window in loader:
                    pass
            assert os.waitpid(parent, 0)[1] == signal.SIGKILL
        print("all killed")
        sys.exit()
    windows = iter(loader)
    next(windows)
    # Only now: a child inherits the handlers of its parent, which would protect it by accident.
    seen = []
    signal.signal(signal.SIGTERM, lambda *_: seen.append("TERM"))
    signal.signal(signal.SIGUSR1, lambda *_: seen.append("USR1"))
    print("started", flush=True)
    while len(seen) < 2:
        next(windows)
    for _ in range(50):
        next(windows)
    print("seen", sorted(seen), flush=True)
    if sys.argv[1] == "raise":
        raise ValueError("with a loader still open")
    """
)


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    return path


ENV = {"PYTHONPATH": os.getcwd()}


@pytest.mark.faults
def test_no_worker_survives_its_parent(script):
    # From the first instruction of the loader (workers being started) to full speed.
    delays = [0.001, 0.003, 0.006, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, random.uniform(0.1, 0.4)]
    with start_cli([script, "die", *map(str, delays)], env=ENV) as cli:
        assert "all killed" in cli.wait(60).stdout, cli.stderr()
        assert cli.gone(5), f"workers {cli.living()} live on; their parents were killed {delays} s after the start of the loader"


@pytest.mark.faults
@pytest.mark.parametrize(("mode", "status"), [("finish", 0), ("raise", 1)])
def test_signals_to_the_group_reach_the_main_process_only(script, mode, status):
    with start_cli([script, mode], env=ENV) as cli:
        cli.wait_for("started")
        os.killpg(cli.process.pid, signal.SIGTERM)
        time.sleep(0.2)
        os.killpg(cli.process.pid, signal.SIGUSR1)
        done = cli.wait(30)
        assert "seen ['TERM', 'USR1']" in done.stdout, done.stderr
        assert done.returncode == status, done.stderr
        assert cli.gone(5)


class HangsAtFirst(worker.WorkerProcess):
    """Its first fork hangs, as one does whose parent held a lock."""

    def run(self) -> None:
        note, answers = self._args
        if not note.exists():
            note.touch()
            time.sleep(60)
        super().run()


def test_a_fork_that_hangs_is_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "_ANSWER_S", 0.5)
    answers = multiprocessing.get_context("fork").SimpleQueue()
    process = HangsAtFirst(target=lambda note, answers: answers.put(os.getpid()), args=(tmp_path / "hung", answers))
    process.start()
    try:
        assert answers.get() == process.pid
    finally:
        process.join()
        answers.close()
    assert process.exitcode == 0


def test_forks_that_all_hang_are_an_error_with_a_remedy(monkeypatch):
    monkeypatch.setattr(worker, "_ANSWER_S", 0.1)
    monkeypatch.setattr(worker.WorkerProcess, "run", lambda self: time.sleep(60))
    with pytest.raises(OSError, match="3 loader workers in a row did not start .* DATA.LOADER_THREADS 0"):
        worker.WorkerProcess().start()
