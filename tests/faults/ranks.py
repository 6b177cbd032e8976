"""F21 to F24: several ranks of which one fails, stops, does something else, or cannot get its port."""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from pet.data.loader import EvalLoader
from pet.engine import parallel
from pet.engine.evaluation import run_evaluation
from pet.engine.events import EventStorage
from pet.engine.hooks.base import Hook
from pet.engine.loop import run_loop
from pet.engine.step import TrainStep
from pet.evaluation import ClassificationEvaluator
from pet.utils import comm
from pet.utils.env import process_state
from tests.engine.toys import ToyLoader, forward_train, make_model, make_sgd
from tests.faults.catalog import Figure, fault
from tests.faults.experiment import LIMIT_S, PER_EPOCH, command, ranks_of, write_experiment
from tests.faults.toy import ToyDataset, ToyModel, forward_test, toy_cfg, train
from tests.helpers import Cli, fork_start, free_port, run_ranks, start_cli

GONE_S = 5.0
# Where a rank is broken, and what the heartbeat calls this place.
PARTS = ("model", "data set", "hook", "evaluator")
PHASES = {"model": "data or step", "evaluator": "Evaluate", "save": "Checkpoint"}
PATIENCE_S, MARGIN_S = 8, 3.0
DEFAULT_PORT, PORT_S = 29500, 5.0


def broken(where: str, how: str, rank: int, update: int) -> str:
    """The config word that adds ``tests.faults.hooks.Break`` to a run."""
    hook = {"TYPE": "tests.faults.hooks.Break", "WHERE": where, "HOW": how, "RANK": rank, "UPDATE": update}
    return f"MISC.HOOKS=[{json.dumps(hook)}]"


def update_for(where: str, rng: random.Random) -> int:
    """A random update in which that place is reached."""
    return PER_EPOCH if where == "evaluator" else rng.randint(1, 4) * 3 if where == "save" else rng.randint(2, 12)


@fault("F21", "an exception on one rank: its traceback comes last, all others end within 5 s, the status is 1", small=4, full=20, several=True)
def raise_on_one_rank(count: int, seed: int, folder: Path) -> Figure:
    """In the model, the data set (in a loader worker), a hook and the evaluator, on either rank."""
    cfg, figure, slowest = write_experiment(folder), Figure(0, count, "root cause named"), 0.0
    for number in range(count):
        rng = random.Random(f"F21 {seed} {number}")
        where, rank = PARTS[number % len(PARTS)], rng.randint(0, 1)
        words = command(cfg, folder / f"run{number}", 2, 1, broken(where, "raise", rank, update_for(where, rng)))
        problems, seconds = _raised(words, where, rank)
        figure.judge(problems, f"trial {number} of seed {seed}, {where} of rank {rank}")
        slowest = max(slowest, seconds)
    figure.extra = f"all gone after {slowest:.1f} s (slowest)"
    return figure


def _raised(words: list[str], where: str, rank: int) -> tuple[list[str], float]:
    """One run with an exception: what was not as promised, and the seconds until all had ended."""
    text = f"ArithmeticError: the {where} is broken on purpose"
    with start_cli(words, start=fork_start) as cli:
        try:
            cli.wait_for(text, LIMIT_S)
        except TimeoutError as error:
            return [str(error)[-3000:]], 0.0
        raised = time.monotonic()
        gone = cli.gone(2 * GONE_S)
        seconds, done = time.monotonic() - raised, cli.wait(LIMIT_S)
    last = done.stderr.rstrip().rpartition("-" * 80)[2]
    expected = {
        f"{seconds:.1f} s until all processes had ended": gone and seconds < GONE_S,
        f"status {done.returncode}": done.returncode == 1,
        f"the last block names another rank:\n{last}": f"rank {rank} failed with exit status 1" in last,
        # A note may follow: which sample was being read.
        f"the last lines are others:\n{last}": text in last.splitlines()[-3:],
        f"the place is not in the traceback:\n{last}": 'hooks.py", line' in last,
    }
    return [problem for problem, kept in expected.items() if not kept], seconds


# -------------------------------------------------------------------------------------------------- a stopped rank


@fault("F22", "a rank that stopped is named with its phase, soon after the others gave up waiting", small=2, full=10, several=True)
def stop_one_rank(count: int, seed: int, folder: Path) -> Figure:
    """SIGSTOP in the middle of an update, of an evaluation, of a save; two runs at a time, because they mostly wait."""
    cfg, figure = write_experiment(folder), Figure(0, count, "named")
    with ThreadPoolExecutor(2) as threads:
        trials = [threads.submit(_stopped, number, seed, cfg, folder / f"run{number}") for number in range(count)]
        for number, trial in enumerate(trials):
            where, problems, _ = trial.result()
            figure.judge(problems, f"trial {number} of seed {seed}, {where}")
    figure.extra = f"{max(trial.result()[2] for trial in trials):.1f} s until the message (slowest; timeout {PATIENCE_S} s)"
    return figure


