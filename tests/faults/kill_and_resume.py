"""Kill a run at random moments, resume it until it is finished, and compare it bitwise with one that was left alone.

python tests/faults/kill_and_resume.py --runs 25
python tests/faults/kill_and_resume.py --runs 10 --nproc 2 [--domain vision]

One process: the whole group or only the main process is killed. Two: the group, one rank, or the launcher. Prints every
kill with its moment, so that a failure can be repeated with ``--seed``; the exit status is 0 if all runs are equal.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from tests.faults.compare import run_differences  # noqa: E402
from tests.faults.experiment import PER_EPOCH, write_experiment  # noqa: E402
from tests.helpers import Cli, start_cli  # noqa: E402

TRAINING_BEGINS = "after_train "  # the last line of the table of hooks
LIMIT_S = 300.0
GONE_S = 10.0


@dataclass
class Kill:
    """One kill: who, when, and what the run was doing."""

    victim: str
    delay_s: float
    at_start: bool
    update: int = 0
    phase: str = ""
    stop_s: float = 0.0
    orphans: int = 0

    def __str__(self) -> str:
        return (
            f"{self.victim} {'start' if self.at_start else 'training'}+{self.delay_s:.2f}s at update {self.update} ({self.phase})"
        )


@dataclass
class Outcome:
    """One run: its kills and what differs in the end (nothing, if all is well)."""

    workers: list[int] = field(default_factory=list)
    kills: list[Kill] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)


def command(cfg: Path, folder: Path, nproc: int, workers: int) -> list[str]:
    """The launcher as a user types it."""
    return [
        "tools/train_net_all.py",
        "--cfg",
        str(cfg),
        "--gpu_id",
        "cpu",
        "--nproc",
        str(nproc),
        "--work-dir",
        str(folder),
        "DATA.LOADER_THREADS",
        str(workers),
    ]


def reference(cfg: Path, folder: Path, nproc: int) -> float:
    """An uninterrupted run; returns the seconds its training took."""
    with start_cli(command(cfg, folder, nproc, workers=0)) as cli:
        done = cli.wait(LIMIT_S)
    if done.returncode != 0:
        raise RuntimeError(f"the uninterrupted run failed with status {done.returncode}\n{done.stdout}\n{done.stderr}")
    seconds = re.search(r"Finished update \d+ in ([\d.]+) s", done.stdout)
    assert seconds is not None, "the log does not say how long the training took"
    return float(seconds[1])


def plan_kills(rng: random.Random, count: int, nproc: int, training_s: float) -> list[Kill]:
    """Random kills: one in ten during the start, the others during what is left of the training."""
    victims = ("group", "process") if nproc == 1 else ("group", "rank", "launcher")
    kills = []
    for place in range(count):
        at_start = rng.random() < 0.1
        longest = 5.0 if at_start else 0.9 * training_s / (count - place)
        kills.append(Kill(rng.choice(victims), rng.uniform(0.0, longest), at_start))
        if not at_start:
            training_s -= kills[-1].delay_s
    return kills


def run_and_kill(cfg: Path, folder: Path, nproc: int, workers: int, kill: Kill, rng: random.Random) -> bool:
    """Start or resume the run and kill it; ``False`` if it was finished before the moment came."""
    with start_cli(command(cfg, folder, nproc, workers)) as cli:
        deadline = time.monotonic() + LIMIT_S
        while not kill.at_start and TRAINING_BEGINS not in cli.stdout() and cli.process.poll() is None:
            assert time.monotonic() < deadline, f"the training did not begin\n{cli.stdout()}\n{cli.stderr()}"
            time.sleep(0.01)
        time.sleep(kill.delay_s)
        if cli.process.poll() is not None:
            assert cli.process.returncode == 0, f"status {cli.process.returncode} before the kill\n{cli.stdout()}\n{cli.stderr()}"
            return False
        strike(cli, kill.victim, rng)
        struck = time.monotonic()
        cli.wait(LIMIT_S)
        cli.gone(GONE_S)
        kill.stop_s, kill.orphans = time.monotonic() - struck, len(cli.living())
        kill.update, kill.phase = observe(folder)
    return True


def strike(cli: Cli, victim: str, rng: random.Random) -> None:
    """SIGKILL for the victim."""
    if victim == "group":
        for pid in cli.living():
            os.kill(pid, signal.SIGKILL)
        return
    ranks = ranks_of(cli.process.pid)
    os.kill(rng.choice(ranks) if victim == "rank" and ranks else cli.process.pid, signal.SIGKILL)


def ranks_of(launcher: int) -> list[int]:
    """The processes that a launcher started."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children")
    return [int(pid) for pid in children.read_text().split()] if children.exists() else []


