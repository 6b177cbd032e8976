"""``--overfit-batch N``: learn the batches of the first N updates by heart, the usual test that a model can learn at all."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from pet.config import CfgNode
from pet.config.loader import load_text
from pet.config.node import COMMAND_LINE
from pet.config.rules import EPOCHS_OR_ITERS
from pet.utils.metrics_file import read_rows

FLAG = "--overfit-batch"
# A few hundred updates at a constant rate answer the question; what the command line says otherwise wins.
_SETTINGS: dict[str, Any] = {
    "SOLVER.SCHEDULER.TOTAL_EPOCHS": None,
    "SOLVER.SCHEDULER.TOTAL_ITERS": 200,
    "SOLVER.SCHEDULER.POLICY": "CONSTANT",
    "SOLVER.SCHEDULER.STEPS": (),
    "SOLVER.SCHEDULER.WARM_UP_EPOCHS": None,
    "SOLVER.SCHEDULER.WARM_UP_ITERS": 0,
    "SOLVER.SNAPSHOT_EPOCHS": None,
    "SOLVER.SNAPSHOT_ITER": 0,
    "EVAL.PERIOD_EPOCHS": None,
    "EVAL.PERIOD_ITERS": 0,
    "EVAL.BEST.METRIC": "",
    "EVAL.EARLY_STOPPING.ENABLED": False,
    "TEST.DATASETS": ("overfit",),
    "TRAIN.AUTO_RESUME": False,
}
_TYPED = (COMMAND_LINE, "--work-dir", "--resume")
# Share of the first loss that is left: learnt, falling well, and no more than noise.
_LEARNT, _FALLING, _SAME = 0.1, 0.5, 0.95


def set_overfit(cfg: CfgNode, batches: int) -> None:
    """What the flag means, as config values; they leave alone what the command line set."""
    cfg.set("DATA.OVERFIT_BATCHES", batches, FLAG)
    epochs_of = {iters: epochs for epochs, iters in EPOCHS_OR_ITERS}
    for name, value in _SETTINGS.items():
        # A length in updates has no place beside one in epochs.
        typed = {cfg.origin(name), cfg.origin(epochs_of.get(name, name))} & set(_TYPED)
        if not typed:
            cfg.set(name, value, FLAG)


def use_own_folder(cfg: CfgNode) -> None:
    """Keep the run away from the folder of the real one, unless the command line names the folder."""
    if cfg.origin("MISC.CKPT") not in _TYPED:
        cfg.set("MISC.CKPT", f"{cfg.MISC.CKPT.rstrip('/')}_overfit", f"{FLAG}: beside the folder of the real run")


def check_resumed(cfg: CfgNode, then: str) -> None:
    """Refuse to continue a run that saw other batches.

    Args:
        cfg: of this run.
        then: config text in the checkpoint.

    Raises:
        ValueError: DATA.OVERFIT_BATCHES differs.
    """
    saved = load_text(then, "the config in the checkpoint").data
    before, now = (saved.get("DATA") or {}).get("OVERFIT_BATCHES", 0), cfg.DATA.OVERFIT_BATCHES
    if before != now:
        kinds = [f"{FLAG} {count}" if count else f"without {FLAG}" for count in (before, now)]
        raise ValueError(
            f"the checkpoint to continue was trained {kinds[0]}, this run is {kinds[1]}; a run that learns some batches by heart "
            "continues no other run, and none continues it. Choose another --work-dir, or start from the weights with --load-from"
        )


def verdict(cfg: CfgNode) -> str:
    """What the losses in metrics.json say at the end of a run with DATA.OVERFIT_BATCHES."""
    count = cfg.DATA.OVERFIT_BATCHES
    losses = _losses(Path(cfg.MISC.CKPT) / "metrics.json")
    if not losses:
        return "Overfit: no loss was recorded"
    (first_at, first), (last_at, last) = losses[0], losses[-1]
    text = (
        f"Overfit {count} batch{'es' if count > 1 else ''}: loss {first:.4g} at update {first_at}, {last:.4g} at update {last_at}"
    )
    if not math.isfinite(last):
        return f"{text}. FAILED: it is not finite; lower SOLVER.OPTIMIZER.BASE_LR"
    share = last / first if first > 0 else math.inf
    if share <= _LEARNT:
        return f"{text} ({share:.1%}). PASSED: the model can learn these pictures by heart"
    if share <= _FALLING:
        return f"{text} ({share:.1%}). It falls; raise SOLVER.SCHEDULER.TOTAL_ITERS to see whether it goes on towards 0"
    advice = (
        "look at the labels in vis/train_samples.png, and change SOLVER.OPTIMIZER.BASE_LR by factors of 10; strong "
        "regularisation (dropout, label smoothing, mixup) keeps a loss up, too"
    )
    if share < _SAME:
        return f"{text}. It falls too little (to {share:.1%}): give it more updates (SOLVER.SCHEDULER.TOTAL_ITERS), or {advice}"
    return f"{text} ({share:.1%}). FAILED: it does not fall; {advice}"


def _losses(path: Path) -> list[tuple[int, float]]:
    """Update and total loss of each row that has one; JSON has no NaN, so ``null`` stands for what is not finite."""
    if not path.is_file():
        return []
    found = [(row["iteration"], row["total_loss"]) for row in read_rows(path) if "total_loss" in row]
    return [(update, math.nan if value is None else value) for update, value in found]
