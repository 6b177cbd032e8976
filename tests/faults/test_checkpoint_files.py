"""A checkpoint file that was damaged, cut or half written is never used, and one good file always remains."""

from __future__ import annotations

import os
import random
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pet.engine import checkpoint_file
from pet.engine.checkpoint_file import DamagedCheckpoint, digest_path, read_checkpoint, write_checkpoint
from pet.engine.checkpointer import CheckPointer
from pet.engine.weights import read_weights
from pet.utils import files
from tests.faults.toy import TermAt, train

pytestmark = pytest.mark.faults

KILLED = 9


def save(folder: Path, number: int, **parts: Any) -> Path:
    """A small complete checkpoint, as ``CheckPointer`` leaves it."""
    folder.mkdir(exist_ok=True)
    state = {
        "format": 1,
        "model": {"weight": torch.full((64, 8), float(number))},
        "optimizer": {},
        "scheduler": {"iteration": number + 1},
        "rng": [],
        "meta": {"iteration": number},
        **parts,
    }
    path = folder / f"model_iter{number}.pth"
    write_checkpoint(state, path)
    checkpoint_file.point_latest(folder, path)
    return path


def resumed_update(folder: Path) -> int:
    """Which update a run in this folder would continue from; 0: it would start afresh."""
    return CheckPointer(folder).start_iter - 1


# ------------------------------------------------------------------------------------------------- damaged content


