"""Run things in other processes, and leave none of them behind.

``run_ranks`` runs one function on several gloo ranks; ``run_cli`` and ``start_cli`` run a script the way a user does,
with ``start=fork_start`` without the seconds that Python takes to load torch.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import multiprocessing
import multiprocessing.connection
import multiprocessing.context
import os
import pickle
import runpy
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from typing import Any, Protocol

REPOSITORY = Path(__file__).resolve().parent.parent
_GRACE_S = 5.0
_MARK = "PET_TEST_PROCESS"
# What the fork server loads once: loading it takes longer than what most tests do then.
_PRELOADED = ["torch._dynamo", "torch.utils.tensorboard", "pet.engine.setup", "pet.engine.hooks.build", "pet.solver.optimizer"]
_PRELOADED += [
    f"pet.{domain}.{name}"
    for domain in ("tasks.cls", "vision")
    for name in ("model_builder", "dataset", "analyser", "evaluation", "pictures")
]


# ---------------------------------------------------------------------------------------------------- processes


def children() -> dict[int, str]:
    """Living descendants of this process: process id to command line.

    Zombies and the helpers that ``multiprocessing`` keeps for the rest of the session are left out; what the fork
    server started is not, although it has the command line of the server.
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
    helpers = (resource_tracker._resource_tracker._pid, forkserver._forkserver._forkserver_pid)
    return {pid: command for pid, command in found.items() if command and pid not in helpers}


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def _living(mark: str, session: int) -> list[int]:
    """Living processes that inherited the environment mark or belong to the session, whoever their parent is now."""
    wanted, found = f"{_MARK}={mark}".encode(), []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, _, _, its_session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            # The environment of a process is the one it was executed with; one that a warm starter forked has no mark.
            marked = wanted in (folder / "environ").read_bytes().split(b"\0")
            if state not in "ZX" and (marked or session in (int(its_session), int(folder.name))):
                found.append(int(folder.name))
    return found


def free_port() -> int:
    """A TCP port of this machine that nobody used a moment ago."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def fork_context() -> multiprocessing.context.ForkServerContext:
    """Processes that start in milliseconds: forked from a process without threads that has loaded torch and Pet.

    They get the environment of the moment when the first of them was started. The server ends with this process.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    return context


