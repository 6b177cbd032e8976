"""Training under a real Open MPI on this machine; ``make cluster`` installs it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.compare import run_differences
from tests.faults.experiment import reference, write_experiment
from tests.helpers import REPOSITORY

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.distributed,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("mpirun") is None, reason="mpirun not installed; make cluster does that"),
]

LIMIT_S = 300.0
MPIRUN = ["mpirun", "-np", "2", "--allow-run-as-root", "--oversubscribe"]


def test_two_processes_of_mpirun_are_those_of_the_launcher(tmp_path: Path) -> None:
    cfg = write_experiment(tmp_path)
    reference(cfg, tmp_path / "expected", nproc=2)
    script = [sys.executable, "tools/tasks/cls/train_net.py", "--launcher", "mpi", "--cfg", str(cfg)]
    done = subprocess.run(
        [*MPIRUN, *script, "--work-dir", str(tmp_path / "run"), "MISC.DEVICE", "cpu"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert run_differences(tmp_path / "expected", tmp_path / "run") == []
