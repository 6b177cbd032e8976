from __future__ import annotations

import hashlib
import os
import subprocess

import pytest

from pet.utils.files import atomic_text, atomic_write, disk_full, file_digest, remove_temporaries


def test_a_file_appears_whole(tmp_path):
    atomic_text(tmp_path / "a.txt", "äb")
    assert (tmp_path / "a.txt").read_bytes() == "äb".encode()
    assert os.listdir(tmp_path) == ["a.txt"]


def test_an_error_leaves_the_old_file_and_no_temporary(tmp_path):
    path = tmp_path / "a.txt"
    atomic_text(path, "old")
    with pytest.raises(ValueError, match="stop"), atomic_write(path) as handle:
        handle.write(b"half")
        raise ValueError("stop")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_left_overs_of_dead_processes_are_removed_and_those_of_living_ones_stay(tmp_path):
    dead, alive = tmp_path / "m.pth.tmp-pet-999999999", tmp_path / f"m.pth.tmp-pet-{os.getppid()}"
    dead.touch()
    alive.touch()
    assert remove_temporaries(tmp_path) == [dead.name]
    assert alive.exists()


def test_left_overs_of_a_killed_process_that_nobody_has_waited_for_are_removed(tmp_path):
    with subprocess.Popen(["sleep", "60"]) as process:
        (tmp_path / f"m.pth.tmp-pet-{process.pid}").touch()
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it is a zombie now
        assert remove_temporaries(tmp_path) == [f"m.pth.tmp-pet-{process.pid}"]


def test_a_full_disk_is_told_with_file_and_free_space(tmp_path):
    error = disk_full(tmp_path / "m.pth", OSError(28, "No space left on device"))
    assert error.errno == 28
    assert str(tmp_path / "m.pth") in str(error)
    assert "MiB free" in str(error)


def test_digest(tmp_path):
    (tmp_path / "x").write_bytes(b"abc" * 1000)
    assert file_digest(tmp_path / "x") == hashlib.sha256(b"abc" * 1000).hexdigest()
