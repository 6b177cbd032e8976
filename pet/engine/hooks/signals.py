"""Signals: a request to stop from outside becomes a checkpoint and a clean end."""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import Any

from pet.engine.events import EventStorage
from pet.engine.hooks.base import Hook, Phase

HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class Signals(Hook):
    """SIGTERM, SIGINT (Ctrl-C) and SIGUSR1 end the run after the running update, with a checkpoint and status 128 + N.

    The handler only sets a flag; it is read at step boundaries and between the batches of an evaluation. A second signal
    leaves at once, without saving.
    """

    phase = Phase.UPDATE

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, Any] = {}
        self._storage: EventStorage | None = None

    def before_train(self) -> None:
        """Install the handlers."""
        from pet.engine.events import get_event_storage

        self._storage = get_event_storage()
        for number in HANDLED:
            self._previous[number] = signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            os.write(2, f"second signal ({signal.Signals(number).name}): leaving at once, without a checkpoint\n".encode())
            os._exit(128 + number)
        self.received = number
        if self._storage is not None:
            self._storage.request_stop(f"stopped by {signal.Signals(number).name}", 128 + number)

    def after_train(self, storage: EventStorage) -> None:
        """Put the previous handlers back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()
