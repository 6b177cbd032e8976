"""The same tiny training, run by a raw PyTorch loop, by Pet and by other engines.

Every engine trains the same MLP (64-128-10, batch 16, batches in memory) with the same torch optimizer (SGD with momentum,
torch's default kernels), one learning-rate schedule stepped each update, and a log of loss, lr and time every 20 updates in
the engine's own way, without checkpoints. Time is taken where the engine asks for the next batch, so the clock is the same
for all.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.nn import functional

LOG_PERIOD = 20
Pair = tuple[torch.Tensor, torch.Tensor]


class Source:
    """Replays four batches ``num`` times and notes when every 20th was asked for.

    Args:
        num: updates.
        on_update: called with the index of the update, 0-based, when its batch is asked for.
    """

    # Attributes that mmengine looks up in a loader.
    dataset: tuple[()] = ()
    sampler = None
    batch_sampler = SimpleNamespace(sampler=None)

    def __init__(self, num: int, on_update: Callable[[int], None] | None = None) -> None:
        generator = torch.Generator().manual_seed(1)
        self.batches: list[Pair] = []
        for _ in range(4):
            self.batches.append((torch.randn(16, 64, generator=generator), torch.randint(0, 10, (16,), generator=generator)))
        self.num, self._on_update = num, on_update
        # Nanoseconds before each block of updates: wall clock and processor time of this process.
        self.marks: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return self.num

    def __iter__(self) -> Iterator[Pair]:
        yield from self.replay(self.batches)

    def replay(self, batches: list[Any]) -> Iterator[Any]:
        """The batches in turn, in the form an engine wants them."""
        for index in range(self.num):
            if index % LOG_PERIOD == 0:
                self.marks.append((time.perf_counter_ns(), time.process_time_ns()))
            if self._on_update is not None:
                self._on_update(index)
            yield batches[index % len(batches)]


class Task:
    """Model, data and optimizer of one run."""

    def __init__(self, num: int, folder: Path, on_update: Callable[[int], None] | None = None) -> None:
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
        self.source, self.num, self.folder = Source(num, on_update), num, folder

    def optimizer(self) -> torch.optim.SGD:
        """SGD with momentum."""
        return torch.optim.SGD(self.net.parameters(), lr=0.01, momentum=0.9)

    def schedule(self, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        """Torch's STEP schedule with a milestone beyond the end."""
        return torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[10**9])


class Losses(nn.Module):
    """The net with its loss."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of a batch."""
        return functional.cross_entropy(self.net(images), labels)


# ------------------------------------------------------------------------------------------------------- raw


