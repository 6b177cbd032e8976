"""Loader processes that survive what must not kill them and die with their parent."""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import sys
import weakref

import cv2

if sys.platform == "linux":
    from multiprocessing.context import ForkContext as _Context
    from multiprocessing.context import ForkProcess as _Process
else:
    from multiprocessing.context import SpawnContext as _Context
    from multiprocessing.context import SpawnProcess as _Process

# A scheduler or Ctrl-C signals the whole process group. Only the main process may react: it still needs
# its workers to reach the next step boundary and save.
_SHIELDED = {signal.SIGTERM, signal.SIGINT, signal.SIGUSR1}
_PR_SET_PDEATHSIG = 1


class WorkerProcess(_Process):
    """A process with SIGTERM, SIGINT and SIGUSR1 blocked from its first instruction, killed when its parent dies."""

    started: weakref.WeakSet[WorkerProcess] = weakref.WeakSet()
    _creator = 0

    def start(self) -> None:
        self._creator = os.getpid()
        # A child inherits the mask, so there is no moment in which a signal could reach it.
        previous = signal.pthread_sigmask(signal.SIG_BLOCK, _SHIELDED)
        try:
            super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, previous)
        WorkerProcess.started.add(self)

    def run(self) -> None:
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


class WorkerContext(_Context):
    """The multiprocessing context to give to a ``DataLoader``."""

    Process = WorkerProcess


@atexit.register
def _kill_workers() -> None:
    # multiprocessing ends daemons with SIGTERM and then waits for them, for ever when the signal is blocked.
    for worker in list(WorkerProcess.started):
        if worker._creator == os.getpid() and worker.is_alive():
            worker.kill()


def dead_workers() -> dict[int, str]:
    """Workers of this process that ended with an error: process id and cause."""
    causes = {}
    for worker in list(WorkerProcess.started):
        if worker._creator == os.getpid() and worker.exitcode:
            code = worker.exitcode
            causes[worker.pid or 0] = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
    return causes
