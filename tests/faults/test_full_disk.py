"""A full disk or an unusable folder: said at once, with the file and the space, and nothing good is lost."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pet.engine.checkpoint_file import read_checkpoint, write_checkpoint
from tests.faults.experiment import write_experiment
from tests.faults.test_checkpoint_files import resumed_update, save
from tests.faults.toy import TermAt, train
from tests.helpers import run_cli

pytestmark = pytest.mark.faults


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """The system refuses to make a file larger than ``size`` bytes, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("model_*")}


@pytest.mark.parametrize("limit", [0, 1, 100, 1000, 3000])
def test_save_on_a_full_disk_names_file_and_space_and_keeps_the_old_ones(limit: int, tmp_path: Path) -> None:
    save(tmp_path, 1)
    before = snapshot(tmp_path)
    with file_size_limit(limit), pytest.raises(OSError, match=r"model_iter2\.pth.*MiB free in .*intact.*resume") as caught:
        save(tmp_path, 2)
    assert caught.value.errno in (errno.EFBIG, errno.ENOSPC)
    assert snapshot(tmp_path) == before
    assert list(tmp_path.glob("*.tmp-pet-*")) == []
    assert resumed_update(tmp_path) == 1


def test_run_on_a_full_disk_stops_and_resumes_when_there_is_space(tmp_path: Path) -> None:
    train(tmp_path, [TermAt(2)])
    with file_size_limit(5000), pytest.raises(OSError, match=r"model_iter3\.pth"):
        train(tmp_path)
    assert resumed_update(tmp_path) == 2
    assert train(tmp_path).updates == 10


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


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, text=True)
    if made.returncode != 0:
        pytest.skip(f"cannot mount a small file system: {made.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_save_on_a_small_file_system_keeps_the_old_checkpoint(small_disk: Path) -> None:
    state: dict[str, Any] = {"noise": os.urandom(400_000).hex()}
    write_checkpoint({"small": 1}, small_disk / "model_iter1.pth")
    (small_disk / "ballast").write_bytes(bytes(600_000))
    with pytest.raises(OSError, match=r"No space left on device, 0 MiB free") as caught:
        write_checkpoint(state, small_disk / "model_iter2.pth")
    assert caught.value.errno == errno.ENOSPC
    assert read_checkpoint(small_disk / "model_iter1.pth") == {"small": 1}
    assert sorted(path.name for path in small_disk.glob("model*")) == ["model_iter1.pth", "model_iter1.pth.sha256"]