def observe(folder: Path) -> tuple[int, str]:
    """The last update that is on disk, and what the run was doing when it was killed."""
    numbers = [int(path.stem.removeprefix("model_iter")) for path in folder.glob("model_iter*.pth")]
    newest = max(numbers, default=0)
    if any(".tmp-pet-" in path.name for path in folder.glob("*")):
        return newest, "saving"
    metrics = folder / "metrics.json"
    lines = metrics.read_text().splitlines() if metrics.exists() else []
    evaluated = [row["iteration"] for row in map(whole, lines) if "eval" in row]
    if newest and newest % PER_EPOCH == 0 and newest not in evaluated:
        return newest, "evaluating"
    return newest, "training" if newest else "before the first checkpoint"


def whole(line: str) -> dict[str, int]:
    """A row, or nothing if the kill cut it."""
    try:
        return dict(json.loads(line))
    except ValueError:
        return {}


def one_run(cfg: Path, folder: Path, expected: Path, nproc: int, kills: list[Kill], rng: random.Random) -> Outcome:
    """Kill as planned, resume until finished, compare."""
    outcome = Outcome()
    for kill in kills:
        outcome.workers.append(rng.choice((0, 1, 2)))
        if not run_and_kill(cfg, folder, nproc, outcome.workers[-1], kill, rng):
            break
        outcome.kills.append(kill)
    outcome.workers.append(rng.choice((0, 1, 2)))
    with start_cli(command(cfg, folder, nproc, outcome.workers[-1])) as cli:
        done = cli.wait(LIMIT_S)
    if done.returncode != 0:
        outcome.differences = [f"the resumed run ended with status {done.returncode}: {done.stdout[-3000:]}{done.stderr[-3000:]}"]
        return outcome
    outcome.differences = run_differences(expected, folder)
    outcome.differences += [f"left behind: {path.name}" for path in folder.glob("*.tmp-pet-*")]
    outcome.differences += [f"{kill.orphans} processes outlived the kill of {kill}" for kill in outcome.kills if kill.orphans]
    outcome.differences += [
        f"{kill.stop_s:.1f} s until all had ended after {kill}" for kill in outcome.kills if kill.stop_s > GONE_S
    ]
    return outcome


def campaign(
    runs: int,
    nproc: int = 1,
    seed: int = 0,
    kills: tuple[int, int] = (1, 3),
    base: Path | None = None,
    domain: str = "tasks/cls",
) -> list[Outcome]:
    """All runs, with a line for each; the reference is made by the same build."""
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="pet_faults_", dir=base) as place:
        cfg = write_experiment(Path(place), domain)
        training_s = reference(cfg, Path(place, "reference"), nproc)
        print(f"reference of {domain} on {nproc} processes: {training_s:.1f} s", flush=True)
        for number in range(runs):
            rng = random.Random(f"{seed} {nproc} {number}")
            folder = Path(place, f"run{number}")
            plan = plan_kills(rng, rng.randint(*kills), nproc, training_s)
            outcomes.append(one_run(cfg, folder, Path(place, "reference"), nproc, plan, rng))
            shutil.rmtree(folder)
            report(number, outcomes[-1])
    return outcomes


def report(number: int, outcome: Outcome) -> None:
    """One line, and the differences if there are any."""
    state = "equal" if not outcome.differences else "DIFFERENT"
    killed = "; ".join(map(str, outcome.kills)) or "finished before its kill"
    print(f"run {number}: {state}; workers {outcome.workers}; killed: {killed}", flush=True)
    for difference in outcome.differences[:20]:
        print(f"    {difference}", flush=True)


def summary(outcomes: list[Outcome]) -> str:
    """``25/25 equal`` and what the kills hit."""
    kills = [kill for outcome in outcomes for kill in outcome.kills]
    equal = sum(not outcome.differences for outcome in outcomes)
    phases = {phase: sum(kill.phase == phase for kill in kills) for phase in sorted({kill.phase for kill in kills})}
    slowest = (
        f", gone after {statistics.median(k.stop_s for k in kills):.1f} s (median), {max(k.stop_s for k in kills):.1f} s (slowest)"
        if kills
        else ""
    )
    return f"{equal}/{len(outcomes)} equal; {len(kills)} kills ({phases}), {sum(kill.orphans for kill in kills)} orphans{slowest}"


def main() -> int:
    """Parse, run, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=25, help="runs to kill")
    parser.add_argument("--nproc", type=int, default=1, help="processes of a run")
    parser.add_argument("--seed", type=int, default=0, help="of the moments, the victims and the workers")
    parser.add_argument("--domain", default="tasks/cls", choices=("tasks/cls", "vision"), help="what is trained")
    parser.add_argument("--kills", default="1-3", help="kills of a run, e.g. 2 or 1-3")
    args = parser.parse_args()
    low, _, high = args.kills.partition("-")
    print(f"seed {args.seed}, {args.runs} runs, {args.nproc} processes, {args.kills} kills each", flush=True)
    outcomes = campaign(args.runs, args.nproc, args.seed, (int(low), int(high or low)), domain=args.domain)
    print(summary(outcomes), flush=True)
    return int(any(outcome.differences for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
