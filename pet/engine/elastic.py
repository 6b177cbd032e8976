"""Several processes of one run under torch's elastic agent, the machinery behind ``torchrun``.

What this module adds to the agent: the traceback of the rank that failed first is the last thing printed, the exit
status says how the run ended, the peers of a failed rank are given seconds and not half a minute, nodes that miss one
another say so, restarts are announced with their cause and made only where they can help, and no process outlives its
launcher, not even one that is killed.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import sys
import tempfile
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]  # exported, but not for mypy
from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, PContext, SignalException, errors
from torch.distributed.elastic.rendezvous.api import RendezvousInfo, RendezvousStoreInfo
from torch.distributed.elastic.rendezvous.static_tcp_rendezvous import StaticTCPRendezvous

from pet.engine import child, heartbeat, interruption, launch
from pet.engine.launch import EXIT_FAILED, EXIT_OK, EXIT_USAGE, Plan
from pet.utils.rendezvous import Meeting, MeetingError, call_off

# All ranks must be gone ten seconds after the first failure; the rest of the time goes to the agent.
FAILURE_GRACE_S = 6
SIGNALS = (*interruption.HANDLED, signal.SIGHUP, signal.SIGQUIT)
_FRAME = re.compile(r'^  File "([^"]+)", line .*\n(?:    .*\n)*', re.MULTILINE)
# What every traceback of a rank starts with, before the script itself.
_OUR_FRAMES = ("<frozen runpy>", errors.__file__, launch.__file__)


@dataclass
class Ranks:
    """How the processes of this node ended; filled in by ``Agent``.

    Attributes:
        codes: exit code of each local rank as ``subprocess`` gives it, ``None`` while it runs.
        first: the local ranks that had failed before the agent stopped the others.
        error_files: where ``record`` writes the exception of each local rank.
        offset: rank of local rank 0 in the whole run.
    """

    codes: dict[int, int | None] = field(default_factory=dict)
    first: list[int] = field(default_factory=list)
    error_files: dict[int, str] = field(default_factory=dict)
    offset: int = 0

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

    def verdict(self) -> tuple[int, str, str]:
        """Exit code and traceback of the rank that failed first, and what happened to it in words."""
        rank = self.root_cause()
        assert rank is not None, "the agent reports a failure, but every process ended with 0"
        code = self.codes[rank] or 0
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"failed with exit status {code}"
        if code == -signal.SIGKILL:
            how += " (by a user, or by the system when memory ran out)"
        return code, self.traceback(rank), f"rank {self.offset + rank} {how}"

    def left_on_purpose(self) -> bool:
        """Whether the first to leave did what it was asked: it refused a wrong start, or stopped on a signal after saving."""
        code, text, _ = self.verdict()
        return not text and (code == EXIT_USAGE or code > 128)


class Nodes(StaticTCPRendezvous):
    """The launchers of all nodes meet at the one of node 0, and again before every restart."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(
            plan.master_addr, plan.master_port, plan.node_rank, plan.nnodes, f"pet-{uuid.uuid4().hex}", plan.rdzv_timeout_s
        )
        remedy = (
            "Every node needs its own --node_rank and the same --nnodes, --master_addr (of node 0) and --master_port, which no "
            "firewall may block; MISC.RDZV_TIMEOUT is the time to wait"
        )
        place = (plan.master_addr, plan.master_port, plan.node_rank, plan.nnodes, plan.rdzv_timeout_s)
        self._meeting, self._round = Meeting(*place, "node", remedy), 0
        self._place: TCPStore | None = None

    def next_rendezvous(self) -> RendezvousInfo:
        """Wait for all nodes."""
        self._place = self._place or self._meeting.open(serve=self.rank == 0)
        self._round += 1
        store = PrefixStore(f"nodes/{self._round}", self._place)
        self._meeting.gather(store)
        if self.rank == 0:
            store.set("run_id", self.run_id)
        self.run_id = store.get("run_id").decode()  # of node 0: a restarted rank knows its run by it
        return RendezvousInfo(store, self.rank, self.world_size, RendezvousStoreInfo(self.master_addr, self._place.port))

    def leave(self, why: str) -> None:
        """Tell the nodes that restart, now or later, that this one does not."""
        if self.world_size > 1 and self._place is not None:
            with suppress(RuntimeError):  # node 0 may have gone before
                call_off(PrefixStore(f"nodes/{self._round + 1}", self._place), f"node {self.rank} has ended: {why}")


