"""When a checkpoint is written, and how its file is named."""

from __future__ import annotations

from pathlib import Path

from pet.engine.checkpoint_file import read_checkpoint
from tests.faults.toy import PER_EPOCH, UPDATES, TermAt, train

BY_EPOCH = {"SOLVER__SNAPSHOT_EPOCHS": 1, "SOLVER__SNAPSHOT_ITER": 0, "SOLVER__SNAPSHOT_KEEP": 0}


def saved(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("model_*.pth") if not path.is_symlink()} - {"model_best.pth"}


def test_files_of_whole_epochs_carry_the_number_of_the_epoch(tmp_path: Path) -> None:
    train(tmp_path, [TermAt(PER_EPOCH + 2)], **BY_EPOCH)
    assert saved(tmp_path) == {"model_epoch1.pth", f"model_iter{PER_EPOCH + 2}.pth"}
    train(tmp_path, **BY_EPOCH)
    assert saved(tmp_path) == {f"model_iter{PER_EPOCH + 2}.pth", *(f"model_epoch{number}.pth" for number in (1, 2, 3))}
    assert (tmp_path / "model_latest.pth").resolve().name == "model_epoch3.pth"


def test_a_checkpoint_says_how_many_updates_and_epochs_it_holds(tmp_path: Path) -> None:
    train(tmp_path, [TermAt(PER_EPOCH + 2)], **BY_EPOCH)
    for name, updates in (("model_epoch1", PER_EPOCH), ("model_latest", PER_EPOCH + 2)):
        meta = read_checkpoint(tmp_path / f"{name}.pth")["meta"]
        assert (meta["iteration"], meta["epoch"]) == (updates, round(updates / PER_EPOCH, 4))


def test_period_zero_saves_the_last_update_only(tmp_path: Path) -> None:
    train(tmp_path, EVAL__PERIOD_EPOCHS=None, EVAL__PERIOD_ITERS=0, SOLVER__SNAPSHOT_ITER=0, SOLVER__SNAPSHOT_KEEP=0)
    assert saved(tmp_path) == {f"model_iter{UPDATES}.pth"}
