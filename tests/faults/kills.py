"""F01, F02, F08, F25: processes killed with SIGKILL at random moments, resumed, and compared with a run left alone."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import statistics
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.catalog import Figure, fault
from tests.faults.compare import rows, run_differences, same_rows, tensorboard_rows
from tests.faults.experiment import LIMIT_S, PER_EPOCH, command, ranks_of, reference, without_launcher, write_experiment
from tests.helpers import Cli, Start, cold_start, fork_start, run_cli, run_script_ranks, start_cli

TRAINING_BEGINS = "after_train "  # the last line of the table of hooks
STARTING_S = 6.0  # how long a cold start takes until then, about
GONE_S = 10.0
DOMAINS = ("tasks/cls", "vision")


@dataclass
class Kill:
    """One kill: who, when, and what the run was doing."""

    victim: str
    delay_s: float
    at_start: bool
    update: int = 0
    phase: str = ""
    stop_s: float = 0.0
    left: list[int] = field(default_factory=list)

    def __str__(self) -> str:
        moment = "start" if self.at_start else "training"
        return f"{self.victim} {moment}+{self.delay_s:.2f}s at update {self.update} ({self.phase})"


@dataclass(frozen=True)
class Expected:
    """An uninterrupted run: its config, its folder, the script that the launcher starts, and the seconds its training took."""

    cfg: Path
    folder: Path
    script: str
    training_s: float


@dataclass
class Run:
    """A run that is killed and resumed until it is finished.

    Attributes:
        expected: what it must be equal to in the end.
        folder, nproc, options: of the command.
        start: how its processes are started.
        kills: those that hit it.
        workers: loader workers of each start.
    """

    expected: Expected
    folder: Path
    nproc: int
    start: Start = cold_start
    options: Sequence[str] = ()
    kills: list[Kill] = field(default_factory=list)
    workers: list[int] = field(default_factory=list)

    def command(self, rng: random.Random) -> list[str]:
        """The command of the next start, with another number of workers."""
        self.workers.append(rng.choice((0, 1, 2)))
        return command(self.expected.cfg, self.folder, self.nproc, self.workers[-1], *self.options)

    def killed(self, kill: Kill, rng: random.Random) -> bool:
        """Start or resume the run and kill it; ``False`` if it was finished before the moment came."""
        with start_cli(self.command(rng), start=self.start) as cli:
            if not reached(cli, kill):
                return False
            strike(cli, kill.victim, rng)
            struck = time.monotonic()
            cli.wait(LIMIT_S)
            cli.gone(GONE_S)
            kill.stop_s, kill.left = time.monotonic() - struck, cli.living()
            kill.update, kill.phase = observe(self.folder)
        self.kills.append(kill)
        return True

    def until_the_end(self, plan: Sequence[Kill], rng: random.Random) -> list[str]:
        """Kill as planned, then resume to the end; why that failed, or nothing."""
        try:
            all(self.killed(kill, rng) for kill in plan)
            return self._finish(rng)
        except (TimeoutError, RuntimeError) as error:
            return [str(error)[-3000:]]

    def _finish(self, rng: random.Random) -> list[str]:
        words = self.command(rng)
        if self.nproc == 1 or self.start is cold_start:
            ended = [run_cli(words, timeout=LIMIT_S, start=self.start)]
        else:  # the launcher would start new interpreters
            ended = run_script_ranks(self.nproc, [self.expected.script, *without_launcher(words)], timeout=LIMIT_S)
        return [
            f"the resumed run ended with status {done.returncode}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
            for done in ended
            if done.returncode != 0
        ]

    def differences(self) -> list[str]:
        """What is not as promised after the end."""
        found = run_differences(self.expected.folder, self.folder)
        found += [f"left behind: {path.name}" for path in self.folder.glob("*.tmp-pet-*")]
        for kill in self.kills:
            if kill.left:
                found.append(f"{len(kill.left)} processes outlived the kill of {kill}")
            elif kill.stop_s > GONE_S:
                found.append(f"{kill.stop_s:.1f} s until all had ended after {kill}")
        return found

    def __str__(self) -> str:
        return f"workers {self.workers}; killed: {'; '.join(map(str, self.kills)) or 'finished before its kill'}"


# ------------------------------------------------------------------------------------------------------------- a kill


def plan_kills(rng: random.Random, count: int, victims: Sequence[str], training_s: float) -> list[Kill]:
    """Random kills: one in ten during the start, the others during what is left of the training."""
    kills = []
    for place in range(count):
        at_start = rng.random() < 0.1
        longest = STARTING_S if at_start else 0.9 * training_s / (count - place)
        kills.append(Kill(rng.choice(victims), rng.uniform(0.0, longest), at_start))
        if not at_start:
            training_s -= kills[-1].delay_s
    return kills


def reached(cli: Cli, kill: Kill) -> bool:
    """Wait for the moment of a kill; ``False`` if the run was finished before."""
    deadline = time.monotonic() + LIMIT_S
    while not kill.at_start and TRAINING_BEGINS not in cli.stdout() and cli.process.poll() is None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"the training did not begin\n{cli.stdout()}\n{cli.stderr()}")
        time.sleep(0.01)
    time.sleep(kill.delay_s)
    status = cli.process.poll()
    if status:
        raise RuntimeError(f"status {status} before the kill\n{cli.stdout()}\n{cli.stderr()}")
    return status is None


def strike(cli: Cli, victim: str, rng: random.Random) -> None:
    """SIGKILL for the victim: everything (``group``), a random ``rank``, or the process that was started."""
    ranks = ranks_of(cli.process.pid)
    chosen = [rng.choice(ranks)] if victim == "rank" and ranks else [cli.process.pid]
    for pid in cli.living() if victim == "group" else chosen:
        with suppress(ProcessLookupError):  # it died with its parent
            os.kill(pid, signal.SIGKILL)


def observe(folder: Path) -> tuple[int, str]:
    """The last update that is on disk, and what the run was doing when it was killed."""
    numbers = [int(path.stem.removeprefix("model_iter")) for path in folder.glob("model_iter*.pth")]
    newest = max(numbers, default=0)
    if any(".tmp-pet-" in path.name for path in folder.glob("*")):
        return newest, "saving"
    metrics = folder / "metrics.json"
    lines = metrics.read_text().splitlines() if metrics.exists() else []
    evaluated = [row["iteration"] for row in map(_whole, lines) if "eval" in row]
    if newest and newest % PER_EPOCH == 0 and newest not in evaluated:
        return newest, "evaluating"
    return newest, "training" if newest else "before the first checkpoint"


def _whole(line: str) -> dict[str, int]:
    """A row, or nothing if the kill cut it."""
    try:
        return dict(json.loads(line))
    except ValueError:
        return {}


# --------------------------------------------------------------------------------------------------------- campaigns


def _references(folder: Path, domains: Sequence[str], nproc: int) -> dict[str, Expected]:
    found = {}
    for domain in domains:
        place = folder / domain.replace("/", "_")
        cfg, run = write_experiment(place, domain), place / "reference"
        start = cold_start if domain == DOMAINS[0] else fork_start
        found[domain] = Expected(cfg, run, f"tools/{domain}/train_net.py", reference(cfg, run, nproc, start=start))
    return found


def _resume_until_equal(
    name: str, count: int, seed: int, folder: Path, nproc: int, victims: Sequence[str], most: int
) -> Figure:
    """Kill every run 1 to ``most`` times, finish it and compare.

    In ten runs one is started with the command of a user (new interpreters), the others from a process that has made the
    imports; one is a detector with every augmentation, the others are classifiers.
    """
    domains = DOMAINS[: 2 if count > 2 else 1]
    references, figure, kills = _references(folder, domains, nproc), Figure(0, count, "equal"), list[Kill]()
    for number in range(count):
        rng = random.Random(f"{name} {seed} {number}")
        expected = references["vision" if number % 10 == 2 else "tasks/cls"]
        start = cold_start if number % 10 == 0 else fork_start
        run = Run(expected, folder / f"run{number}", nproc, start)
        plan = plan_kills(rng, rng.randint(1, most), victims, expected.training_s)
        found = run.until_the_end(plan, rng) or run.differences()
        figure.judge(found, f"run {number} of seed {seed}, {run}")
        kills += run.kills
        shutil.rmtree(run.folder, ignore_errors=True)
    phases = {phase: sum(kill.phase == phase for kill in kills) for phase in sorted({kill.phase for kill in kills})}
    hits = ", ".join(f"{hit} {phase}" for phase, hit in phases.items())
    figure.extra = f"{len(kills)} kills ({hits}), all processes gone after {_percentile([k.stop_s for k in kills])}"
    return figure


def _percentile(seconds: Sequence[float]) -> str:
    if len(seconds) < 2:
        return f"{max(seconds, default=0.0):.1f} s"
    return f"{statistics.quantiles(seconds, n=20, method='inclusive')[-1]:.1f} s (p95), {max(seconds):.1f} s (slowest)"


@fault("F01", "one process is killed at random moments: continued, the run ends bitwise equal", small=3, full=50)
def kill_one_process(count: int, seed: int, folder: Path) -> Figure:
    """Everything or only the main process is killed, one to three times a run."""
    return _resume_until_equal("F01", count, seed, folder, 1, ("group", "process"), most=3)


@fault("F02", "a rank, the launcher or both are killed: all end, the continued run is equal", small=1, full=25, several=True)
def kill_one_of_two_ranks(count: int, seed: int, folder: Path) -> Figure:
    """A rank in most runs."""
    return _resume_until_equal("F02", count, seed, folder, 2, ("rank", "rank", "launcher", "group"), most=1)


@fault("F08", "a kill leaves no row of the metrics twice, missing or half", small=2, full=20)
def kill_the_writers(count: int, seed: int, folder: Path) -> Figure:
    """One process with a row for every update in ``metrics.json`` and TensorBoard, killed while it trains."""
    options = ("MISC.DISPLAY_ITER", "1", "EVAL.PERIOD_EPOCHS", "4")
    cfg, whole = write_experiment(folder), folder / "reference"
    figure, half, twice, missing = Figure(0, count, "complete"), 0, 0, 0
    expected = Expected(cfg, whole, "", reference(cfg, whole, 1, *options, start=fork_start))
    wanted = {(row["iteration"], "eval" in row) for row in rows(whole)}
    for number in range(count):
        rng = random.Random(f"F08 {seed} {number}")
        run = Run(expected, folder / f"run{number}", 1, fork_start, options)
        found = run.until_the_end([Kill("process", rng.uniform(0.0, 0.9 * expected.training_s), at_start=False)], rng)
        if not found:
            lines = (run.folder / "metrics.json").read_text(encoding="utf-8").splitlines()
            written = [(row["iteration"], "eval" in row) for row in map(_whole, lines) if row]
            half += len(lines) - len(written)
            twice += len(written) - len(set(written))
            missing += len(wanted - set(written))
            found = _unlike(run.folder, whole)
        figure.judge(found, f"kill {number} of seed {seed}, {run}")
        shutil.rmtree(run.folder, ignore_errors=True)
    figure.extra = f"{twice} duplicate, {missing} missing, {half} half of {count * len(wanted)} rows"
    return figure


def _unlike(folder: Path, whole: Path) -> list[str]:
    """What of the rows and curves is not that of the uninterrupted run."""
    try:
        found = ["rows of metrics.json"] if rows(folder) != rows(whole) else []
    except (AssertionError, ValueError) as error:
        return [f"metrics.json: {error}"]
    curves, drawn = tensorboard_rows(whole), tensorboard_rows(folder)
    names = sorted(curves.keys() | drawn.keys())
    return found + [f"curve {name}" for name in names if not same_rows(curves.get(name, []), drawn.get(name, []))]


@fault("F25", "no process outlives a kill, not even one in the start-up of the workers", small=3, full=50, several=True)
def count_orphans(count: int, seed: int, folder: Path) -> Figure:
    """Cold starts, killed in turn: the launcher or a rank while they start or train, a process that starts its workers."""
    cfg, figure, orphans = write_experiment(folder), Figure(0, count, "without orphans"), 0
    for number in range(count):
        rng, run = random.Random(f"F25 {seed} {number}"), folder / f"run{number}"
        if number % 3 == 2:  # the workers of the loader are started right after the table of hooks
            nproc, victim = rng.choice(((1, "process"), (2, "launcher"), (2, "rank")))
            kill = Kill(victim, rng.uniform(0.0, 0.3), at_start=False)
        else:
            nproc, kill = 2, Kill(("launcher", "rank")[number % 3], rng.uniform(0.0, 1.5 * STARTING_S), at_start=True)
        left = _left_after(command(cfg, run, nproc, 2, "SOLVER.SCHEDULER.TOTAL_EPOCHS=100"), kill, rng)
        orphans += len(left)
        found = [f"{len(left)} processes live {GONE_S:g} s after the kill"] if left else []
        figure.judge(found, f"kill {number} of seed {seed}, {nproc} ranks, {kill}")
        shutil.rmtree(run, ignore_errors=True)
    figure.extra = f"{orphans} orphans"
    return figure


def _left_after(words: list[str], kill: Kill, rng: random.Random) -> list[int]:
    """Processes that still live some seconds after a kill."""
    with start_cli(words) as cli:
        assert reached(cli, kill), "a run of a hundred epochs has ended by itself"
        strike(cli, kill.victim, rng)
        cli.gone(GONE_S)
        return cli.living()