class Agent(LocalElasticAgent):
    """torch's agent for the processes of this node.

    Args:
        plan: number of processes and where they meet.
        command: arguments of the interpreter.
        folder: for the files that the ranks write for the agent.

    Attributes:
        ranks: how the processes of the last attempt ended.
    """

    def __init__(self, plan: Plan, command: Sequence[str], folder: str) -> None:
        self._plan, self._folder, self.ranks, self.nodes = plan, folder, Ranks(), Nodes(plan)
        spec = WorkerSpec(
            role="default",
            local_world_size=plan.nproc,
            entrypoint=sys.executable,
            args=tuple(command),
            rdzv_handler=self.nodes,
            max_restarts=plan.max_restarts,
            monitor_interval=0.1,
        )
        super().__init__(spec, DefaultLogsSpecs(log_dir=folder))

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        ids: dict[int, Any] = super()._start_workers(worker_group)
        assert self._pcontext is not None
        self.ranks = Ranks(offset=worker_group.workers[0].global_rank)
        self._observe_end_of(self._pcontext)
        return ids

    def _observe_end_of(self, processes: PContext) -> None:
        """Observe the processes whenever they are closed, and set how long they get before they are killed.

        torch has no argument for the wait after a failure (30 s), nor does it keep the exit codes after a signal.
        """
        ranks, close = self.ranks, processes.close

        def close_and_observe(death_sig: signal.Signals | None = None, timeout: int = 30) -> None:
            ranks.observe(processes)
            living = {rank: pid for rank, pid in processes.pids().items() if ranks.codes.get(rank) is None}
            if death_sig is None:
                ranks.first = [rank for rank, code in ranks.codes.items() if code]
                for line in heartbeat.describe_silent(self._folder, living, ranks.offset) if ranks.first else ():
                    print(line, file=sys.stderr, flush=True)
            elif living:
                # The agent's handlers would break off this wait; a second request ends it in `interruption`.
                for number in SIGNALS:
                    signal.signal(number, lambda *_: None)
            try:
                close(death_sig, FAILURE_GRACE_S if death_sig is None else self._plan.grace_s)
            finally:
                ranks.observe(processes)

        processes.close = close_and_observe  # type: ignore[method-assign]

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        """Look at the processes; a failure that another attempt cannot mend uses up all of them."""
        result: RunResult = super()._monitor_workers(worker_group)
        if result.state == WorkerState.FAILED and self._remaining_restarts:
            _, text, what = self.ranks.verdict()
            if self.ranks.left_on_purpose():
                self._remaining_restarts = 0
            else:
                cause = f": {text.rstrip().splitlines()[-1]}" if text else ""
                most = self._plan.max_restarts
                attempt = most - self._remaining_restarts + 1
                _report(f"{what}{cause}\nRestart {attempt} of {most}: all processes, from the last checkpoint.")
        return result


def run_processes(script: Path, arguments: Sequence[str], plan: Plan) -> int:
    """Run ``script`` on the processes of ``plan`` until all have ended or one has failed; the exit status.

    Args:
        script: the training or test script.
        arguments: its arguments, the same for every process.
        plan: number of processes and where they meet.
    """
    for name in [name for name in logging.root.manager.loggerDict if name.startswith("torch.distributed.elastic")]:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    os.environ[child.LAUNCHER] = str(os.getpid())
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = ",".join(number.name for number in SIGNALS)
    if (watched := interruption.active()) is not None:
        watched.begin(_stop_agent)  # until the agent has handlers of its own
    with tempfile.TemporaryDirectory(prefix="pet_launch_") as folder:
        os.environ[heartbeat.FOLDER] = folder
        agent = Agent(plan, ["-u", "-m", child.__name__, str(script), *arguments], folder)
        try:
            result = agent.run()
        except SignalException as stop:
            return status_after_signal(agent.ranks, stop.sigval)
        except MeetingError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            return EXIT_FAILED
        if not result.is_failed():
            return EXIT_OK
        agent.nodes.leave(agent.ranks.verdict()[2])
        return status_after_failure(agent.ranks)


def _stop_agent(number: int) -> None:
    raise SignalException(f"stopped by {signal.Signals(number).name}", signal.Signals(number))


def status_after_failure(ranks: Ranks) -> int:
    """Print why the run failed, the traceback last; the exit status."""
    code, text, what = ranks.verdict()
    if ranks.left_on_purpose():
        return code
    _report(f"{what}; the other processes were stopped.", text)
    return EXIT_FAILED


def status_after_signal(ranks: Ranks, number: signal.Signals) -> int:
    """The exit status after the launcher got a signal and passed it on."""
    left = {rank: code for rank, code in ranks.codes.items() if code not in (0, 128 + number, -number)}
    if not ranks.codes:  # no process was started yet
        print(f"stopped by {number.name}: {interruption.NOT_BEGUN}", file=sys.stderr, flush=True)
    if not left:
        return EXIT_OK if ranks.codes and not any(ranks.codes.values()) else 128 + number
    cause = ranks.root_cause()
    rank = cause if cause in left else min(left)
    how = "did not leave in time and was killed" if left[rank] == -signal.SIGKILL else f"failed with exit status {left[rank]}"
    _report(f"stopping on {number.name}: rank {ranks.offset + rank} {how}.", ranks.traceback(rank))
    return EXIT_FAILED


def _report(headline: str, text: str = "") -> None:
    sys.stdout.flush()
    tail = f" Its traceback:\n{text.rstrip()}" if text else ""
    print(f"{'-' * 80}\n{headline}{tail}", file=sys.stderr, flush=True)
