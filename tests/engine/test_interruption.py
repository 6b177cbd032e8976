"""Signals before, in and after the loop of a script."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from pet.engine import interruption
from pet.engine.hooks.signals import Signals
from pet.engine.interruption import HANDLED
from tests.engine.toys import run
from tests.faults.toy import TermAt
from tests.helpers import REPOSITORY

# The second one computes in C for an hour and looks at no signal.
STARTS = {"python": "time.sleep(60)", "in C": "hashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)"}


def send_at_start(work: str, number: signal.Signals) -> tuple[int, str]:
    code = f"import hashlib, time\nfrom pet.engine import interruption\ninterruption.watch_start()\nprint('ready', flush=True)\n{work}"
    with subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, text=True, stdout=-1, stderr=-1) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        _, errors = process.communicate(timeout=20)
    return process.returncode, errors


@pytest.mark.parametrize("number", HANDLED, ids=lambda number: number.name)
def test_signal_during_the_start_ends_it_with_one_line(number: signal.Signals) -> None:
    line = f"stopped by {number.name}: nothing was lost: the run had not begun\n"
    assert send_at_start(STARTS["python"], number) == (128 + number, line)


def test_signal_during_the_start_is_answered_while_a_library_computes() -> None:
    assert send_at_start(STARTS["in C"], signal.SIGINT)[0] == 128 + signal.SIGINT


def test_the_loop_takes_over_what_watched_the_start() -> None:
    before = signal.getsignal(signal.SIGTERM)
    interruption.watch_start()
    try:
        storage = run([Signals(), TermAt(3)], updates=50)
        assert storage.last_update == 3
        os.kill(os.getpid(), signal.SIGTERM)  # sent once more, while the report is written
        time.sleep(0.1)
    finally:
        interruption.release()
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_signal_for_a_forked_process_is_not_one_for_its_parent() -> None:
    interruption.watch_start()
    try:
        child = os.fork()
        if child == 0:
            signal.pause()
        time.sleep(0.1)
        os.kill(child, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
    finally:
        interruption.release()


@pytest.mark.parametrize("warning", ["USR1", "USR2", "TERM"])
def test_the_warning_signal_is_a_key(warning: str) -> None:
    number = signal.Signals[f"SIG{warning}"]
    storage = run([Signals(warning), TermAt(2, number=number)], updates=50)
    assert storage.stop is not None
    assert (storage.last_update, storage.stop.status) == (2, 128 + number)
