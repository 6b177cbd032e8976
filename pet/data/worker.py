"""Loader processes that survive what must not kill them and die with their parent."""

from __future__ import annotations

import atexit
import ctypes
import os
import select
import signal
import sys
import traceback
import weakref
from multiprocessing import current_process
from multiprocessing.queues import Queue
from time import monotonic, sleep
from typing import Any

import cv2

if sys.platform == "linux":
    from multiprocessing.context import ForkContext as _Context
    from multiprocessing.context import ForkProcess as _Process
else:
    from multiprocessing.context import SpawnContext as _Context
    from multiprocessing.context import SpawnProcess as _Process

# A scheduler or Ctrl-C signals the whole process group. Only the main process may react: it still needs
# its workers to reach the next step boundary and save.
_SHIELDED = {signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2}
_PR_SET_PDEATHSIG = 1
# A fork at the very moment in which a thread of gloo registers with Python hangs before its first instruction: the lock was
# copied, its owner was not (seen with Python 3.11). Such a child never answers.
_ANSWER_S, _FORKS = 20.0, 3


class WorkerProcess(_Process):
    """A process with SIGTERM, SIGINT, SIGUSR1 and SIGUSR2 blocked from its first instruction, killed when its parent dies."""

    started: weakref.WeakSet[WorkerProcess] = weakref.WeakSet()
    _creator = 0
    _pipe = (-1, -1)

    def start(self) -> None:
        self._creator = os.getpid()
        # A child inherits the mask, so there is no moment in which a signal could reach it.
        previous = signal.pthread_sigmask(signal.SIG_BLOCK, _SHIELDED)
        try:
            super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, previous)
        WorkerProcess.started.add(self)

    @staticmethod
    def _Popen(process: Any) -> Any:
        """How ``start`` makes the process; a fork that does not answer is replaced."""
        if sys.platform != "linux":
            return _Process._Popen(process)
        for _ in range(_FORKS):
            reader, writer = process._pipe = os.pipe()
            popen = _Process._Popen(process)
            os.close(writer)
            answered = select.select([reader], [], [], _ANSWER_S)[0]
            os.close(reader)
            if answered:
                return popen
            popen.kill()
            popen.wait()
        raise OSError(f"{_FORKS} loader workers in a row did not start within {_ANSWER_S:.0f} s each; try DATA.LOADER_THREADS 0")

    def run(self) -> None:
        if sys.platform == "linux":
            os.write(self._pipe[1], b"!")
            for end in self._pipe:
                os.close(end)
        signal.pthread_sigmask(signal.SIG_BLOCK, _SHIELDED)
        if sys.platform == "linux":
            ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        # The parent may have died before the request above was in force.
        if os.getppid() != self._creator:
            os._exit(1)
        cv2.setNumThreads(0)
        super().run()

    def terminate(self) -> None:
        WorkerProcess.started.discard(self)
        self.kill()  # SIGTERM is blocked


class _AnswerQueue(Queue):  # type: ignore[type-arg]
    """What cannot be sent (no shared memory or file descriptor is left) ends the worker: the answer would be awaited for ever."""

    @staticmethod
    def _on_queue_feeder_error(error: Exception, answer: object) -> None:
        traceback.print_exception(error)
        if isinstance(current_process(), WorkerProcess):
            os._exit(1)


class WorkerContext(_Context):
    """The multiprocessing context to give to a ``DataLoader``."""

    Process = WorkerProcess

    def Queue(self, maxsize: int = 0) -> Any:  # noqa: N802 - the name of multiprocessing
        """A queue between this process and its workers."""
        return _AnswerQueue(maxsize, ctx=self.get_context())


@atexit.register
def _kill_workers() -> None:
    # multiprocessing ends daemons with SIGTERM and then waits for them, for ever when the signal is blocked.
    for worker in list(WorkerProcess.started):
        if worker._creator == os.getpid() and worker.is_alive():
            worker.kill()


def dead_workers(patience_s: float = 0.0) -> dict[int, str]:
    """Workers of this process that ended with an error: process id and cause. Each is told once.

    Args:
        patience_s: wait so long for the first.
    """
    deadline = monotonic() + patience_s
    while not (dead := [w for w in list(WorkerProcess.started) if w._creator == os.getpid() and w.exitcode]):
        if monotonic() >= deadline:
            return {}
        sleep(0.01)
    causes = {}
    for worker in dead:
        code = worker.exitcode or 0
        cause = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}, its error is printed above"
        causes[worker.pid or 0] = cause
        WorkerProcess.started.discard(worker)
    return causes
