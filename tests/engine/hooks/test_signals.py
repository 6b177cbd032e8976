from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from pet.engine.events import EventStorage
from pet.engine.hooks.base import Hook
from pet.engine.hooks.signals import Signals
from tests.engine.toys import run
from tests.helpers import REPOSITORY


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_ends_the_run_after_the_running_update(number):
    class Send(Hook):
        def before_step(self, storage: EventStorage) -> None:
            if storage.iteration == 3:
                os.kill(os.getpid(), number)

    storage = run([Signals(), Send()], updates=50)
    assert storage.last_update == 3
    assert storage.stop is not None
    assert storage.stop.status == 128 + number
    assert storage.stop.reason == f"stopped by {number.name}"


def test_the_handlers_of_before_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    run([Signals()], updates=1)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_second_signal_leaves_at_once():
    code = """
import os, signal, time
from pet.engine import interruption
from pet.engine.events import EventStorage
from pet.engine.hooks.signals import Signals
interruption.REPEAT_S = 0.0
with EventStorage():
    hook = Signals()
    hook.before_train()
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert done.returncode == 130
    assert "stopped by SIGINT: the second signal; left at once" in done.stderr


def test_copies_of_a_signal_are_one_request():
    class SendTwice(Hook):
        def before_step(self, storage: EventStorage) -> None:
            if storage.iteration == 2:
                os.kill(os.getpid(), signal.SIGTERM)
                os.kill(os.getpid(), signal.SIGTERM)

    assert run([Signals(), SendTwice()], updates=50).last_update == 2
