"""build_train_hooks: the one place that says which hooks run."""

from __future__ import annotations

import importlib
import inspect
import logging
import os
import sys
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pet.config import CfgNode
from pet.engine.checkpointer import CheckPointer
from pet.engine.evaluation import Evaluation
from pet.engine.hooks.base import Hook
from pet.engine.hooks.buffers import AverageBuffers
from pet.engine.hooks.checkpoint import Checkpoint
from pet.engine.hooks.dry_run import DryRun
from pet.engine.hooks.ema import EMA
from pet.engine.hooks.evaluate import Best, EarlyStopping, Evaluate
from pet.engine.hooks.finite import FiniteGuard, Rollback
from pet.engine.hooks.lr_scheduler import LRScheduler
from pet.engine.hooks.precise_bn import PreciseBN
from pet.engine.hooks.profiler import Profiler
from pet.engine.hooks.samples import SampleIds
from pet.engine.hooks.signals import Signals
from pet.engine.hooks.timer import IterationTimer
from pet.engine.hooks.writer import PeriodicWriter
from pet.engine.plan import period_of
from pet.engine.writers import ConsoleWriter, EventWriter, JSONWriter, PictureWriter, TensorBoardWriter
from pet.utils import comm
from pet.utils.labels import compare_names
from pet.utils.logger import logging_rank
from pet.utils.suggest import did_you_mean


@dataclass(frozen=True)
class RunParts:
    """What hooks may work with; a custom hook names the ones it wants as parameters of its constructor.

    Attributes:
        cfg, model, optimizer, scheduler, checkpointer, loader: as the script builds them.
        domain: the module with the domain's functions.
        device: where the model is.
        ema: averaged weights, or ``None``.
    """

    cfg: CfgNode
    model: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: Any
    checkpointer: CheckPointer
    loader: Any
    domain: Any
    device: torch.device
    ema: Any = None


def build_train_hooks(parts: RunParts, evaluation: Evaluation | None) -> list[Hook]:
    """The hooks of a run; a script may append its own.

    Args:
        parts: see ``RunParts``.
        evaluation: what to measure during training; ``None``: nothing.
    """
    cfg, per_epoch = parts.cfg, parts.loader.iter_per_epoch
    hooks: list[Hook] = [IterationTimer(), LRScheduler(parts.optimizer, parts.scheduler)]
    if cfg.MISC.PROFILER.ENABLED and comm.is_main_process():
        profiler = cfg.MISC.PROFILER
        hooks.insert(0, Profiler(Path(cfg.MISC.CKPT) / "profile", profiler.START_ITER, profiler.NUM_ITER, parts.device.type))
    if cfg.MISC.PARALLEL.BUFFERS == "average" and comm.get_world_size() > 1:
        hooks.append(AverageBuffers(parts.model))
    if parts.ema is not None:
        parts.checkpointer.track(ema=parts.ema)
        hooks.append(EMA(parts.ema))
    if cfg.TEST.PRECISE_BN.ENABLED:
        period = cfg.TEST.PRECISE_BN.PERIOD or per_epoch
        hooks.append(
            PreciseBN(
                parts.model,
                parts.domain.forward_train,
                _training_batches(parts),
                parts.device,
                period,
                cfg.TEST.PRECISE_BN.NUM_ITER,
            )
        )
    save_period, infix = period_of(cfg.SOLVER.SNAPSHOT_EPOCHS, cfg.SOLVER.SNAPSHOT_ITER, per_epoch)
    eval_period, _ = period_of(cfg.EVAL.PERIOD_EPOCHS, cfg.EVAL.PERIOD_ITERS, per_epoch)
    keeps_best = evaluation is not None and bool(cfg.EVAL.BEST.METRIC)
    periods = (save_period, eval_period) if keeps_best else (save_period,)
    guard = FiniteGuard(parts.optimizer, _rollback(parts), (eval_period,) if evaluation is not None else ())
    checkpoint = Checkpoint(
        parts.checkpointer, parts.model, parts.optimizer, parts.scheduler, periods, infix, check=guard.check_weights
    )
    hooks += [guard, Signals(cfg.MISC.PREEMPT.SIGNAL), checkpoint]
    if evaluation is not None:
        check_same_classes(getattr(parts.loader, "dataset", None), evaluation)
        hooks += _evaluation_hooks(parts, evaluation, eval_period)
    if cfg.MISC.LOG_SAMPLE_IDS:
        hooks.append(SampleIds())
    hooks += build_custom_hooks(parts)
    if cfg.MISC.DRY_RUN:
        hooks.append(DryRun(cfg, parts.model, parts.optimizer, parts.loader, parts.ema))
    hooks.append(PeriodicWriter(build_writers(parts) if comm.is_main_process() else []))
    return hooks


