"""A toy problem for engine tests: a linear classifier on fixed batches, with nothing of the data package."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pet.engine.events import EventStorage
from pet.engine.hooks.base import Hook, HookList
from pet.engine.loop import run_loop
from pet.engine.step import TrainStep


@dataclass
class ToyBatch:
    images: Tensor
    targets: Tensor
    ids: Tensor

    def to(self, device: Any, non_blocking: bool = False) -> ToyBatch:
        return self


def make_batch(number: int, size: int = 8) -> ToyBatch:
    generator = torch.Generator().manual_seed(number)
    images = torch.randn(size, 6, generator=generator)
    return ToyBatch(images, (images.sum(1) > 0).long(), torch.arange(size) + number * size)


class ToyLoader:
    """Endless windows from an update on; window k is a pure function of k."""

    def __init__(self, start_iter: int = 1, accumulate: int = 1, size: int = 8, iter_per_epoch: int = 4) -> None:
        self.start_iter, self.accumulate, self.size, self.iter_per_epoch = start_iter, accumulate, size, iter_per_epoch

    def __iter__(self) -> Iterator[list[ToyBatch]]:
        update = self.start_iter
        while True:
            batch = make_batch(update % 7, self.size)
            yield [
                ToyBatch(*parts)
                for parts in zip(*(t.chunk(self.accumulate) for t in (batch.images, batch.targets, batch.ids)), strict=True)
            ]
            update += 1


def make_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))


def forward_train(model: nn.Module, batch: ToyBatch) -> dict[str, dict[str, Tensor]]:
    logits = model(batch.images)
    return {
        "losses": {"loss_cls": nn.functional.cross_entropy(logits, batch.targets)},
        "metrics": {"acc1": (logits.argmax(1) == batch.targets).float().mean() * 100},
    }


def make_sgd(model: nn.Module, lr: float = 0.1) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)


class CountingScheduler:
    """The part of a scheduler that the engine uses, with a constant rate."""

    def __init__(self) -> None:
        self.iteration = 1

    def step(self) -> None:
        self.iteration += 1

    def state_dict(self) -> dict[str, int]:
        return {"iteration": self.iteration}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.iteration = state["iteration"]


def run(hooks: Sequence[Hook], updates: int = 8, **storage_options: Any) -> EventStorage:
    """Train the toy model; returns the closed storage."""
    model = make_model()
    step = TrainStep(model, make_sgd(model), forward_train)
    options = {"log_period": 4, "iter_per_epoch": 4, **storage_options}
    with EventStorage(1, max_iter=updates, **options) as storage:
        run_loop(step, ToyLoader(), HookList(hooks), storage)
    return storage