def test_one_flipped_bit_falls_back_100_of_100_times(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(tmp_path, 1)
    newest = save(tmp_path, 2)
    content, rng = newest.read_bytes(), random.Random(0)
    for _ in range(100):
        place, bit = rng.randrange(len(content)), rng.randrange(8)
        damaged = bytearray(content)
        damaged[place] ^= 1 << bit
        newest.write_bytes(damaged)
        caplog.clear()
        assert resumed_update(tmp_path) == 1, f"bit {bit} of byte {place} went unnoticed"
        assert len(texts := [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]) == 1
        assert "model_iter2.pth does not match its checksum" in texts[0]
        assert texts[0].endswith(f"Falling back to the previous good checkpoint {tmp_path / 'model_iter1.pth'}")
    newest.write_bytes(content)
    assert resumed_update(tmp_path) == 2


def test_file_cut_at_any_length_falls_back_100_of_100_times(tmp_path: Path) -> None:
    save(tmp_path, 1)
    newest = save(tmp_path, 2)
    content, rng = newest.read_bytes(), random.Random(1)
    for length in [0, 1, len(content) - 1, *(rng.randrange(len(content)) for _ in range(97))]:
        newest.write_bytes(content[:length])
        assert resumed_update(tmp_path) == 1, f"a file cut at {length} of {len(content)} bytes was accepted"


def test_without_its_checksum_a_damaged_file_is_still_found_by_its_zip_records(tmp_path: Path) -> None:
    save(tmp_path, 1)
    newest = save(tmp_path, 2)
    digest_path(newest).unlink()
    assert resumed_update(tmp_path) == 2
    with open(newest, "r+b") as handle:
        handle.seek(newest.read_bytes().index(torch.full((4,), 2.0).numpy().tobytes()))
        handle.write(b"\x01")
    assert resumed_update(tmp_path) == 1


def test_damaged_checksum_file_falls_back(tmp_path: Path) -> None:
    save(tmp_path, 1)
    newest = save(tmp_path, 2)
    for text in ("", "0" * 64, "not a checksum\n"):
        digest_path(newest).write_text(text)
        assert resumed_update(tmp_path) == 1
    digest_path(newest).write_bytes(b"\xff\xfe\x00")
    assert resumed_update(tmp_path) == 1


def test_nothing_usable_is_an_error_that_names_every_file_and_the_way_out(tmp_path: Path) -> None:
    for number in (1, 2):
        save(tmp_path, number).write_bytes(b"")
    with pytest.raises(ValueError, match=r"model_iter2\.pth.*model_iter1\.pth.*--resume PATH.*TRAIN\.AUTO_RESUME False"):
        resumed_update(tmp_path)


def test_run_that_falls_back_keeps_the_good_file_until_a_newer_one_is_complete(tmp_path: Path) -> None:
    train(tmp_path, [TermAt(7)])
    newest = tmp_path / "model_iter7.pth"
    newest.write_bytes(newest.read_bytes()[:-100])
    assert train(tmp_path, [TermAt(7)]).updates == 1, "updates 1 to 6 come from model_iter6.pth"
    assert read_checkpoint(newest)["meta"]["iteration"] == 7
    newest.write_bytes(b"")
    assert train(tmp_path).updates == 6


# --------------------------------------------------------------------------------------------------------- pointer


@pytest.mark.parametrize("kind", ["missing", "dangling", "outside", "garbage", "empty", "folder", "circular"])
def test_pointer_that_names_no_good_file_falls_back_to_the_newest(kind: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    save(run, 1)
    save(run, 2)
    outside = save(tmp_path / "elsewhere", 9)
    latest = run / "model_latest.pth"
    latest.unlink()
    if kind in ("garbage", "empty"):
        latest.write_bytes(b"model_iter1.pth" if kind == "garbage" else b"")
    elif kind == "folder":
        latest.mkdir()
    elif kind != "missing":
        latest.symlink_to({"dangling": "model_iter7.pth", "outside": outside, "circular": "model_latest.pth"}[kind])
    assert resumed_update(run) == 2


def test_pointer_may_be_a_copy_where_links_do_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "symlink", refuse)
    monkeypatch.setattr(os, "link", refuse)
    newest = save(tmp_path, 3)
    assert not (tmp_path / "model_latest.pth").is_symlink()
    assert resumed_update(tmp_path) == 3
    checkpoint_file.keep_best(newest, tmp_path)
    assert read_checkpoint(tmp_path / "model_best.pth")["meta"]["iteration"] == 3


# ------------------------------------------------------------------------------------------------------ kill -9


def save_until_killed(folder: Path, die_at: int, after: bool) -> int:
    """Save in a child that dies, like after SIGKILL, before or after one of its calls to the file system; its exit status."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn about a fork beside threads
        child = os.fork()
    if child == 0:
        count_calls(folder, die_at, after)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def count_calls(folder: Path, die_at: int = -1, after: bool = False) -> list[str]:
    """The calls to the file system that a save makes, in order."""
    calls: list[str] = []

    def wrap(original: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            if len(calls) - 1 == die_at and not after:
                os._exit(KILLED)
            result = original(*args, **kwargs)
            if len(calls) - 1 == die_at:
                os._exit(KILLED)
            return result

        return call

    with pytest.MonkeyPatch.context() as patch:
        for module, name in ((os, "replace"), (os, "fsync"), (os, "symlink"), (os, "link"), (Path, "unlink")):
            patch.setattr(module, name, wrap(getattr(module, name), name))
        writer = checkpoint_file._HashingWriter
        patch.setattr(writer, "write", wrap(writer.write, "write"))
        third_save(folder)
    return calls


def third_save(folder: Path) -> None:
    """One save with everything that follows it: pointer, best, retention."""
    path = save(folder, 3)
    checkpoint_file.keep_best(path, folder)
    checkpoint_file.prune(folder, 2)


def two_checkpoints(folder: Path) -> Path:
    for number in (1, 2):
        path = save(folder, number)
    checkpoint_file.keep_best(path, folder)
    return folder


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_kill_at_any_stage_of_a_save_leaves_a_good_checkpoint(after: bool, tmp_path: Path) -> None:
    calls = count_calls(two_checkpoints(tmp_path / "counted"))
    assert len(calls) >= 10
    assert {"write", "fsync", "replace", "symlink", "link"} <= set(calls)
    writes = [stage for stage, name in enumerate(calls) if name == "write"]
    stages = [writes[0], writes[len(writes) // 2], writes[-1], *(s for s, name in enumerate(calls) if name != "write")]
    for stage in stages:
        folder = two_checkpoints(tmp_path / f"stage{stage}")
        assert save_until_killed(folder, stage, after) == KILLED
        assert resumed_update(folder) in (2, 3), f"killed at call {stage} of {calls}"
        assert list(folder.glob("*.tmp-pet-*")) == [], "temporaries are removed at the next start"
        third_save(folder)
        assert resumed_update(folder) == 3
        assert read_checkpoint(folder / "model_best.pth")["meta"]["iteration"] == 3
        assert sorted(path.name for path in folder.glob("model_iter*.pth")) == ["model_iter2.pth", "model_iter3.pth"]
        shutil.rmtree(folder)


def test_temporaries_of_a_living_process_stay(tmp_path: Path) -> None:
    save(tmp_path, 1)
    alive, dead = tmp_path / f"x{files.TEMPORARY}{os.getppid()}", tmp_path / f"x{files.TEMPORARY}999999999"
    for path in (alive, dead):
        path.touch()
    resumed_update(tmp_path)
    assert alive.exists()
    assert not dead.exists()


# ------------------------------------------------------------------------------------------------------- retention


def test_retention_never_removes_what_the_pointer_names(tmp_path: Path) -> None:
    for number in range(1, 6):
        save(tmp_path, number)
    checkpoint_file.point_latest(tmp_path, tmp_path / "model_iter1.pth")
    checkpoint_file.prune(tmp_path, 2)
    left = sorted(path.name for path in tmp_path.glob("model_iter*"))
    assert left == sorted(f"model_iter{n}.pth{suffix}" for n in (1, 4, 5) for suffix in ("", ".sha256"))


def test_at_least_two_checkpoints_are_kept(tmp_path: Path) -> None:
    train(tmp_path, SOLVER__SNAPSHOT_KEEP=1)
    assert len(list(tmp_path.glob("model_iter*.pth"))) == 2


# ------------------------------------------------------------------------------------------------------- hostile


class Payload:
    """Pickled, it runs a command when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self._mark}",)


