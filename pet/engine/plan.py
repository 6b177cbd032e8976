"""What a run will need, known before its first update; and the folder of a run that only rehearses."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from pet.config import CfgNode
from pet.engine import checkpoint_file, interruption

_scratch: list[Path] = []


def period_of(epochs: int | None, iters: int, iter_per_epoch: int) -> tuple[int, str]:
    """A pair of keys ``X_EPOCHS`` / ``X_ITERS`` as updates (0: only at the end), and the unit: ``epoch`` or ``iter``."""
    return (iters, "iter") if epochs is None else (epochs * iter_per_epoch, "epoch")


# ------------------------------------------------------------------------------------------------------------- folders


def existing_parent(folder: Path) -> Path:
    """``folder`` itself, or the nearest folder above it that exists."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def resumable(cfg: CfgNode) -> str:
    """The checkpoint that a run would continue from, empty for none; looks, and changes nothing.

    Raises:
        DamagedCheckpoint: no checkpoint of the folder is intact.
    """
    folder = Path(cfg.MISC.CKPT)
    if cfg.TRAIN.RESUME_FROM or not cfg.TRAIN.AUTO_RESUME or not folder.is_dir():
        return str(cfg.TRAIN.RESUME_FROM)
    candidates, _ = checkpoint_file.resume_candidates(folder)
    damage: checkpoint_file.DamagedCheckpoint | None = None
    for path in candidates:
        try:
            checkpoint_file.verify_checkpoint(path)
        except checkpoint_file.DamagedCheckpoint as error:
            damage = damage or error
        else:
            return str(path)
    if damage is not None:
        raise damage
    return ""


def use_scratch_folder(cfg: CfgNode) -> None:
    """Let a dry run write into a temporary folder of this process, and continue what the real folder holds."""
    folder, scratch = cfg.MISC.CKPT, Path(tempfile.mkdtemp(prefix="pet_dry_run_"))
    _scratch.append(scratch)
    interruption.before_leaving(remove_scratch_folders)
    start = resumable(cfg)
    if start:
        cfg.set("TRAIN.RESUME_FROM", str(Path(start).absolute()), "--dry-run: the newest checkpoint of the run")
    cfg.set("MISC.CKPT", str(scratch), f"--dry-run: instead of {folder}, which is left as it is")


def remove_scratch_folders() -> None:
    """Remove what ``use_scratch_folder`` made."""
    while _scratch:
        shutil.rmtree(_scratch.pop(), ignore_errors=True)


# ----------------------------------------------------------------------------------------------------------- estimates


def mib(state: Any) -> float:
    """Size of all tensors of a nested state in MiB."""
    return checkpoint_file.size_of(state) / 2**20


def planned_files(cfg: CfgNode, updates: int, iter_per_epoch: int) -> int:
    """How many checkpoints lie on the disk at most, while the last one is being written.

    Args:
        cfg: reads SOLVER.SNAPSHOT_* and EVAL.BEST.
        updates: length of the run.
        iter_per_epoch: updates of an epoch.
    """
    period, _ = period_of(cfg.SOLVER.SNAPSHOT_EPOCHS, cfg.SOLVER.SNAPSHOT_ITER, iter_per_epoch)
    written = -(-updates // period) if period else 1
    keep = cfg.SOLVER.SNAPSHOT_KEEP
    kept = min(written, max(keep, 2) + 1) if keep else written
    return kept + bool(cfg.EVAL.BEST.METRIC and cfg.EVAL.ENABLED)
