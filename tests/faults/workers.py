"""Loader workers: killed at random moments, and without memory (F26, F29)."""

from __future__ import annotations

import logging
import multiprocessing
import os
import random
import re
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

from pet.data.loader import DeadWorkerError
from pet.data.worker import WorkerProcess
from pet.engine.events import EventStorage
from pet.engine.hooks.base import Hook
from tests.faults.catalog import Figure, fault
from tests.faults.compare import run_differences
from tests.faults.limited import NOT_PERMITTED
from tests.faults.toy import UPDATES, train
from tests.helpers import fork_start, start_cli

# ------------------------------------------------------------------------------------------------------------- F26

_IN_FLIGHT = 5  # batches read in advance by two workers, and the one in use
_PATIENCE_S = 60.0  # without a word from a trial: it hangs
_MESSAGE = r"a loader worker died: process \d+ killed by SIGKILL\. Samples being read \(index in toy\): [\d, ]+.*MiB in /dev/shm"


class KillWorker(Hook):
    """Kills one of the loader's processes at some moment during an update.

    Attributes:
        killed: its id.
        after: updates done when it was killed.
    """

    def __init__(self, draw: random.Random) -> None:
        self._update, self._delay_s, self._draw = draw.randint(1, 6), draw.uniform(0, 0.02), draw
        self.killed = self.after = self._done = 0

    def before_step(self, storage: EventStorage) -> None:
        self._done = storage.iteration - 1
        if storage.iteration == self._update:
            self._timer = threading.Timer(self._delay_s, self._kill)
            self._timer.start()

    def after_train(self, storage: EventStorage) -> None:
        self._timer.join()

    def _kill(self) -> None:
        deadline = time.monotonic() + 20
        while not (workers := sorted(worker.pid or 0 for worker in list(WorkerProcess.started))) and time.monotonic() < deadline:
            time.sleep(0.001)  # they start with the first update
        if workers:
            self.killed = self._draw.choice(workers)
            os.kill(self.killed, signal.SIGKILL)
            self.after = self._done


def _lose_worker(seed: str, restart: bool, folder: Path, reference: Path) -> str:
    """One run that loses a worker; what is not as promised."""
    hook = KillWorker(random.Random(seed))
    try:
        run = train(folder, [hook], DATA__LOADER_THREADS=2, DATA__RESTART_WORKERS=int(restart))
    except DeadWorkerError as error:
        told = re.match(_MESSAGE, str(error), re.DOTALL) is not None
        return "" if told and not restart else f"policy {'on' if restart else 'off'}: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    # A thread may be late: once all batches have arrived, or are on their way from the other worker, nobody needs the dead one.
    unnoticed = hook.after >= UPDATES - _IN_FLIGHT
    if not hook.killed or not (restart or unnoticed):
        return f"the run ended with status {run.status} though worker {hook.killed} was killed"
    return ", ".join(run_differences(reference, folder, tensorboard=False))


def _lose_workers(pipe: Connection, trials: Sequence[tuple[str, bool, Path]], reference: Path) -> None:
    logging.disable()
    for trial in trials:
        pipe.send(_lose_worker(*trial, reference))


def _answers(trials: Sequence[tuple[str, bool, Path]], reference: Path) -> Iterator[str]:
    """Run trials in one process after the other; one that hangs is ended and does not keep the rest from running."""
    left = list(trials)
    while left:
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("fork").Process(target=_lose_workers, args=(theirs, left, reference))
        process.start()
        theirs.close()
        try:
            while left and ours.poll(_PATIENCE_S):
                yield ours.recv()
                left.pop(0)
        except EOFError:
            left.pop(0)
            yield f"the process ended with {process.exitcode}"
        else:
            if left:
                left.pop(0)
                yield "hangs"
        finally:
            if left:
                process.kill()
            process.join()


@fault("F26", "kill -9 of a loader worker: an error with the samples in flight, or the workers start anew and the end is equal",
       small=4, full=50)  # fmt: skip