def _stopped(number: int, seed: int, cfg: Path, run: Path) -> tuple[str, list[str], float]:
    """One run with a stopped rank: where, what was not as promised, and the seconds until the message."""
    rng = random.Random(f"F22 {seed} {number}")
    where, rank = list(PHASES)[(number + seed) % len(PHASES)], (number + rng.randint(0, 1)) % 2
    update = update_for(where, rng)
    words = command(cfg, run, 2, 0, f"MISC.DIST_TIMEOUT={PATIENCE_S}", broken(where, "stop", rank, update))
    named = f"rank {rank} does not answer: in {PHASES[where]} of update {update} for "
    with start_cli(words, start=fork_start) as cli:
        stopped = time.monotonic()
        try:
            stopped = _stop_of(cli)
            cli.wait_for("does not answer", PATIENCE_S + 30.0)
        except TimeoutError as error:
            return where, [str(error)[-3000:]], time.monotonic() - stopped
        seconds, done = time.monotonic() - stopped, cli.wait(LIMIT_S)
        expected = {
            f"not named: {done.stderr[-2000:]}": named in done.stderr and "stopped by a signal" in done.stderr,
            f"another rank is blamed: {done.stderr}": f"rank {1 - rank} does not answer" not in done.stderr,
            f"{seconds:.1f} s until the message": seconds < PATIENCE_S + MARGIN_S,
            f"status {done.returncode}": done.returncode == 1,
            "processes are left": cli.gone(),
        }
    return f"{where} of rank {rank}", [problem for problem, kept in expected.items() if not kept], seconds


def _stop_of(cli: Cli) -> float:
    """Wait until a rank has stopped; when that was."""
    deadline = time.monotonic() + LIMIT_S
    while not any(process_state(rank) == "T" for rank in ranks_of(cli.process.pid)):
        if cli.process.poll() is not None or time.monotonic() > deadline:
            raise TimeoutError(f"no rank stopped\n{cli.stdout()}\n{cli.stderr()}")
        time.sleep(0.02)
    return time.monotonic()


# ---------------------------------------------------------------------------------------------------------- ports


@fault("F24", "jobs started at once find free ports; one that the user fixed and another holds is named within 5 s", small=3, full=9, several=True)
def want_the_same_port(count: int, seed: int, folder: Path) -> Figure:
    """The last trial asks for a port that is taken; the others start together while torch's default port is taken."""
    cfg, figure = write_experiment(folder), Figure(0, count, "as promised")
    with ExitStack() as stack:
        _occupy(stack, DEFAULT_PORT)
        words = [command(cfg, folder / f"run{number}", 2, 0, "SOLVER.SCHEDULER.TOTAL_EPOCHS=1") for number in range(count - 1)]
        jobs = [stack.enter_context(start_cli(each, start=fork_start)) for each in words]
        for number, cli in enumerate(jobs):
            done = cli.wait(2 * LIMIT_S)
            trained = done.returncode == 0 and "Finished: 10 updates done" in done.stdout
            figure.judge([] if trained else [f"status {done.returncode}: {done.stderr[-2000:]}"], f"job {number}")
        port, begin = free_port(), time.monotonic()
        _occupy(stack, port)
        cli = stack.enter_context(start_cli([*command(cfg, folder / "fixed", 2, 0), "--master-port", str(port)]))
        done, seconds = cli.wait(LIMIT_S), time.monotonic() - begin
        expected = {
            f"{seconds:.1f} s until the message": seconds < PORT_S,
            f"status {done.returncode}: {done.stderr}": done.returncode == 2 and f"--master-port {port} cannot be used" in done.stderr,
        }
        figure.judge([problem for problem, kept in expected.items() if not kept], "a fixed port")
    figure.extra = f"{count - 1} jobs at once; the taken port named after {seconds:.1f} s"
    return figure


def _occupy(stack: ExitStack, port: int) -> None:
    """Listen at a port of this machine; nothing to do if another program already does."""
    holder = stack.enter_context(socket.socket())
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        holder.bind(("127.0.0.1", port))
    except OSError:
        return
    holder.listen()


# ---------------------------------------------------------------------------------------- F23: ranks that do not do the same

DIST_TIMEOUT_S = 3


class _Apart(Hook):
    """Lets the ranks exchange something else, in update 2, after which nothing but gradients is exchanged."""

    def __init__(self, calls: Sequence[Callable[[], Any]]) -> None:
        self._calls = calls

    def after_step(self, storage: EventStorage) -> None:
        if storage.iteration == 2:
            for call in self._calls:
                call()


