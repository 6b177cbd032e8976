"""A run small enough to be repeated a hundred times in one process, assembled like ``tools/tasks/cls/train_net.py``."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from pet.config import CfgNode, get_base_cfg
from pet.data.datasets.base import VisionDataset
from pet.data.loader import EvalLoader, TrainLoader
from pet.data.structures import Batch, Sample
from pet.data.transforms import build_transforms
from pet.engine import parallel, setup
from pet.engine.evaluation import Evaluation, EvaluationSet
from pet.engine.events import EventStorage
from pet.engine.hooks.base import Hook, HookList, Phase
from pet.engine.hooks.build import RunParts, build_train_hooks
from pet.engine.loop import run_loop
from pet.engine.resume import DataPosition
from pet.solver.ema import build_ema
from pet.solver.lr_scheduler import LearningRateScheduler
from pet.solver.optimizer import Optimizer
from pet.utils import comm
from pet.utils.rng import STREAM_SYNTHETIC, keyed_generator, seed_everything

NUM_SAMPLES, BATCH, EPOCHS = 37, 8, 3
PER_EPOCH = NUM_SAMPLES // BATCH
UPDATES = PER_EPOCH * EPOCHS

_OPTIONS: dict[str, Any] = {
    "MISC.DEVICE": "cpu",
    "MISC.SEED": 5,
    "MISC.DISPLAY_ITER": 2,
    "TRAIN.BATCH_SIZE": BATCH,
    "EVAL.BEST.METRIC": "score",
    "SOLVER.SNAPSHOT_EPOCHS": None,
    "SOLVER.SNAPSHOT_ITER": 3,
    "SOLVER.OPTIMIZER.BASE_LR": 0.05,
    "SOLVER.SCHEDULER.TOTAL_EPOCHS": EPOCHS,
    "SOLVER.SCHEDULER.POLICY": "COSINE",
    "SOLVER.SCHEDULER.WARM_UP_ITERS": 3,
    "SOLVER.EMA.ENABLED": True,
    "SOLVER.EMA.DECAY": 0.9,
    "DATA.LOADER_THREADS": 0,
}


class ToyDataset(VisionDataset):
    """Random pictures that count how often they are read.

    Attributes:
        reads: indices in the order of reading (in this process).
    """

    def __init__(self, num_samples: int = NUM_SAMPLES) -> None:
        super().__init__("toy", ["a", "b", "c", "d"], None)
        self._num_samples = num_samples
        self.reads: list[int] = []

    def __len__(self) -> int:
        return self._num_samples

    def read(self, index: int) -> Sample:
        self.reads.append(index)
        image = keyed_generator(7, STREAM_SYNTHETIC, index).integers(0, 256, (8, 8, 3), np.uint8)
        return Sample(image, {"label": index % 4}, index)

    def labels(self) -> np.ndarray:
        return np.arange(self._num_samples) % 4


class ToyModel(nn.Module):
    """Convolution, BatchNorm, dropout.

    Args:
        plain: without BatchNorm and dropout, so that the gradient of a batch is the mean of those of its parts.
        unused: with a layer that gets no gradient.
    """

    def __init__(self, plain: bool = False, unused: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.bn = nn.Identity() if plain else nn.BatchNorm2d(8)
        self.dropout = nn.Dropout(0.0 if plain else 0.3)
        self.fc = nn.Linear(8, 4)
        if unused:
            self.forgotten = nn.Linear(2, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = F.relu(self.bn(self.conv(images.float() / 255)))
        return self.fc(self.dropout(features.mean((2, 3))))


@dataclass(frozen=True)
class ForwardTrain:
    """The loss of a batch; pictures with an id of ``poison`` are NaN."""

    poison: tuple[int, ...] = ()

    def __call__(self, model: nn.Module, batch: Batch) -> dict[str, Any]:
        images = batch.images.float()
        for place, id in enumerate(batch.ids.tolist()):
            if id in self.poison:
                images[place] = float("nan")
        return {"losses": {"loss_cls": F.cross_entropy(model(images).float(), batch.targets["label"])}, "metrics": {}}


def forward_test(model: nn.Module, batch: Batch) -> torch.Tensor:
    return model(batch.images)


class Score:
    """A metric that every bit of the weights changes."""

    def __init__(self, on_batch: Callable[[], None]) -> None:
        self._on_batch = on_batch

    def reset(self) -> None:
        self._sums: list[float] = []

    def process(self, inputs: Batch, outputs: torch.Tensor) -> None:
        self._on_batch()
        self._sums.append(float(outputs.double().sum()))

    def evaluate(self) -> dict[str, float]:
        return {"score": float(sum(sum(part) for part in comm.all_gather(self._sums)))}


class Killed(BaseException):
    """Stands for SIGKILL: nothing of Pet may catch it, and nothing is saved after it."""


class KillAt(Hook):
    """Ends the run without a save after the last hook of a phase."""

    def __init__(self, update: int, phase: Phase) -> None:
        self.phase, self._update = phase, update

    def after_step(self, storage: EventStorage) -> None:
        if storage.iteration == self._update:
            raise Killed


class TermAt(Hook):
    """Sends this process a real signal in the middle of an update.

    Args:
        update: when.
        rank: only this rank gets it; ``None``: every rank.
        number: the signal.
    """

    def __init__(self, update: int, rank: int | None = None, number: int = signal.SIGTERM) -> None:
        self._update, self._rank, self._number = update, rank, number

    def after_backward(self, storage: EventStorage) -> None:
        if storage.iteration == self._update and self._rank in (None, comm.get_rank()):
            os.kill(os.getpid(), self._number)


class Recorder(Hook):
    """Keeps the ids of the samples of this rank by update."""

    def __init__(self) -> None:
        self.ids: dict[int, list[int]] = {}

    def after_step(self, storage: EventStorage) -> None:
        self.ids[storage.iteration] = storage.samples_of(storage.iteration)


@dataclass
class ToyRun:
    """How a run ended.

    Attributes:
        status: exit status; -1 if there was nothing to do.
        updates: updates made by this process.
    """

    folder: Path
    status: int
    updates: int
    model: nn.Module
    dataset: ToyDataset
    storage: EventStorage | None = None


def toy_cfg(folder: Path, **options: Any) -> CfgNode:
    """The config of the run; keyword ``SOLVER__ACCUMULATE=2`` sets ``SOLVER.ACCUMULATE``."""
    cfg = get_base_cfg()
    changed = {**_OPTIONS, **{name.replace("__", "."): value for name, value in options.items()}, "MISC.CKPT": str(folder)}
    for name, value in changed.items():
        cfg.merge_from_list([name, value])
    cfg.freeze()
    return cfg


def train(
    folder: Path,
    hooks: Sequence[Hook] = (),
    on_eval_batch: Callable[[], None] = lambda: None,
    forward_train: ForwardTrain = ForwardTrain(),  # noqa: B008 - it cannot be changed
    plain: bool = False,
    unused: bool = False,
    **options: Any,
) -> ToyRun:
    """Train or resume in ``folder``."""
    cfg, device = toy_cfg(folder, **options), torch.device("cpu")
    folder.mkdir(parents=True, exist_ok=True)
    seed_everything(cfg.MISC.SEED, comm.get_rank())
    model: nn.Module = ToyModel(plain, unused)
    checkpointer = setup.build_checkpointer(cfg)
    model = checkpointer.load_model(model)
    model = parallel.distribute(model, cfg, device)
    ema = build_ema(model, cfg.SOLVER.EMA)
    optimizer = checkpointer.load_optimizer(Optimizer(model, cfg.SOLVER.OPTIMIZER).build())
    dataset = ToyDataset()
    loader = make_loader(cfg, dataset, checkpointer.start_iter)
    scheduler = checkpointer.load_scheduler(LearningRateScheduler(optimizer, cfg.SOLVER, loader.iter_per_epoch))
    if setup.is_finished(cfg, scheduler):
        return ToyRun(folder, -1, 0, model, dataset)
    test_loader = EvalLoader(ToyDataset(11), batch_size=2, world_size=comm.get_world_size(), rank=comm.get_rank(), num_workers=0)
    evaluation = Evaluation(model, [EvaluationSet("toy", test_loader, Score(on_eval_batch))], forward_test, device)
    domain = SimpleNamespace(forward_train=forward_train, make_train_data_loader=make_loader)
    parts = RunParts(cfg, model, optimizer, scheduler, checkpointer, loader, domain, device, ema)
    step = setup.build_step(cfg, model, optimizer, forward_train, device)
    all_hooks = HookList([*build_train_hooks(parts, evaluation), *hooks])
    with EventStorage(scheduler.iteration, cfg.MISC.DISPLAY_ITER, **setup.horizon(cfg, scheduler)) as storage:
        first = scheduler.iteration
        checkpointer.track(scaler=step, sampler=DataPosition(loader, cfg.MISC.SEED), hooks=all_hooks, storage=storage)
        checkpointer.resume_parts()
        run_loop(step, loader, all_hooks, storage)
    return ToyRun(folder, setup.finish(cfg, storage, scheduler), scheduler.iteration - first, model, dataset, storage)


def make_loader(cfg: CfgNode, dataset: VisionDataset, start_iter: int) -> TrainLoader:
    transforms = build_transforms(
        ["random_crop", "random_horizontal_flip"], {"random_crop": {"crop_scales": ((8, 8),), "padding": 1}}
    )
    return TrainLoader(
        dataset,
        transforms,
        cfg.TRAIN.BATCH_SIZE,
        seed=cfg.MISC.SEED,
        accumulate=cfg.SOLVER.ACCUMULATE,
        world_size=comm.get_world_size(),
        rank=comm.get_rank(),
        start_iter=start_iter,
        num_workers=cfg.DATA.LOADER_THREADS,
        restart_workers=cfg.DATA.RESTART_WORKERS,
    )
