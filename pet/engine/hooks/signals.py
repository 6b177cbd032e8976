"""Signals: a request to stop from outside becomes a checkpoint and a clean end."""

from __future__ import annotations

import os
import signal
from time import monotonic
from types import FrameType
from typing import Any

from pet.engine.events import EventStorage, get_event_storage
from pet.engine.hooks.base import Hook, Phase

HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class Signals(Hook):
    """SIGTERM, SIGINT (Ctrl-C) and SIGUSR1 end the run after the running update, with a checkpoint and status 128 + N.

    The handler only sets a flag; it is read at step boundaries and between the batches of an evaluation. A second signal
    leaves at once, without saving.

    Args:
        repeat_s: seconds in which another signal is still the same request: a scheduler signals all processes of a job, and
            the launcher passes its own signal on besides.
    """

    phase = Phase.WRITE  # its handlers stay until after_train has written the last checkpoint

    def __init__(self, repeat_s: float = 2.0) -> None:
        self._repeat_s, self._received_at = repeat_s, 0.0
        self.received: int | None = None
        self._previous: dict[int, Any] = {}
        self._storage: EventStorage | None = None

    def before_train(self) -> None:
        """Install the handlers."""
        self._storage = get_event_storage()
        for number in HANDLED:
            self._previous[number] = signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            if monotonic() - self._received_at < self._repeat_s:
                return
            os.write(2, f"second signal ({signal.Signals(number).name}): leaving at once, without a checkpoint\n".encode())
            os._exit(128 + number)
        self.received, self._received_at = number, monotonic()
        if self._storage is not None:
            self._storage.request_stop(f"stopped by {signal.Signals(number).name}", 128 + number)

    def after_train(self, storage: EventStorage) -> None:
        """Put the previous handlers back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()
