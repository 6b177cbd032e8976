"""Nothing is sent anywhere: a process that imports Pet and trains opens no connection."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.experiment import write_experiment
from tests.helpers import run_cli

pytestmark = [pytest.mark.faults, pytest.mark.slow]

# The interpreter tells its hooks about every socket, name look-up and child process, whoever asks for them.
_WATCHED = """
import runpy, sys

def watch(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.bind", "socket.getaddrinfo", "socket.gethostbyname", "urllib.Request"):
        if not str(arguments[-1]).startswith(("/", "b'/", "('127.0.0.1'")):
            print("WATCHED", event, arguments, file=sys.stderr)
    if event in ("subprocess.Popen", "os.system") and "tensorboard" in str(arguments).lower():
        print("WATCHED", event, arguments, file=sys.stderr)

sys.addaudithook(watch)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_training_and_its_imports_open_no_connection_and_start_no_tensorboard(tmp_path: Path) -> None:
    few = ["SOLVER.SCHEDULER.TOTAL_EPOCHS", "1", "DATA.LOADER_THREADS", "1", "EVAL.PERIOD_EPOCHS", "1"]
    cfg, run = write_experiment(tmp_path), tmp_path / "run"
    done = run_cli(["-c", _WATCHED, "tools/tasks/cls/train_net.py", "--cfg", cfg, "--work-dir", run, *few], timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WATCHED" not in done.stderr, done.stderr
    assert (run / "finished.json").is_file()


def test_the_watch_sees_a_connection(tmp_path: Path) -> None:
    script = tmp_path / "phone_home.py"
    script.write_text(
        "import socket\ns = socket.socket()\ns.settimeout(0.01)\ntry: s.connect(('192.0.2.1', 80))\nexcept OSError: pass\n"
    )
    assert "WATCHED socket.connect" in run_cli(["-c", _WATCHED, script]).stderr
