"""The engine with its default hooks computes bitwise what a hand-written PyTorch loop computes."""

from __future__ import annotations

import copy
import itertools
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional

from pet.config import get_base_cfg
from pet.data.structures import Batch
from pet.engine.events import EventStorage
from pet.engine.hooks.build import RunParts, build_train_hooks
from pet.engine.loop import run_loop
from pet.engine.setup import build_checkpointer, build_step
from pet.solver import LearningRateScheduler, Optimizer, build_ema

UPDATES, PER_EPOCH, WARM_UP, LR = 23, 10, 5, 0.05
CPU = torch.device("cpu")


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 16), nn.ReLU(), nn.Linear(16, 4))


def _convnet() -> nn.Module:
    stem = (nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU())
    return nn.Sequential(*stem, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(4, 4))


class Windows:
    """A loader: the same windows of micro-batches whenever it is read."""

    def __init__(self, accumulate: int) -> None:
        generator = torch.Generator().manual_seed(3)
        self.iter_per_epoch, self._windows = PER_EPOCH, []
        for _ in range(UPDATES):
            pairs = [
                (torch.randn(6, 3, 8, 8, generator=generator), torch.randint(4, (6,), generator=generator))
                for _ in range(accumulate)
            ]
            self._windows.append([Batch(images, {"label": labels}, torch.arange(6)) for images, labels in pairs])

    def __iter__(self):
        return itertools.cycle(self._windows)


def _forward_train(model: nn.Module, batch: Batch) -> dict:
    scores = model(batch.images)
    loss = functional.cross_entropy(scores, batch.targets["label"])
    accuracy = (scores.detach().argmax(1) == batch.targets["label"]).float().mean()
    return {"losses": {"loss_cls": loss, "loss_size": 0.01 * scores.square().mean()}, "metrics": {"acc1": accuracy}}


def _config(folder, optimizer: str, accumulate: int, clip: str, ema: bool):
    options = {
        "MISC.CKPT": str(folder),
        "MISC.DISPLAY_ITER": 4,
        "SOLVER.ACCUMULATE": accumulate,
        "SOLVER.EMA.ENABLED": ema,
        "SOLVER.OPTIMIZER.TYPE": optimizer,
        "SOLVER.OPTIMIZER.BASE_LR": LR,
        "SOLVER.OPTIMIZER.WEIGHT_DECAY": 0.01,
        "SOLVER.OPTIMIZER.CLIP_GRADIENTS.ENABLED": bool(clip),
        "SOLVER.OPTIMIZER.CLIP_GRADIENTS.CLIP_TYPE": clip or "value",
        "SOLVER.OPTIMIZER.CLIP_GRADIENTS.CLIP_VALUE": 0.1,
        "SOLVER.SCHEDULER.POLICY": "COSINE",
        "SOLVER.SCHEDULER.TOTAL_ITERS": UPDATES,
        "SOLVER.SCHEDULER.WARM_UP_ITERS": WARM_UP,
        "SOLVER.SCHEDULER.WARM_UP_FACTOR": 0.2,
    }
    cfg = get_base_cfg()
    cfg.merge_from_list([part for option in options.items() for part in option])
    cfg.freeze()
    return cfg


def _train_with_pet(cfg, model: nn.Module):
    ema = build_ema(model, cfg.SOLVER.EMA)
    optimizer = Optimizer(model, cfg.SOLVER.OPTIMIZER).build()
    loader = Windows(cfg.SOLVER.ACCUMULATE)
    scheduler = LearningRateScheduler(optimizer, cfg.SOLVER, loader.iter_per_epoch)
    parts = RunParts(cfg, model, optimizer, scheduler, build_checkpointer(cfg), loader, SimpleNamespace(), CPU, ema)
    step = build_step(cfg, model, optimizer, _forward_train, CPU)
    with EventStorage(1, UPDATES, max_iter=UPDATES, iter_per_epoch=PER_EPOCH) as storage:
        run_loop(step, loader, build_train_hooks(parts, None), storage)
    return optimizer, ema, [value for value, _ in storage.history("total_loss").values()]


def _clip(kind: str, parameters: list[nn.Parameter]) -> None:
    if kind == "value":
        nn.utils.clip_grad_value_(parameters, 0.1)
    elif kind == "full_model":
        nn.utils.clip_grad_norm_(parameters, 0.1)
    for parameter in parameters if kind == "norm" else ():
        nn.utils.clip_grad_norm_([parameter], 0.1)


def _train_by_hand(model: nn.Module, optimizer_type: str, accumulate: int, clip: str):
    parameters = list(model.parameters())
    if optimizer_type == "SGD":
        optimizer = torch.optim.SGD(parameters, lr=LR, momentum=0.9, weight_decay=0.01, fused=True)
    else:
        optimizer = torch.optim.AdamW(parameters, lr=LR, weight_decay=0.01, fused=True)
    averages, losses = {}, []
    for update, window in zip(range(1, UPDATES + 1), Windows(accumulate), strict=False):
        optimizer.param_groups[0]["lr"] = LR * _factor(update)
        optimizer.zero_grad()
        total = 0.0
        for batch in window:
            loss = sum(_forward_train(model, batch)["losses"].values()) / accumulate
            loss.backward()
            total += loss.detach()
        _clip(clip, parameters)
        optimizer.step()
        losses.append(total.item())
        decay = min(0.9998, update / (9 + update))
        for name, value in model.state_dict().items():
            moves = update > 1 and value.is_floating_point()
            averages[name] = averages[name].lerp(value, 1 - decay) if moves else value.clone()
    return optimizer, averages, losses


def _factor(update: int) -> float:
    done = update - 1
    if done < WARM_UP:
        return 0.2 + 0.8 * done / WARM_UP
    return 0.5 * (1.0 + torch.cos(torch.tensor(torch.pi * (done - WARM_UP) / (UPDATES - WARM_UP), dtype=torch.float64)).item())


@pytest.mark.parametrize(("accumulate", "clip"), [(1, ""), (2, ""), (1, "full_model"), (4, "norm"), (1, "value")])
@pytest.mark.parametrize("optimizer_type", ["SGD", "ADAMW"])
@pytest.mark.parametrize("make", [_mlp, _convnet], ids=["mlp", "convnet"])
def test_engine_equals_raw_loop(tmp_path, make, optimizer_type, accumulate, clip):
    torch.manual_seed(0)
    by_pet = make()
    by_hand = copy.deepcopy(by_pet)
    cfg = _config(tmp_path, optimizer_type, accumulate, clip, ema=True)
    # Dropout draws from the global generator, so both start it alike.
    torch.manual_seed(1)
    optimizer, ema, losses = _train_with_pet(cfg, by_pet)
    torch.manual_seed(1)
    expected_optimizer, expected_averages, expected_losses = _train_by_hand(by_hand, optimizer_type, accumulate, clip)
    assert losses == expected_losses
    for name, value in by_hand.state_dict().items():
        assert torch.equal(by_pet.state_dict()[name], value), name
        assert torch.equal(ema.state_dict()["weights"][name], expected_averages[name]), name
    for own, expected in zip(by_pet.parameters(), by_hand.parameters(), strict=True):
        for name, value in expected_optimizer.state[expected].items():
            assert torch.equal(optimizer.state[own][name], value), name