def _take_over(environment: dict[str, str]) -> None:
    """Replace what a fork has from the server: the environment, and the state of NumPy's generator."""
    os.environ.clear()
    os.environ.update(environment)
    import numpy as np

    np.random.seed()


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
        timeout: seconds until all ranks must have ended, their start included.

    Raises:
        RankError: with the traceback of the rank that failed first.
        TimeoutError: with the stacks of the ranks that were still running.
    """
    context, environment = fork_context(), dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="pet_ranks_") as folder:
        processes = [
            context.Process(target=_rank_main, args=(rank, n, folder, timeout, environment, function, args)) for rank in range(n)
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


def _rank_main(
    rank: int,
    n: int,
    folder: str,
    timeout: float,
    environment: dict[str, str],
    function: Callable[..., Any],
    args: tuple[Any, ...],
) -> None:
    """Body of one rank: join the group, call the function, leave the outcome in a file."""
    _take_over(environment)
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


class Process(Protocol):
    """A started command; ``subprocess.Popen`` is one."""

    pid: int
    returncode: int | None

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...


# Starts a command (with the interpreter) in a session of its own: command, working folder, environment, folder for its output.
Start = Callable[[Sequence[str], Path, dict[str, str], Path], Process]


def cold_start(command: Sequence[str], cwd: Path, env: dict[str, str], folder: Path) -> Process:
    """Start a new interpreter."""
    with open(folder / "stdout", "wb") as out, open(folder / "stderr", "wb") as err:
        return subprocess.Popen(
            command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True
        )


class _Forked:
    """A process of the fork server with what ``start_cli`` uses of ``subprocess.Popen``."""

    def __init__(self, process: multiprocessing.context.ForkServerProcess) -> None:
        self._process, self.pid = process, process.pid or 0

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
        return self._process.exitcode


def fork_start(command: Sequence[str], cwd: Path, env: dict[str, str], folder: Path) -> Process:
    """Fork a process that has loaded torch and Pet.

    Not for what is about the start itself: the modules a script loads, options of the interpreter, the hash seed.
    """
    for name in ("stdout", "stderr"):
        (folder / name).touch()
    process = fork_context().Process(target=_become, args=(command[1:], env, os.fspath(cwd), os.fspath(folder)))
    process.start()
    return _Forked(process)


def _become(words: list[str], environment: dict[str, str], cwd: str, folder: str) -> None:
    """Turn this process into ``python <words>``."""
    os.setsid()
    for number, name in ((1, "stdout"), (2, "stderr")):
        with open(Path(folder, name), "wb") as file:
            os.dup2(file.fileno(), number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
    _take_over(environment)
    os.chdir(cwd)
    sys.path[:0] = [os.path.abspath(path) for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.argv = words[1:] if words[0] == "-m" else words
    try:
        if words[0] == "-m":
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.path.insert(0, os.path.dirname(os.path.abspath(words[0])))
            runpy.run_path(words[0], run_name="__main__")
    except Exception:
        traceback.print_exc()
        sys.exit(1)
    finally:
        # A process of multiprocessing leaves without them.
        atexit._run_exitfuncs()


@dataclass
class Cli:
    """A running command. Its output goes to a file: a pipe held open by an orphan would block the reader."""

    process: Process
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
        return _living(self.mark, self.process.pid)

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
    arguments: Sequence[str | os.PathLike[str]],
    env: dict[str, str] | None = None,
    cwd: Path = REPOSITORY,
    start: Start = cold_start,
) -> Iterator[Cli]:
    """Start ``python <arguments>`` in a process group of its own; whatever still runs at the end is killed.

    Args:
        arguments: script and its arguments, e.g. ``["tools/train_net_all.py", "--cfg", path]``.
        env: variables added to (``""``: removed from) the environment of the test.
        cwd: working folder, the repository root by default.
        start: how; ``fork_start`` costs no imports.
    """
    mark = uuid.uuid4().hex
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **(env or {}), _MARK: mark}
    variables = {name: value for name, value in variables.items() if value != ""}
    command = [sys.executable, *map(os.fspath, arguments)]
    with tempfile.TemporaryDirectory(prefix="pet_cli_") as folder:
        cli = Cli(start(command, cwd, variables, Path(folder)), command, mark, Path(folder))
        try:
            yield cli
        finally:
            for pid in cli.living():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            cli.process.wait()


def run_cli(
    arguments: Sequence[str | os.PathLike[str]],
    env: dict[str, str] | None = None,
    timeout: float = 60.0,
    cwd: Path = REPOSITORY,
    start: Start = cold_start,
) -> subprocess.CompletedProcess[str]:
    """Run ``python <arguments>`` from the repository root to its end; see ``start_cli`` for the arguments.

    The status is in ``.returncode``, the text in ``.stdout`` and ``.stderr``. A command that leaves a process behind
    is an ``AssertionError``.
    """
    with start_cli(arguments, env, cwd, start) as cli:
        done = cli.wait(timeout)
        assert cli.gone(_GRACE_S), f"{done.args} left processes behind: {[_command(pid) for pid in cli.living()]}"
        return done


def run_script_ranks(
    n: int, arguments: Sequence[str | os.PathLike[str]], timeout: float = 120.0
) -> list[subprocess.CompletedProcess[str]]:
    """Run a script on ``n`` processes with the environment that ``torchrun`` gives them; how they ended, in rank order.

    A launcher starts a new interpreter for each of them, which takes longer than most runs of a test.
    """
    size, meeting = str(n), {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    with contextlib.ExitStack() as stack:
        ranks = []
        for rank in map(str, range(n)):
            env = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, **meeting}
            ranks.append(stack.enter_context(start_cli(arguments, env, start=fork_start)))
        return [rank.wait(timeout) for rank in ranks]
