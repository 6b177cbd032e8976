"""Signals: a request to stop from outside becomes a checkpoint and a clean end."""

from __future__ import annotations

import signal

from pet.engine import interruption
from pet.engine.events import EventStorage, get_event_storage
from pet.engine.hooks.base import Hook, Phase
from pet.engine.interruption import Interruption


class Signals(Hook):
    """SIGTERM, Ctrl-C and a scheduler's warning end the run after the running update, with a checkpoint and status 128 + N.

    A signal only sets a flag; it is read at step boundaries and between the batches of an evaluation. A second signal, two
    seconds later or more, leaves at once, without saving.

    Args:
        warning: name of the signal that a scheduler sends before it ends the job (``MISC.PREEMPT.SIGNAL``), without ``SIG``.
    """

    phase = Phase.WRITE  # its handlers stay until after_train has written the last checkpoint

    def __init__(self, warning: str = "USR1") -> None:
        self._signals = sorted({signal.SIGTERM, signal.SIGINT, warning_signal(warning)})
        self._own: Interruption | None = None

    def before_train(self) -> None:
        """Take over from what handled signals during the start, or install the handlers."""
        storage = get_event_storage()

        def request(number: int) -> None:
            storage.request_stop(f"stopped by {signal.Signals(number).name}", 128 + number)

        watched = interruption.active()
        if watched is not None:
            watched.begin(request)
        else:
            self._own = Interruption(request)
            self._own.start(self._signals)

    def after_train(self, storage: EventStorage) -> None:
        """Put the previous handlers back; those of a script stay, so that a repeated signal does not cut off its last words."""
        if self._own is not None:
            self._own.stop()
        elif (watched := interruption.active()) is not None:
            watched.over = True


def warning_signal(name: str) -> signal.Signals:
    """The signal called ``name``, e.g. ``USR1``."""
    return signal.Signals[f"SIG{name}"]
