"""Run campaigns, each in a process of its own."""

from __future__ import annotations

import json
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.faults.catalog import Fault, Figure


@dataclass(frozen=True)
class Trials:
    """A campaign to run: how often it tries, and where it writes."""

    fault: Fault
    count: int
    seed: int
    folder: Path


@dataclass(frozen=True)
class Result:
    """How a campaign ended; what ``--out`` writes."""

    id: str
    promise: str
    figure: Figure
    seconds: float
    seed: int

    @property
    def line(self) -> str:
        """For the console."""
        broken = "" if self.figure.kept else "  NOT KEPT"
        return f"{self.id}  {self.figure}  {self.seconds:.0f} s  {self.promise}{broken}"


def run_all(campaigns: Sequence[Trials], jobs: int) -> Iterator[Result]:
    """Campaigns on one process side by side; those on several, whose promises are about seconds, one after the other."""
    yield from _run([trials for trials in campaigns if not trials.fault.several], jobs)
    yield from _run([trials for trials in campaigns if trials.fault.several], 1)


def _run(campaigns: Sequence[Trials], jobs: int) -> Iterator[Result]:
    """Run campaigns, ``jobs`` at a time, each in a process of its own: they change limits, signals and working folders."""
    context, waiting, running = multiprocessing.get_context("fork"), list(campaigns), dict[int, Any]()
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                trials = waiting.pop(0)
                process = context.Process(target=_campaign, args=(trials,))
                process.start()
                running[process.sentinel] = (process, trials, time.monotonic())
            for sentinel in multiprocessing.connection.wait(list(running)):
                process, trials, begin = running.pop(sentinel)
                process.join()
                fault, seconds = trials.fault, time.monotonic() - begin
                yield Result(fault.id, fault.promise, _figure_of(trials, process.exitcode), seconds, trials.seed)
    finally:
        for process, _, _ in running.values():
            os.kill(process.pid, signal.SIGINT)  # so that it ends what it has started
            process.join(30)


def _campaign(trials: Trials) -> None:
    """Body of the process of a campaign: its output goes to a file, its figure to another."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    trials.folder.mkdir(parents=True)
    sys.stdout.flush()
    output = os.open(trials.folder / "output", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number in (1, 2):
        os.dup2(output, number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
    try:
        (trials.folder / "trials").mkdir()
        figure = trials.fault.run(trials.count, trials.seed, trials.folder / "trials")
    except BaseException:
        figure = Figure(0, trials.count, "trials", [traceback.format_exc()])
    (trials.folder / "figure.json").write_text(json.dumps(asdict(figure)))


def _figure_of(trials: Trials, exitcode: int | None) -> Figure:
    if (trials.folder / "figure.json").exists():
        figure = Figure(**json.loads((trials.folder / "figure.json").read_text()))
    else:
        figure = Figure(0, trials.count, "trials", [f"the campaign died with exit code {exitcode}"])
    output = (trials.folder / "output").read_text(errors="replace") if (trials.folder / "output").exists() else ""
    if figure.failures and output:
        figure.failures.append(f"output of the campaign:\n{output[-3000:]}")
    return figure