def _train_apart(folder: Path, *calls: Callable[[], Any]) -> str:
    train(folder, [_Apart(calls)], MISC__DISPLAY_ITER=50)
    return "the run ended as if nothing had happened"


def _missing_call(rank: int, folder: Path) -> str:
    return _train_apart(folder, *([comm.synchronize] if rank == 0 else []))


def _other_order(rank: int, folder: Path) -> str:
    calls = (lambda: comm.agree_max(3), lambda: comm.all_gather("a value"))
    return _train_apart(folder, *(calls if rank == 0 else calls[::-1]))


def _other_shape(rank: int, folder: Path) -> str:
    # As many bytes on both ranks: nothing below would notice.
    mine = torch.ones(4) if rank == 0 else torch.ones(2, dtype=torch.float64)
    return _train_apart(folder, lambda: comm.average_tensors([mine]))


def _uneven_batches(rank: int, folder: Path) -> str:
    """The training data of rank 1 end early."""
    model = parallel.distribute(make_model(), toy_cfg(folder), torch.device("cpu"))
    windows = ToyLoader() if rank == 0 else itertools.islice(ToyLoader(), 3)
    with EventStorage(1, max_iter=20, log_period=50) as storage:
        run_loop(TrainStep(model, make_sgd(model), forward_train), windows, [], storage)
    return "the run ended as if nothing had happened"


def _empty_shard(rank: int, folder: Path) -> str:
    """One picture for two ranks: the second has none to test."""
    loader = EvalLoader(ToyDataset(1), batch_size=2, world_size=2, rank=rank, num_workers=0)
    evaluator = ClassificationEvaluator("toy", range(1), ["a", "b", "c", "d"])
    model = parallel.distribute(ToyModel(), toy_cfg(folder, MISC__PARALLEL__TYPE="fsdp"), torch.device("cpu"))
    metrics = run_evaluation(model, loader, evaluator, lambda model, batch: {"scores": forward_test(model, batch).softmax(1)})
    return f"{len(loader)} batches; {sorted(metrics or {})}; {metrics == comm.all_gather(metrics)[1 - rank]}"


_APART: dict[str, tuple[Callable[[int, Path], str], tuple[str, str]]] = {
    "missing call": (_missing_call, ("synchronize", "Timed out|Connection closed|Connection reset|synchronize")),
    "other order": (_other_order, ("rank 0: agree_max .*; rank 1: all_gather ",) * 2),
    "other shape": (_other_shape, (r"rank 0: average_tensors of float32 \(4,\) .*; rank 1: average_tensors of float64 \(2,\) ",) * 2),
    "uneven batches": (_uneven_batches, ("Timed out|Connection closed|Connection reset", "training data ended before update 4 of 20")),
    "empty shard": (_empty_shard, (r"^1 batches; .*top1.*; True", r"^0 batches; .*top1.*; True")),
}


def _come_apart(rank: int, names: Sequence[str], ports: Sequence[int], folder: Path) -> list[tuple[str, float]]:
    """Each case in a group of its own, joined as a run does; what rank ``rank`` was told, and after how many seconds."""
    ends = []
    torch.distributed.destroy_process_group()
    for number, (name, port) in enumerate(zip(names, ports, strict=True)):
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        comm.init_distributed(torch.device("cpu"), DIST_TIMEOUT_S)
        comm.synchronize()
        begin = time.monotonic()
        try:
            told = _APART[name][0](rank, folder / f"case{number}")
        except RuntimeError as error:
            told = str(error)
        ends.append((told, time.monotonic() - begin))
        comm.shutdown_distributed()
    return ends


@fault("F23", "ranks that make other calls, or get no data, end within the time limit with a message, or with the right result", small=5, full=5, several=True)
def come_apart(count: int, seed: int, folder: Path) -> Figure:
    """A call that one rank leaves out, another order, another shape, training data of other length, a test set for one rank only."""
    figure, slowest = Figure(0, count, "told or right"), 0.0
    names = [list(_APART)[(number + seed) % len(_APART)] for number in range(count)]
    ends = run_ranks(2, _come_apart, names, [free_port() for _ in names], folder, timeout=60.0 + 15.0 * count)
    for number, name in enumerate(names):
        problems = []
        for rank, wanted in enumerate(_APART[name][1]):
            told, seconds = ends[rank][number]
            slowest = max(slowest, seconds)
            problems += [] if re.search(wanted, told) else [f"rank {rank} was told: {told}"]
            problems += [f"rank {rank} took {seconds:.1f} s"] if seconds > DIST_TIMEOUT_S + MARGIN_S else []
        figure.judge(problems, name)
    figure.extra = f"the last rank knew after {slowest:.1f} s, the time limit was {DIST_TIMEOUT_S} s"
    return figure
