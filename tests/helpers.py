"""Run things in other processes, and leave none of them behind.

``run_ranks`` runs one function on several gloo ranks; ``run_cli`` and ``start_cli`` run a script the way a user does.
"""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
_GRACE_S = 5.0
_MARK = "PET_TEST_PROCESS"


# ---------------------------------------------------------------------------------------------------- processes


def children() -> dict[int, str]:
    """Living descendants of this process: process id to command line.

    Zombies and the helpers that ``multiprocessing`` keeps for the rest of the session are left out.
    """
    found: dict[int, str] = {}
    frontier = [os.getpid()]
    while frontier:
        pid = frontier.pop()
        for listed in Path(f"/proc/{pid}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                frontier += [int(word) for word in listed.read_text().split()]
        # A zombie has no command line.
        found[pid] = _command(pid)
    del found[os.getpid()]
    helpers = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")
    return {pid: command for pid, command in found.items() if command and not any(name in command for name in helpers)}


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def _marked(mark: str) -> list[int]:
    """Living processes that inherited the environment mark, whoever their parent is now."""
    wanted, found = f"{_MARK}={mark}".encode(), []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if wanted in environ.read_bytes().split(b"\0"):
                found.append(int(environ.parent.name))
    return found


def free_port() -> int:
    """A TCP port of this machine that nobody used a moment ago."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# -------------------------------------------------------------------------------------------------------- ranks


class RankError(RuntimeError):
    """A rank failed; the text is its own traceback.

    Attributes:
        rank: the rank that failed first.
        kind: the class name of its exception, e.g. ``"ValueError"``; empty if the process died without one.
    """

    def __init__(self, message: str, rank: int, kind: str) -> None:
        super().__init__(message)
        self.rank, self.kind = rank, kind


def run_ranks(n: int, function: Callable[..., Any], *args: Any, timeout: float = 60.0) -> list[Any]:
    """Call ``function(rank, *args)`` on ``n`` processes that form a gloo group; the results in rank order.

    Args:
        n: number of processes, at least 1 (one process gets a group, too).
        function: a function at module level; it and ``args`` and the results are pickled.
        timeout: seconds until all ranks must have ended, their start (about 3 s) included.

    Raises:
        RankError: with the traceback of the rank that failed first.
        TimeoutError: with the stacks of the ranks that were still running.
    """
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="pet_ranks_") as folder:
        processes = [
            context.Process(target=_rank_main, args=(rank, n, folder, timeout, function, args), daemon=False) for rank in range(n)
        ]
        try:
            for process in processes:
                process.start()
            late = _wait(processes, folder, timeout)
        finally:
            for process in processes:
                if process.is_alive():
                    process.kill()
                process.join()
        return _results(processes, Path(folder), late, timeout)


def _rank_main(rank: int, n: int, folder: str, timeout: float, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    """Body of one rank: join the group, call the function, leave the outcome in a file."""
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(n), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(n), OMP_NUM_THREADS="1")
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    with open(Path(folder, f"{rank}.stacks"), "w") as stacks:
        faulthandler.dump_traceback_later(max(timeout - 2.0, 1.0), file=stacks)
        try:
            dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=n)
            # A rank that is connected first and leaves at once closes the others' half-made connections.
            dist.barrier()
            outcome: tuple[Any, ...] = ("result", function(rank, *args))
        except BaseException as error:
            outcome = ("error", type(error).__name__, traceback.format_exc(), time.time())
        finally:
            faulthandler.cancel_dump_traceback_later()
    Path(folder, f"{rank}.outcome").write_bytes(pickle.dumps(outcome))
    if outcome[0] == "error":
        # Leaving the group in order would wait for ranks that never come.
        os._exit(1)
    if dist.is_initialized():
        dist.destroy_process_group()


def _wait(processes: Sequence[Any], folder: str, timeout: float) -> list[int]:
    """Wait for all ranks, or for the grace period after the first that failed; the ranks still running."""
    deadline, failed = time.monotonic() + timeout, False
    while running := [rank for rank, process in enumerate(processes) if process.exitcode is None]:
        if time.monotonic() >= deadline:
            return [] if failed else running
        multiprocessing.connection.wait([processes[rank].sentinel for rank in running], timeout=0.2)
        if not failed and any(process.exitcode not in (None, 0) for process in processes):
            deadline, failed = min(deadline, time.monotonic() + _GRACE_S), True
    return []


def _results(processes: Sequence[Any], folder: Path, late: list[int], timeout: float) -> list[Any]:
    outcomes: dict[int, tuple[Any, ...]] = {}
    for rank in range(len(processes)):
        with contextlib.suppress(FileNotFoundError, EOFError, pickle.UnpicklingError):
            outcomes[rank] = pickle.loads(Path(folder, f"{rank}.outcome").read_bytes())
    errors = {rank: outcome for rank, outcome in outcomes.items() if outcome[0] == "error"}
    if errors:
        first = min(errors, key=lambda rank: errors[rank][3])
        raise RankError(f"rank {first} failed:\n{errors[first][2]}", first, errors[first][1])
    if late:
        stacks = "\n".join(f"rank {rank}:\n{Path(folder, f'{rank}.stacks').read_text()}" for rank in late)
        raise TimeoutError(f"ranks {late} were still running after {timeout} s\n{stacks}")
    dead = [rank for rank in range(len(processes)) if rank not in outcomes]
    if dead:
        raise RankError(f"rank {dead[0]} died without a traceback, exit code {processes[dead[0]].exitcode}", dead[0], "")
    return [outcomes[rank][1] for rank in range(len(processes))]


# ------------------------------------------------------------------------------------------------- command line


@dataclass
class Cli:
    """A running command. Its output goes to a file: a pipe held open by an orphan would block the reader."""

    process: subprocess.Popen[bytes]
    arguments: list[str]
    mark: str
    folder: Path

    def stdout(self) -> str:
        """What it printed so far."""
        return (self.folder / "stdout").read_text(errors="replace")

    def stderr(self) -> str:
        """What it printed to the error stream so far."""
        return (self.folder / "stderr").read_text(errors="replace")

    def living(self) -> list[int]:
        """Ids of the processes it started, itself included, that still live, orphans too."""
        return _marked(self.mark)

    def wait_for(self, text: str, timeout: float = 60.0) -> None:
        """Return once ``text`` was printed to either stream; a ``TimeoutError`` with the output otherwise."""
        deadline = time.monotonic() + timeout
        while text not in self.stdout() + self.stderr():
            if time.monotonic() > deadline or self.process.poll() is not None and text not in self.stdout() + self.stderr():
                raise TimeoutError(f"never printed {text!r} (status {self.process.poll()})\n{self.stdout()}\n{self.stderr()}")
            time.sleep(0.02)

    def wait(self, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Wait for the end; a ``TimeoutError`` with the output if it does not come."""
        try:
            status = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{self.arguments} ran longer than {timeout} s\n{self.stdout()}\n{self.stderr()}") from None
        return subprocess.CompletedProcess(self.arguments, status, self.stdout(), self.stderr())

    def gone(self, timeout: float = 10.0) -> bool:
        """Whether every process it started has ended within ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while self.living() and time.monotonic() < deadline:
            time.sleep(0.05)
        return not self.living()


@contextlib.contextmanager
def start_cli(
    arguments: Sequence[str | os.PathLike[str]], env: dict[str, str] | None = None, cwd: Path = REPOSITORY
) -> Iterator[Cli]:
    """Start ``python <arguments>`` in a process group of its own; whatever still runs at the end is killed.

    Args:
        arguments: script and its arguments, e.g. ``["tools/train_net_all.py", "--cfg", path]``.
        env: variables added to (``""``: removed from) the environment of the test.
        cwd: working folder, the repository root by default.
    """
    mark = uuid.uuid4().hex
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **(env or {}), _MARK: mark}
    variables = {name: value for name, value in variables.items() if value != ""}
    command = [sys.executable, *map(os.fspath, arguments)]
    with tempfile.TemporaryDirectory(prefix="pet_cli_") as folder:
        with open(Path(folder, "stdout"), "wb") as out, open(Path(folder, "stderr"), "wb") as err:
            process = subprocess.Popen(
                command, cwd=cwd, env=variables, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True
            )
        try:
            yield Cli(process, command, mark, Path(folder))
        finally:
            for pid in {*_marked(mark), process.pid} if process.poll() is None else set(_marked(mark)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()


def run_cli(
    arguments: Sequence[str | os.PathLike[str]], env: dict[str, str] | None = None, timeout: float = 60.0, cwd: Path = REPOSITORY
) -> subprocess.CompletedProcess[str]:
    """Run ``python <arguments>`` from the repository root to its end; see ``start_cli`` for the arguments.

    The status is in ``.returncode``, the text in ``.stdout`` and ``.stderr``. A command that leaves a process behind
    is an ``AssertionError``.
    """
    with start_cli(arguments, env, cwd) as cli:
        done = cli.wait(timeout)
        assert cli.gone(_GRACE_S), f"{done.args} left processes behind: {[_command(pid) for pid in cli.living()]}"
        return done
