"""What a user of a script sees when the disk is full; ``tests/faults/files.py`` (F17, F18) looks at the files."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.experiment import write_experiment
from tests.helpers import run_cli

pytestmark = pytest.mark.faults


@pytest.mark.slow
@pytest.mark.parametrize(("words", "file"), [(["VIS.ENABLED", "False"], "model_iter3.pth"), ([], "tensorboard_log")], ids=["checkpoint", "log"])
def test_script_on_a_full_disk_ends_with_1_and_the_command_that_resumes(words: list[str], file: str, tmp_path: Path) -> None:
    cfg, run = write_experiment(tmp_path), tmp_path / "run"
    limited = "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (60000, 60000)); sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    command = ["-c", limited, "tools/tasks/cls/train_net.py", "--cfg", cfg, "--work-dir", run, "DATA.LOADER_THREADS", "0", *words]
    done = run_cli(command, timeout=120)
    assert done.returncode == 1
    assert f"cannot write {run}/{file}: File too large" in done.stderr
    assert "MiB free" in done.stderr
    assert "Continue with: python tools/tasks/cls/train_net.py" in done.stdout
    assert "--resume" in done.stdout
    assert list(run.glob("*.tmp-pet-*")) == []