def raw(task: Task) -> None:
    """Forward, zero, backward, step: nothing else."""
    net, optimizer = task.net, task.optimizer()
    for images, labels in task.source:
        loss = functional.cross_entropy(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def raw_log(task: Task) -> None:
    """The raw loop of a careful person: schedule, and text, JSON and TensorBoard every 20 updates."""
    from torch.utils.tensorboard import SummaryWriter

    net, optimizer = task.net, task.optimizer()
    schedule = task.schedule(optimizer)
    board, start = SummaryWriter(str(task.folder / "tensorboard")), time.perf_counter()
    with open(task.folder / "log.txt", "w") as text, open(task.folder / "log.json", "w") as lines:
        for iteration, (images, labels) in enumerate(task.source, 1):
            loss = functional.cross_entropy(net(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate = optimizer.param_groups[0]["lr"]
            schedule.step()
            if iteration % LOG_PERIOD == 0:
                now = time.perf_counter()
                row = {"iteration": iteration, "loss": loss.item(), "lr": rate, "time": (now - start) / LOG_PERIOD}
                start = now
                print(*(f"{name} {value:.5g}" for name, value in row.items()), file=text, flush=True)
                print(json.dumps(row), file=lines, flush=True)
                for name in ("loss", "lr", "time"):
                    board.add_scalar(name, row[name], iteration)
    board.close()


# ------------------------------------------------------------------------------------------------------- Pet


class Windows:
    """The batches as Pet's loader gives them: windows of one micro-batch."""

    def __init__(self, source: Source) -> None:
        self._source, self.iter_per_epoch = source, source.num

    def __iter__(self) -> Iterator[list[Any]]:
        from pet.data.structures import Batch

        ids = torch.arange(16)
        return self._source.replay([[Batch(images, {"label": labels}, ids)] for images, labels in self._source.batches])


def _forward_train(model: nn.Module, batch: Any) -> dict[str, dict[str, torch.Tensor]]:
    return {"losses": {"loss_cls": functional.cross_entropy(model(batch.images), batch.targets["label"])}, "metrics": {}}


def _pet(task: Task, optimizer: torch.optim.Optimizer | None) -> None:
    from pet.config import get_base_cfg
    from pet.engine.events import EventStorage
    from pet.engine.hooks.build import RunParts, build_train_hooks
    from pet.engine.loop import run_loop
    from pet.engine.setup import build_checkpointer, build_step
    from pet.solver import LearningRateScheduler, Optimizer
    from pet.utils.logger import setup_logging

    options = {"MISC.CKPT": str(task.folder), "MISC.DISPLAY_ITER": LOG_PERIOD, "SOLVER.SNAPSHOT_EPOCHS": None}
    options |= {"SOLVER.SCHEDULER.TOTAL_ITERS": task.num, "SOLVER.OPTIMIZER.BASE_LR": 0.01, "SOLVER.OPTIMIZER.WEIGHT_DECAY": 0.0}
    cfg = get_base_cfg()
    cfg.merge_from_list([part for option in options.items() for part in option])
    cfg.freeze()
    setup_logging(task.folder / "log.txt")
    model, loader, device = task.net, Windows(task.source), torch.device("cpu")
    optimizer = optimizer or Optimizer(model, cfg.SOLVER.OPTIMIZER).build()
    scheduler = LearningRateScheduler(optimizer, cfg.SOLVER, loader.iter_per_epoch)
    parts = RunParts(cfg, model, optimizer, scheduler, build_checkpointer(cfg), loader, SimpleNamespace(), device)
    hooks = build_train_hooks(parts, None)
    step = build_step(cfg, model, optimizer, _forward_train, device)
    with EventStorage(1, LOG_PERIOD, max_iter=task.num, iter_per_epoch=loader.iter_per_epoch) as storage:
        run_loop(step, loader, hooks, storage)


def pet(task: Task) -> None:
    """Pet: loop, step and default hooks, with the optimizer that all engines here use."""
    _pet(task, task.optimizer())


def pet_fused(task: Task) -> None:
    """Pet as a user gets it: its Optimizer takes the fused kernels."""
    _pet(task, None)


# ----------------------------------------------------------------------------------------------------- peers


def mmengine(task: Task) -> None:
    """The Runner of mmengine with an iteration loop and its default hooks but the checkpoint."""
    from mmengine.model import BaseModel
    from mmengine.optim import OptimWrapper
    from mmengine.runner import Runner

    class Model(BaseModel):
        def __init__(self) -> None:
            super().__init__()
            self.losses = Losses(task.net)

        def forward(self, images: torch.Tensor, labels: torch.Tensor, mode: str = "loss") -> dict[str, torch.Tensor]:
            return {"loss": self.losses(images, labels)}

    Runner(
        model=Model(),
        work_dir=str(task.folder),
        train_dataloader=task.source,
        train_cfg={"type": "IterBasedTrainLoop", "max_iters": task.num, "val_interval": 10**9},
        optim_wrapper=OptimWrapper(task.optimizer()),
        param_scheduler=[{"type": "MultiStepLR", "by_epoch": False, "milestones": [10**9]}],
        default_hooks={"logger": {"type": "LoggerHook", "interval": LOG_PERIOD}, "checkpoint": None},
        log_processor={"by_epoch": False},
        default_scope="mmengine",
        experiment_name=f"overhead{time.time_ns()}",
        visualizer={"type": "Visualizer", "vis_backends": [{"type": "LocalVisBackend"}, {"type": "TensorboardVisBackend"}]},
    ).train()


def lightning(task: Task) -> None:
    """The Trainer of Lightning with TensorBoard and without progress bar."""
    import lightning.pytorch as pl
    from lightning.pytorch.loggers import TensorBoardLogger

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.losses = Losses(task.net)

        def training_step(self, batch: Pair, index: int) -> torch.Tensor:
            loss = self.losses(*batch)
            self.log("loss", loss)
            return loss

        def configure_optimizers(self) -> dict[str, Any]:
            optimizer = task.optimizer()
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": task.schedule(optimizer), "interval": "step"}}

    pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        devices=1,
        logger=TensorBoardLogger(str(task.folder)),
        callbacks=[pl.callbacks.LearningRateMonitor("step")],
        log_every_n_steps=LOG_PERIOD,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(Module(), task.source)


def ignite(task: Task) -> None:
    """The supervised trainer of ignite with a TensorBoard handler and a text line every 20 updates."""
    from ignite.engine import Engine, Events, create_supervised_trainer
    from ignite.handlers.tensorboard_logger import OptimizerParamsHandler, TensorboardLogger

    optimizer = task.optimizer()
    schedule = task.schedule(optimizer)
    trainer = create_supervised_trainer(task.net, optimizer, functional.cross_entropy)
    trainer.logger.setLevel(logging.ERROR)
    every = Events.ITERATION_COMPLETED(every=LOG_PERIOD)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: schedule.step())
    with TensorboardLogger(log_dir=str(task.folder)) as board, open(task.folder / "log.txt", "w") as text:
        board.attach_output_handler(trainer, every, tag="train", output_transform=lambda loss: {"loss": loss})
        board.attach(trainer, OptimizerParamsHandler(optimizer), every)

        @trainer.on(every)
        def line(engine: Engine) -> None:
            print(engine.state.iteration, engine.state.output, file=text, flush=True)

        trainer.run(task.source, max_epochs=1, epoch_length=task.num)


def accelerate(task: Task) -> None:
    """The wrappers of accelerate in a raw loop, with its TensorBoard tracker; the data stay ours."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True, log_with="tensorboard", project_dir=str(task.folder))
    accelerator.init_trackers("run")
    optimizer = task.optimizer()
    net, optimizer, schedule = accelerator.prepare(task.net, optimizer, task.schedule(optimizer))
    for iteration, (images, labels) in enumerate(task.source, 1):
        with accelerator.accumulate(net):
            loss = functional.cross_entropy(net(images), labels)
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
            schedule.step()
        if iteration % LOG_PERIOD == 0:
            accelerator.log({"loss": loss.item(), "lr": schedule.get_last_lr()[0]}, step=iteration)
    accelerator.end_training()
    accelerator.free_memory()


ENGINES: dict[str, Callable[[Task], None]] = {
    engine.__name__: engine for engine in (raw, raw_log, pet, pet_fused, mmengine, lightning, ignite, accelerate)
}
# Packages that are not needed by Pet; an engine without its package is left out.
PEERS = {"mmengine": "mmengine", "lightning": "lightning", "ignite": "ignite", "accelerate": "accelerate"}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Peers warn about things that do not matter here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
