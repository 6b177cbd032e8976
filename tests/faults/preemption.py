"""F09 to F12: a scheduler that wants its machine back. The run saves, stops, is requeued, and continues bitwise equal."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pet.engine import checkpoint_file
from pet.engine.checkpointer import CheckPointer
from pet.engine.events import EventStorage
from pet.engine.hooks.base import Hook
from pet.engine.interruption import NOT_BEGUN, REPEAT_S
from tests.faults.catalog import Figure, fault
from tests.faults.compare import run_differences
from tests.faults.experiment import LIMIT_S, command, write_experiment
from tests.faults.files import exit_code, fork, in_child
from tests.faults.toy import PER_EPOCH, UPDATES, TermAt, train
from tests.helpers import Cli, fork_start, run_ranks, run_script_ranks, start_cli

TERM_STATUS, INT_STATUS, WARNING_STATUS = (128 + number for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1))
TRAINING_BEGINS = "after_train "  # the last line of the table of hooks
STARTING_S = 8.0  # how long a start takes until then, about
STOPS_OF_A_RUN = 5
HOOKS = 'MISC.HOOKS=[{"TYPE": "tests.faults.hooks.LastUpdate"}]'
SAVED = [update for update in range(UPDATES) if update % 3 == 0 or update % PER_EPOCH == 0]  # when the toy writes a checkpoint

# Stands for Slurm's command: notes who asked what, and whether the checkpoint was complete at that moment.
SCONTROL = """#!/bin/sh
cd "$RUN" && sha256sum --check --status "$(readlink model_latest.pth).sha256" && durable=durable
echo "rank $RANK: $* ${durable:-TOO EARLY}" >> "$CALLS"
"""


# ------------------------------------------------------------------------------------------------------- F09 and F10


@dataclass
class Stops:
    """Runs on two processes that are stopped again and again, each until it is finished.

    Attributes:
        cfg, folder: of the experiment, and for the runs.
        workers: loader workers of each rank.
        send: sends SIGTERM.
        seconds: from each signal until everything had ended.
    """

    cfg: Path
    folder: Path
    workers: int
    send: Callable[[Cli], None]
    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    at_start: int = 0

    def stop(self, run: Path, delay_s: float, at_start: bool) -> bool:
        """Start or resume ``run`` and stop it; ``False`` if it was finished before."""
        with start_cli(command(self.cfg, run, 2, self.workers, HOOKS), start=fork_start) as cli:
            deadline = time.monotonic() + LIMIT_S
            while not at_start and TRAINING_BEGINS not in cli.stdout() and cli.process.poll() is None:
                assert time.monotonic() < deadline, f"the training did not begin\n{cli.stdout()}\n{cli.stderr()}"
                time.sleep(0.01)
            time.sleep(delay_s)
            if cli.process.poll() is not None:
                return False
            self.send(cli)
            sent = time.monotonic()
            status = cli.process.wait(LIMIT_S)
            gone = cli.gone()
            self.seconds.append(time.monotonic() - sent)
            moment = f"{run.name}, {'start' if at_start else 'training'}+{delay_s:.2f} s"
            problem = "processes are left" if not gone else self._wrong(run, status, cli)
        self.failures += [f"{moment}: {problem}"] if problem else []
        return True

    def _wrong(self, run: Path, status: int, cli: Cli) -> str:
        """What is not as promised after a stop."""
        output = cli.stdout() + cli.stderr()
        lines = [path.read_text().splitlines() if path.exists() else [] for path in (run / "rank0.txt", run / "rank1.txt")]
        if status == 0:  # the signal came when the last update was done
            return ""
        if status != TERM_STATUS or "Traceback" in output or "loader worker" in output:
            return f"status {status}\n{output[-3000:]}"
        if lines[0] != lines[1]:
            return f"rank 0 stopped at {lines[0]}, rank 1 at {lines[1]}"
        if "Saved update " not in output:
            self.at_start += 1
            return "" if NOT_BEGUN in output or TRAINING_BEGINS not in output else f"neither saved nor before the run\n{output[-3000:]}"
        saved = output.rpartition("Saved update ")[2].partition(".")[0]
        newest = (run / "model_latest.pth").resolve().name
        return "" if lines[0][-1] == f"{saved} {TERM_STATUS}" and newest == f"model_iter{saved}.pth" else f"{newest} after {lines[0]}"


def _finish(cfg: Path, run: Path) -> float:
    """Run or resume to the end; the seconds of its training."""
    ended = run_script_ranks(2, ["tools/tasks/cls/train_net.py", "--cfg", cfg, "--work-dir", run], timeout=LIMIT_S)
    seconds = re.search(r"Finished update \d+ in ([\d.]+) s", ended[0].stdout)
    failed = any(rank.returncode for rank in ended) or not (seconds or "This run is finished" in ended[0].stdout)
    assert not failed, "\n".join(rank.stdout + rank.stderr for rank in ended)
    return float(seconds[1]) if seconds else 0.0


def _stop_again_and_again(stops: Stops, count: int, rng: random.Random) -> Figure:
    """``count`` stops, several for each run; every run is finished and compared with one that was left alone."""
    expected = stops.folder / "expected"
    training_s = _finish(stops.cfg, expected)
    made = runs = equal = 0
    while made < count:
        run, runs, finished = stops.folder / f"run{runs}", runs + 1, False
        for _ in range(min(STOPS_OF_A_RUN, count - made)):
            at_start = rng.random() < 0.1
            longest = STARTING_S if at_start else training_s / STOPS_OF_A_RUN
            finished = not stops.stop(run, rng.uniform(0.0, longest), at_start)
            if finished:
                break
            made += 1
        _finish(stops.cfg, run)
        differences = run_differences(expected, run)
        stops.failures += [f"{run.name}: {text}" for text in differences[:5]]
        equal += not differences
        shutil.rmtree(run)
    slowest = statistics.quantiles(stops.seconds, n=20)[-1] if len(stops.seconds) > 1 else stops.seconds[0]
    extra = f"{equal}/{runs} runs equal, p95 {slowest:.1f} s, {stops.at_start} before the run had begun"
    return Figure(made - min(made, len(stops.failures)), made, "saved by both ranks at one update", stops.failures, extra)


@fault("F09", "SIGTERM to the launcher: both ranks save and stop at the same update, status 143", small=1, full=20, several=True)
def signal_to_the_launcher(count: int, seed: int, folder: Path) -> Figure:
    """SIGTERM at random moments, one in ten during the start."""
    stops = Stops(write_experiment(folder), folder, 0, lambda cli: os.kill(cli.process.pid, signal.SIGTERM))
    return _stop_again_and_again(stops, count, random.Random(f"F09 {seed}"))


@fault("F10", "SIGTERM to every process of a job, loader workers included: saved, no worker error", small=1, full=20, several=True)
def signal_to_everything(count: int, seed: int, folder: Path) -> Figure:
    """As a scheduler does: launcher, ranks and two workers each at once; the launcher passes its own signal on besides."""

    def send(cli: Cli) -> None:
        for pid in cli.living():
            try:
                os.kill(pid, signal.SIGTERM)
            except ProcessLookupError:
                continue  # its parent was faster

    return _stop_again_and_again(Stops(write_experiment(folder), folder, 2, send), count, random.Random(f"F10 {seed}"))


# --------------------------------------------------------------------------------------------------------------- F11


def _warned_ranks(rank: int, folder: Path, plan: list[tuple[int, int, int | None]]) -> list[tuple[int, int]]:
    """One rank: each run is stopped by SIGTERM, continued, and stopped by the warning; status and last update of each stop."""
    os.environ["PATH"] = f"{folder}:{os.environ['PATH']}"
    ended = []
    for trial, (first, second, warned) in enumerate(plan):
        run = folder / f"run{trial}"
        os.environ.update(SLURM_JOB_ID=str(1000 + trial), RUN=str(run), CALLS=str(folder / f"calls{trial}"))
        for hook in (TermAt(first), TermAt(second, warned, signal.SIGUSR1)):
            part = train(run, [hook], MISC__STOP_CHECK_ITER=1)
            assert part.storage is not None
            ended.append((part.status, part.storage.last_update))
    return ended


class Stuck(Hook):
    """Says that it has come to an update, and stays there."""

    def __init__(self, update: int, note: Path) -> None:
        self._update, self._note = update, note

    def after_backward(self, storage: EventStorage) -> None:
        if storage.iteration == self._update:
            self._note.touch()
            time.sleep(LIMIT_S)


def _interrupt_twice(runs: dict[Path, int]) -> dict[Path, str]:
    """Ctrl-C twice for runs that hang in an update, all at once; what is wrong with each, or nothing."""
    children = {run: fork(lambda run=run, update=update: train(run, [Stuck(update, run / "stuck")]))  # type: ignore[misc]
                for run, update in runs.items()}
    deadline = time.monotonic() + LIMIT_S
    while not all((run / "stuck").exists() for run in runs):
        assert time.monotonic() < deadline, "a run did not come to its update"
        time.sleep(0.02)
    found = {}
    for pause_s in (REPEAT_S + 0.2, 0.0):
        for child in children.values():
            os.kill(child, signal.SIGINT)
        time.sleep(pause_s)
    sent = time.monotonic()
    for run, child in children.items():
        code = exit_code(child)
        newest = CheckPointer(run).start_iter - 1
        good = code == INT_STATUS and time.monotonic() - sent < 5.0 and newest in _before(runs[run])
        found[run] = "" if good else f"exit code {code} after {time.monotonic() - sent:.1f} s, newest checkpoint {newest}"
    return found


def _before(update: int) -> list[int]:
    """The checkpoint before an update, and the one before that, in case the newest was being written in the background."""
    return [saved for saved in reversed(SAVED) if saved < update][:2]


@fault("F11", "a warning requeues the job once, by rank 0, when the checkpoint is complete; a second Ctrl-C stops at once", small=2, full=10, several=True)
def warning_and_second_interrupt(count: int, seed: int, folder: Path) -> Figure:
    """The warning reaches both ranks or one of them; a ``scontrol`` that records its calls stands for Slurm's."""
    rng, failures = random.Random(f"F11 {seed}"), []
    scontrol = folder / "scontrol"
    scontrol.write_text(SCONTROL)
    scontrol.chmod(0o755)
    plan = [(rng.randint(1, 5), rng.randint(6, UPDATES - 1), rng.choice((None, 0, 1))) for _ in range(count)]
    ranks = run_ranks(2, _warned_ranks, folder, plan, timeout=LIMIT_S)
    hanging = {folder / f"hanging{trial}": rng.randint(SAVED[2] + 1, UPDATES) for trial in range(count)}
    interrupted = _interrupt_twice(hanging)
    for trial, (first, second, warned) in enumerate(plan):
        calls = folder / f"calls{trial}"
        made = calls.read_text().splitlines() if calls.exists() else []
        expected = [(TERM_STATUS, first), (WARNING_STATUS, second)]
        if made != [f"rank 0: requeue {1000 + trial} durable"]:
            failures.append(f"warning at update {second} to rank {warned}: calls of scontrol: {made}")
        elif any(rank[2 * trial : 2 * trial + 2] != expected for rank in ranks):
            failures.append(f"warning at update {second} to rank {warned}: ended as {[r[2 * trial : 2 * trial + 2] for r in ranks]}")
        elif text := interrupted[folder / f"hanging{trial}"]:
            failures.append(f"Ctrl-C twice in update {hanging[folder / f'hanging{trial}']}: {text}")
    return Figure(count - len(failures), count, "one call", failures, f"{count} second Ctrl-C stopped at once")