@pytest.fixture
def hostile(tmp_path: Path) -> Iterator[Path]:
    path, mark = tmp_path / "hostile.pth", tmp_path / "executed"
    torch.save({"model": {"weight": torch.ones(1)}, "extra": Payload(mark)}, path)
    yield path
    assert not mark.exists(), "the file was executed"


def test_hostile_checkpoint_is_refused_and_not_executed(hostile: Path) -> None:
    with pytest.raises(DamagedCheckpoint, match="cannot be loaded"):
        read_checkpoint(hostile)
    with pytest.raises(DamagedCheckpoint, match=r"hostile\.pth"):
        read_weights(hostile)
    with pytest.raises(DamagedCheckpoint):
        CheckPointer(hostile.parent / "run", resume_from=hostile)


def test_hostile_newest_checkpoint_is_passed_over(hostile: Path) -> None:
    save(hostile.parent, 1)
    shutil.copy(hostile, hostile.parent / "model_iter5.pth")
    (hostile.parent / "model_latest.pth").unlink()
    assert resumed_update(hostile.parent) == 1


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"PK\x03\x04", b"\x80\x04."], ids=["empty", "text", "half a zip", "old pickle"]
)
def test_file_that_is_no_checkpoint_is_refused_with_its_name(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "strange.pth"
    path.write_bytes(content)
    with pytest.raises(DamagedCheckpoint, match=r"strange\.pth"):
        read_checkpoint(path)


def test_a_damaged_file_does_not_count_among_those_that_are_kept(tmp_path):
    for number in (1, 2, 3):
        checkpoint_file.write_checkpoint({"n": number}, tmp_path / f"model_iter{number}.pth")
        checkpoint_file.point_latest(tmp_path, tmp_path / f"model_iter{number}.pth")
    checkpoint_file.prune(tmp_path, 2, damaged=[tmp_path / "model_iter2.pth"])
    assert sorted(path.name for path in tmp_path.glob("model_iter*.pth")) == ["model_iter1.pth", "model_iter3.pth"]
