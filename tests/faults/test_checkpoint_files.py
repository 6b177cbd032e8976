"""What is accepted as a checkpoint, and which files stay; ``tests/faults/files.py`` damages and kills at random."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
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


def save(folder: Path, number: int, **parts: Any) -> Path:
    """A small complete checkpoint, as ``CheckPointer`` leaves it."""
    folder.mkdir(exist_ok=True)
    state = {
        "format": 2,
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