# --------------------------------------------------------------------------------------------------------------- F12


class TermThenKill(TermAt):
    """SIGTERM in an update, and SIGKILL after so many bytes of a checkpoint written from then on."""

    def __init__(self, update: int, size: int) -> None:
        super().__init__(update)
        self._left = size

    def after_backward(self, storage: EventStorage) -> None:
        if storage.iteration == self._update:
            write = checkpoint_file._HashingWriter.write
            pytest.MonkeyPatch().setattr(checkpoint_file._HashingWriter, "write", lambda writer, data: self._write(write, writer, data))
        super().after_backward(storage)

    def _write(self, original: Callable[..., int], writer: object, data: object) -> int:
        whole = memoryview(data).cast("B")  # type: ignore[arg-type]
        if len(whole) > self._left:
            original(writer, whole[: self._left])
            os.kill(os.getpid(), signal.SIGKILL)
        self._left -= len(whole)
        return original(writer, whole)


@fault("F12", "SIGTERM, then SIGKILL in the middle of the save: the previous checkpoint is used, the end is bitwise equal", small=4, full=20)
def killed_while_saving_on_request(count: int, seed: int, folder: Path) -> Figure:
    """The grace period was too short for the file; written in the background or not."""
    rng, failures = random.Random(f"F12 {seed}"), []
    expected = train(folder / "expected").folder
    size = (expected / "model_latest.pth").stat().st_size
    for trial in range(count):
        run, update, left, background = folder / f"run{trial}", rng.randint(SAVED[2] + 1, UPDATES - 1), rng.randrange(size), bool(trial % 2)
        code = in_child(lambda: train(run, [TermThenKill(update, left)], SOLVER__SNAPSHOT_ASYNC=background))  # noqa: B023
        newest = CheckPointer(run).start_iter - 1
        if code != -signal.SIGKILL:
            problem = f"the save was not cut (exit code {code})"
        elif newest not in _before(update)[: 1 + background]:
            problem = f"resumed from update {newest}"
        else:
            train(run)
            problem = "; ".join(run_differences(expected, run, tensorboard=False)[:5])
        if problem:
            failures.append(f"SIGTERM in update {update}, SIGKILL after {left} of {size} bytes: {problem}")
        shutil.rmtree(run)
    return Figure(count - len(failures), count, "previous checkpoint used, end equal", failures)