def killed_workers(count: int, seed: int, folder: Path) -> Figure:
    train(folder / "reference")
    trials = [(f"{seed}-{number}", number % 2 == 0, folder / f"{number}") for number in range(count)]
    lanes = [trials[lane::8] for lane in range(min(8, count))]
    with ThreadPoolExecutor(len(lanes)) as pool:  # a death is noticed within five seconds, which are spent waiting
        answers = list(pool.map(lambda lane: list(_answers(lane, folder / "reference")), lanes))
    figure = Figure(0, count, "as promised")
    for lane, texts in zip(lanes, answers, strict=True):
        for (name, restart, _), text in zip(lane, texts, strict=True):
            figure.good += not text
            figure.failures += [f"trial {name}, restart {'on' if restart else 'off'}: {text}"] if text else []
    hangs = sum("hangs" in text for text in figure.failures)
    figure.extra = f"{(count + 1) // 2} restarted and bitwise equal, {count // 2} told with the samples, {hangs} hangs"
    return figure


# ------------------------------------------------------------------------------------------------------------- F29

_YAML = """
MISC: {DEVICE: cpu, SEED: 3}
ANALYSER: {ENABLED: False}
VIS: {ENABLED: False}
EVAL: {ENABLED: False}
DATA:
  LOADER_THREADS: 2
  CATALOG:
    large: {TYPE: shapes_dataset, NUM_IMAGES: 96, IMAGE_SIZE: 512}
TRAIN: {DATASETS: [large], BATCH_SIZE: 48, TRANSFORMS: [random_horizontal_flip]}
SOLVER: {SCHEDULER: {TOTAL_EPOCHS: 1}}
MODEL:
  BACKBONE: tests.faults.small_net.SmallNet
  GLOBAL_HEAD: {CLS: {NUM_CLASSES: 10}}
"""
_REMEDIES = ("DATA.LOADER_THREADS", "SOLVER.ACCUMULATE")


def _run_short_of_memory(kind: str, mib: int, folder: Path) -> str:
    """One run of the real script; what is not as promised."""
    cfg = folder / "cfgs" / "tasks" / "cls" / "large.yaml"
    cfg.parent.mkdir(parents=True)
    cfg.write_text(_YAML, encoding="utf-8")
    words = [
        "tests/faults/limited.py",
        kind,
        str(mib),
        "tools/tasks/cls/train_net.py",
        "--cfg",
        cfg,
        "--work-dir",
        folder / "run",
    ]
    with start_cli(words, start=fork_start) as cli:
        try:
            done = cli.wait(timeout=90)
        except TimeoutError as error:
            return f"hangs: {error}"
        left = not cli.gone(5.0)
    text = done.stdout + done.stderr
    if done.returncode == NOT_PERMITTED:
        return f"cannot be tried here: {text.strip()}"
    if done.returncode in (0, 2) or left:
        return f"status {done.returncode}, processes left: {left}\n{text[-2000:]}"
    return "" if any(remedy in text for remedy in _REMEDIES) else f"status {done.returncode} without a remedy\n{text[-3000:]}"


@fault(
    "F29",
    "16 MiB of shared memory, or an address-space limit: a message with the remedy, status not 0, no hang",
    small=2,
    full=10,
)
def short_of_memory(count: int, seed: int, folder: Path) -> Figure:
    draw = random.Random(seed)
    trials = [("shared", 16) if number % 2 == 0 else ("address", draw.randrange(40, 160, 10)) for number in range(count)]
    figure = Figure(0, count, "told and ended")
    with ThreadPoolExecutor(2) as pool:
        answers = pool.map(lambda pair: _run_short_of_memory(*pair[1], folder / f"{pair[0]}"), enumerate(trials))
        for (kind, mib), text in zip(trials, answers, strict=True):
            figure.good += not text
            figure.failures += [f"seed {seed}, {kind} {mib} MiB: {text}"] if text else []
    figure.extra = f"{sum('hangs' in text for text in figure.failures)} hangs"
    return figure
