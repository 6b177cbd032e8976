"""Several processes of one run under torch's elastic agent, the machinery behind ``torchrun``.

What this module adds to the agent: the traceback of the rank that failed first is the last thing printed, the exit
status says how the run ended, the peers of a failed rank are given seconds and not half a minute, and no process
outlives its launcher, not even one that is killed.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import re
import signal
import sys
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, errors
from torch.distributed.elastic.multiprocessing.api import PContext
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, record
from torch.distributed.elastic.rendezvous.api import RendezvousError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from pet.engine import launch
from pet.engine.launch import EXIT_FAILED, EXIT_OK, EXIT_USAGE, Plan, run_script

# All ranks must be gone ten seconds after the first failure; the rest of the time goes to the agent.
FAILURE_GRACE_S = 6
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1)
_LAUNCHER = "PET_LAUNCHER_PID"
_PR_SET_PDEATHSIG = 1
_FRAME = re.compile(r'^  File "([^"]+)", line .*\n(?:    .*\n)*', re.MULTILINE)
# What every traceback of a rank starts with, before the script itself.
_OUR_FRAMES = ("<frozen runpy>", errors.__file__, launch.__file__)


@dataclass
class Ranks:
    """How the processes of this node ended; filled in by ``_watched``.

    Attributes:
        codes: exit code of each rank as ``subprocess`` gives it, ``None`` while it runs.
        first: the ranks that had failed before the agent stopped the others.
        error_files: where ``record`` writes the exception of each rank.
    """

    codes: dict[int, int | None] = field(default_factory=dict)
    first: list[int] = field(default_factory=list)
    error_files: dict[int, str] = field(default_factory=dict)

    def observe(self, processes: Any) -> None:
        """Take the present exit codes of a ``SubprocessContext``."""
        self.error_files = processes.error_files
        self.codes = {rank: handler.proc.poll() for rank, handler in processes.subprocess_handlers.items()}

    def root_cause(self) -> int | None:
        """The rank that failed first, ``None`` if none did.

        A process killed from outside leaves no exception, but its peers do, about the lost connection: so a kill comes
        before any exception. SIGABRT does not count as a kill: it is how gloo leaves when a peer went away.
        """
        harmless = (None, -signal.SIGTERM, -signal.SIGABRT)
        killed = [rank for rank in self.first if (code := self.codes[rank]) not in harmless and code < 0]
        raised = sorted((os.stat(file).st_mtime_ns, r) for r, file in self.error_files.items() if os.path.isfile(file))
        return next(iter([*killed, *(rank for _, rank in raised), *self.first]), None)

    def traceback(self, rank: int) -> str:
        """The recorded traceback of a rank, from the script on; an empty string without one."""
        try:
            content = json.loads(Path(self.error_files[rank]).read_text(encoding="utf-8"))
        except (KeyError, OSError, ValueError):
            return ""
        message = content["message"]
        text = str(message if isinstance(message, str) else message["extraInfo"]["py_callstack"])
        return _FRAME.sub(lambda frame: "" if frame[1] in _OUR_FRAMES else frame[0], text)


def run_processes(script: Path, arguments: Sequence[str], plan: Plan) -> int:
    """Run ``script`` on the processes of ``plan`` until all have ended or one has failed; the exit status.

    Args:
        script: the training or test script.
        arguments: its arguments, the same for every process.
        plan: number of processes and where they meet.
    """
    for name in [name for name in logging.root.manager.loggerDict if name.startswith("torch.distributed.elastic")]:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    os.environ[_LAUNCHER] = str(os.getpid())
    command = ["-u", "-m", __name__, str(script), *arguments]
    with tempfile.TemporaryDirectory(prefix="pet_launch_") as folder, _watched(plan.grace_s) as ranks:
        try:
            elastic_launch(_launch_config(plan, folder), sys.executable)(*command)
        except ChildFailedError:
            return status_after_failure(ranks)
        except SignalException as stop:
            return status_after_signal(ranks, stop.sigval)
        except (RendezvousError, OSError) as error:
            where = f"{plan.master_addr}:{plan.master_port or 'a free port'}"
            print(f"error: the {plan.nproc} processes could not meet at {where}: {error}", file=sys.stderr, flush=True)
            return EXIT_FAILED
    return EXIT_OK


def _launch_config(plan: Plan, folder: str) -> LaunchConfig:
    # Port 0 of the c10d back end is chosen by the operating system; with a fixed port or several nodes the place is known.
    fixed = plan.master_port != 0 or plan.nnodes > 1
    return LaunchConfig(
        min_nodes=plan.nnodes,
        max_nodes=plan.nnodes,
        nproc_per_node=plan.nproc,
        run_id=f"pet-{uuid.uuid4().hex}",
        rdzv_backend="static" if fixed else "c10d",
        rdzv_endpoint=f"{plan.master_addr}:{plan.master_port}",
        rdzv_configs={"rank": plan.node_rank, "timeout": 900} if fixed else {"timeout": 900},
        max_restarts=plan.max_restarts,
        monitor_interval=0.1,
        local_addr=plan.master_addr if plan.nnodes == 1 else None,
        logs_specs=DefaultLogsSpecs(log_dir=folder),
        signals_to_handle=",".join(number.name for number in SIGNALS),
    )


@contextmanager
def _watched(grace_s: int) -> Iterator[Ranks]:
    """Observe the processes whenever the agent closes them, and set how long it waits before it kills.

    The agent has no argument for the wait after a failure (30 s), nor does it keep the exit codes after a signal.
    """
    ranks, close = Ranks(), PContext.close

    def close_and_observe(self: Any, death_sig: signal.Signals | None = None, timeout: int = 30) -> None:
        ranks.observe(self)
        if death_sig is None:
            ranks.first = [rank for rank, code in ranks.codes.items() if code]
        try:
            close(self, death_sig, FAILURE_GRACE_S if death_sig is None else grace_s)
        finally:
            ranks.observe(self)

    PContext.close = close_and_observe  # type: ignore[method-assign]
    try:
        yield ranks
    finally:
        PContext.close = close  # type: ignore[method-assign]


def status_after_failure(ranks: Ranks) -> int:
    """Print why the run failed, the traceback last; the exit status."""
    rank = ranks.root_cause()
    assert rank is not None, "the agent reports a failure, but every process ended with 0"
    code, text = ranks.codes[rank] or 0, ranks.traceback(rank)
    if not text and (code == EXIT_USAGE or code > 128):
        return code
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"failed with exit status {code}"
    if code == -signal.SIGKILL:
        how += " (by a user, or by the system when memory ran out)"
    _report(f"rank {rank} {how}; the other processes were stopped.", text)
    return EXIT_FAILED


def status_after_signal(ranks: Ranks, number: signal.Signals) -> int:
    """The exit status after the launcher got a signal and passed it on."""
    left = {rank: code for rank, code in ranks.codes.items() if code not in (0, 128 + number, -number)}
    if not left:
        return EXIT_OK if ranks.codes and not any(ranks.codes.values()) else 128 + number
    cause = ranks.root_cause()
    rank = cause if cause in left else min(left)
    how = "did not leave in time and was killed" if left[rank] == -signal.SIGKILL else f"failed with exit status {left[rank]}"
    _report(f"stopping on {number.name}: rank {rank} {how}.", ranks.traceback(rank))
    return EXIT_FAILED


def _report(headline: str, text: str) -> None:
    sys.stdout.flush()
    tail = f" Its traceback:\n{text.rstrip()}" if text else ""
    print(f"{'-' * 80}\n{headline}{tail}", file=sys.stderr, flush=True)


def _die_with_launcher() -> None:
    """Ask the kernel to kill this process when the launcher dies, however it dies (Linux)."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # The launcher may have died before the request was made.
    if os.getppid() != int(os.environ[_LAUNCHER]):
        os._exit(EXIT_FAILED)


if __name__ == "__main__":
    _die_with_launcher()
    record(run_script)(sys.argv[1], sys.argv[2:])
