"""What a signal does to a process of a run: before the loop it ends it, in the loop it is a request, repeated it is an order.

Python calls a handler only between two of its own instructions, so a process that waits in a collective or for another rank
would not react for minutes. Its C handler also writes the signal's number to a pipe, which a thread reads here.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from threading import Thread
from time import monotonic
from types import FrameType
from typing import Any

# A scheduler signals all processes of a job, and the launcher passes its own signal on besides: within these seconds that is one
# request.
REPEAT_S = 2.0
NOT_BEGUN = "nothing was lost: the run had not begun"
# What ends a run with a checkpoint: stop, Ctrl-C, and the warnings that a scheduler gives before it stops a job.
HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


class Interruption:
    """Handles ``signals`` between ``start`` and ``stop``, in the main thread.

    Without ``request`` the run has not begun, and a signal ends the process at once with status 128 + N. With it, the first
    signal becomes a call of ``request``, and one that comes ``REPEAT_S`` later ends the process at once.

    Attributes:
        request: called with the number of the first signal, in the main thread; it may only set a flag.
        received: that number.
        over: the run has ended and everything is saved; only Ctrl-C still ends the process before its last words.
    """

    def __init__(self, request: Callable[[int], None] | None = None) -> None:
        self.request = request
        self.received: int | None = None
        self.over = False
        self._handlers: dict[int, Any] = {}
        self._pipe = self._wakeup = -1
        self._thread: Thread | None = None

    def start(self, signals: Sequence[int] = HANDLED) -> None:
        """Install the handlers."""
        global _active
        reader, self._pipe = os.pipe()
        os.set_blocking(self._pipe, False)
        self._wakeup = signal.set_wakeup_fd(self._pipe, warn_on_full_buffer=False)
        self._handlers = {number: signal.signal(number, self._handle) for number in signals}
        self._thread = Thread(target=self._watch, args=(reader,), name="signals", daemon=True)
        self._thread.start()
        _active = self

    def stop(self) -> None:
        """Put back what was there before."""
        global _active
        if self._thread is None:
            return
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._pipe)
        self._thread.join()
        self._thread = _active = None

    def begin(self, request: Callable[[int], None]) -> None:
        """The run begins: from now on a signal is a request."""
        self.request = request
        if self.received is not None:
            request(self.received)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received = number
            if self.request is not None:
                self.request(number)

    def _watch(self, reader: int) -> None:
        """Body of the thread: act on every signal when it arrives, until the pipe is closed."""
        first: float | None = None
        with open(reader, "rb", buffering=0) as pipe:
            while byte := pipe.read(1):
                now = monotonic()
                # Other signals with a handler in Python come here, too.
                if byte[0] not in self._handlers or (self.over and byte[0] != signal.SIGINT):
                    continue
                if self.request is None:
                    _leave(byte[0], NOT_BEGUN)
                if first is not None and now - first >= REPEAT_S:
                    _leave(byte[0], "the second signal; left at once, without another checkpoint")
                first = now if first is None else first

    def forget(self) -> None:
        """In a process forked from this one: its signals are its own."""
        signal.set_wakeup_fd(-1)
        os.close(self._pipe)  # ``stop`` waits until nobody holds it any more
        for number in self._handlers:
            signal.signal(number, signal.SIG_DFL)


_active: Interruption | None = None
_cleanups: list[Callable[[], None]] = []
os.register_at_fork(after_in_child=lambda: _active.forget() if _active is not None else None)


def active() -> Interruption | None:
    """What handles the signals of this process, if anything does."""
    return _active


def watch_start() -> None:
    """From now on a signal ends this process with one line instead of a traceback; to call before the long imports."""
    if _active is None:
        Interruption().start()


def release() -> None:
    """Leave signals to Python again."""
    if _active is not None:
        _active.stop()


def before_leaving(cleanup: Callable[[], None]) -> None:
    """Call ``cleanup`` when a signal ends this process at once."""
    _cleanups.append(cleanup)


def _leave(number: int, why: str) -> None:
    for cleanup in _cleanups:
        cleanup()
    os.write(2, f"stopped by {signal.Signals(number).name}: {why}\n".encode())
    os._exit(128 + number)
