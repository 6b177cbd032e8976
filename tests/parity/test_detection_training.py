"""Training a detector: some updates on the same pictures give bitwise the weights of a loop around torchvision's own model."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count, islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.detection_vs_torchvision import CFG, reference_model
from pet.config import CfgNode
from pet.engine.events import EventStorage
from pet.engine.hooks.lr_scheduler import LRScheduler
from pet.engine.loop import run_loop
from pet.engine.setup import build_step
from pet.engine.weights import load_weights
from pet.solver.lr_scheduler import LearningRateScheduler
from pet.solver.optimizer import Optimizer
from pet.vision import GeneralizedCNN, build_dataset, forward_train, get_base_cfg, infer_cfg, make_train_data_loader

UPDATES, WARM_UP, MILESTONE, LR = 6, 3, 5, 0.01
SHORT, LONG = 120, 160
WORDS = {
    "DATA.LOADER_THREADS": 0,
    "TRAIN.BATCH_SIZE": 2,
    "TRAIN.RESIZE": {"SCALES": [SHORT], "MAX_SIZE": LONG},
    "SOLVER.OPTIMIZER.BASE_LR": LR,
    "SOLVER.SCHEDULER.TOTAL_EPOCHS": None,
    "SOLVER.SCHEDULER.TOTAL_ITERS": UPDATES,
    "SOLVER.SCHEDULER.STEPS": [MILESTONE],
    "SOLVER.SCHEDULER.WARM_UP_ITERS": WARM_UP,
    "SOLVER.SCHEDULER.WARM_UP_FACTOR": 0.001,
    "SOLVER.SNAPSHOT_EPOCHS": None,
    "EVAL.PERIOD_EPOCHS": None,
}


def draw_the_same_samples(model: Any) -> None:
    """Seed the choice of anchors and proposals in each forward; torchvision draws a size for the pictures before that."""
    numbers = count(1)
    model.backbone.register_forward_pre_hook(lambda *_: torch.manual_seed(next(numbers)) and None)


def train_ours(cfg: CfgNode, windows: Sequence[Any], start: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[float]]:
    model = GeneralizedCNN(cfg)
    load_weights(model, start)
    draw_the_same_samples(model)
    optimizer = Optimizer(model, cfg.SOLVER.OPTIMIZER).build()
    scheduler = LearningRateScheduler(optimizer, cfg.SOLVER, iter_per_epoch=100)
    step = build_step(cfg, model, optimizer, forward_train, torch.device("cpu"))
    losses: list[float] = []

    def recorded(*update: Any) -> Any:
        metrics = step(*update)
        losses.append(float(metrics["total_loss"]))
        return metrics

    with EventStorage(1, 1, max_iter=UPDATES) as storage:
        run_loop(recorded, windows, [LRScheduler(optimizer, scheduler)], storage)
    return model.state_dict(), losses


def train_theirs(windows: Sequence[Any], start: dict[str, Tensor], pixels: nn.Module) -> tuple[nn.Module, list[float]]:
    model: Any = reference_model()
    model.transform.image_mean, model.transform.image_std = [0.0] * 3, [1.0] * 3  # the pixels come normalised
    model.transform.min_size, model.transform.max_size = (SHORT,), LONG
    model.load_state_dict(start)
    draw_the_same_samples(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9, weight_decay=1e-4, fused=True)
    rises = torch.optim.lr_scheduler.LinearLR(optimizer, 0.001, total_iters=WARM_UP)
    falls = torch.optim.lr_scheduler.MultiStepLR(optimizer, [MILESTONE])
    losses = []
    model.train()
    for (batch,) in windows:
        sizes = batch.targets["sizes"]
        images = [image[:, :h, :w] for image, (h, w) in zip(pixels(batch.images), sizes, strict=True)]
        rows = zip(batch.targets["boxes"], batch.targets["labels"], strict=True)
        total = sum(model(images, [{"boxes": boxes, "labels": labels + 1} for boxes, labels in rows]).values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        rises.step()
        falls.step()
        losses.append(total.item())
    return model, losses


def test_weights_after_training_equal_those_of_a_loop_around_torchvision(shared_data: Path) -> None:
    cfg = get_base_cfg()
    cfg.merge_from_file(CFG)
    cfg.merge_from_list([word for name, value in {**WORDS, "DATA.ROOT": str(shared_data)}.items() for word in (name, str(value))])
    infer_cfg(cfg)
    windows = list(islice(make_train_data_loader(cfg, build_dataset(cfg)), UPDATES))
    start = {name: value.clone() for name, value in reference_model().state_dict().items()}

    theirs, expected = train_theirs(windows, start, GeneralizedCNN(cfg).pixels)
    ours, losses = train_ours(cfg, windows, start)

    reference = GeneralizedCNN(cfg)
    load_weights(reference, theirs.state_dict())
    assert losses == pytest.approx(expected, rel=1e-6)  # the losses are added up in another order
    assert losses[-1] < losses[0]
    for name, value in reference.state_dict().items():
        assert torch.equal(ours[name], value), name