def _rollback(parts: RunParts) -> Rollback | None:
    guard = parts.cfg.SOLVER.NON_FINITE
    if guard.POLICY != "rollback":
        return None
    return Rollback(partial(parts.checkpointer.go_back, parts.model, parts.optimizer), guard.MAX_ROLLBACKS)


def _training_batches(parts: RunParts) -> Callable[[int], Iterable[Any]]:
    """Micro-batches of this rank from an update on, from a loader of their own."""

    def batches(update: int) -> Iterable[Any]:
        for window in parts.domain.make_train_data_loader(parts.cfg, parts.loader.dataset, start_iter=update):
            yield from window

    return batches


def check_same_classes(training: Any, evaluation: Evaluation) -> None:
    """Compare the classes of the training data with those of every set that is evaluated; other names are a warning.

    Raises:
        ValueError: a class has another label in one of the sets.
    """
    for part in evaluation.sets:
        for text in compare_names(training, getattr(part.loader, "dataset", None), "the training data", part.name):
            logging_rank(text, logging.WARNING)


def _evaluation_hooks(parts: RunParts, evaluation: Evaluation, period: int) -> list[Hook]:
    cfg, ema = parts.cfg, parts.ema
    averaged = ema is not None and cfg.EVAL.EMA
    hooks: list[Hook] = [
        Evaluate(
            evaluation,
            period,
            (lambda: ema.applied(parts.model)) if averaged else nullcontext,
            "averaged weights (EMA)" if averaged else "weights",
            pictures=cfg.VIS.ENABLED,
        )
    ]
    best, early = cfg.EVAL.BEST, cfg.EVAL.EARLY_STOPPING
    if best.METRIC:
        hooks.append(Best(parts.checkpointer, best.METRIC, best.MODE))
    if early.ENABLED:
        hooks.append(EarlyStopping(best.METRIC, best.MODE, early.PATIENCE, early.MIN_DELTA))
    return hooks


def build_writers(parts: RunParts) -> list[EventWriter]:
    """Console, metrics.json, TensorBoard and pictures."""
    folder, resume = Path(parts.cfg.MISC.CKPT), parts.checkpointer.resume
    return [
        ConsoleWriter(folder.name),
        JSONWriter(folder / "metrics.json", resume),
        TensorBoardWriter(folder / "tensorboard_log", first_pictures=folder / "vis"),
        PictureWriter(folder / "vis"),
    ]


def build_custom_hooks(parts: RunParts) -> list[Hook]:
    """The hooks of ``MISC.HOOKS``: YAML keys in lower case, and any attribute of ``RunParts`` the constructor names."""
    return [_build_custom(dict(entry), f"MISC.HOOKS[{i}]", parts) for i, entry in enumerate(parts.cfg.MISC.HOOKS)]


def _build_custom(entry: dict[str, Any], where: str, parts: RunParts) -> Hook:
    path = entry.pop("TYPE", None)
    if not isinstance(path, str) or "." not in path:
        raise ValueError(
            f'{where} needs TYPE with the full name of a class, e.g. TYPE: "my_pkg.my_hooks.GradNorm"; it is {path!r}'
        )
    module_name, _, class_name = path.rpartition(".")
    if os.getcwd() not in sys.path:  # a script puts its own folder on the path, not the one it is started in
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        places = "in this folder, on PYTHONPATH, or installed"
        raise ValueError(f"{where}: TYPE {path}: {error}; the module must be importable ({places})") from error
    kind = getattr(module, class_name, None)
    if not (inspect.isclass(kind) and issubclass(kind, Hook)):
        hooks = [n for n, v in vars(module).items() if inspect.isclass(v) and issubclass(v, Hook) and v is not Hook]
        raise ValueError(
            f"{where}: {module_name} has no hook class '{class_name}'.{did_you_mean(class_name, hooks)} "
            f"Its hooks: {', '.join(hooks) or 'none'}"
        )
    parameters = inspect.signature(kind).parameters
    given = {name.lower(): value for name, value in entry.items()}
    unknown = sorted(given.keys() - parameters.keys())
    if unknown:
        raise ValueError(
            f"{where}: {class_name} takes no {unknown[0].upper()}.{did_you_mean(unknown[0], parameters)} "
            f"It takes: {', '.join(parameters)}"
        )
    offered = {name: getattr(parts, name) for name in parameters if hasattr(parts, name) and name not in given}
    missing = [n for n, p in parameters.items() if p.default is p.empty and n not in given and n not in offered]
    if missing:
        raise ValueError(f"{where}: {class_name} needs {', '.join(n.upper() for n in missing)}")
    return kind(**given, **offered)
