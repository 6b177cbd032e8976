"""What can only be seen on a GPU; skipped without one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from pet.engine.events import EventStorage
from pet.engine.hooks.lr_scheduler import LRScheduler
from pet.engine.hooks.timer import IterationTimer
from pet.engine.loop import run_loop
from pet.engine.step import TrainStep, make_clip
from tests.engine.toys import CountingScheduler, ToyBatch, ToyLoader, forward_train, make_model, make_sgd

pytestmark = pytest.mark.gpu


@dataclass
class MovingBatch(ToyBatch):
    def to(self, device: Any, non_blocking: bool = False) -> MovingBatch:
        return MovingBatch(self.images.to(device, non_blocking=non_blocking), self.targets.to(device, non_blocking=non_blocking), self.ids)


class PinnedLoader(ToyLoader):
    def __iter__(self):
        for window in super().__iter__():
            yield [MovingBatch(b.images.pin_memory(), b.targets.pin_memory(), b.ids) for b in window]


def train(updates: int, log_period: int, amp_dtype: torch.dtype | None = None) -> dict[str, torch.Tensor]:
    model = make_model().cuda()
    optimizer = make_sgd(model)
    step = TrainStep(model, optimizer, forward_train, device="cuda", amp_dtype=amp_dtype, clip=make_clip("full_model", 1.0))
    with EventStorage(1, log_period, max_iter=updates + 1) as storage:
        storage.iteration = 2  # update 1 is a log step
        run_loop(step, PinnedLoader(), [IterationTimer(), LRScheduler(optimizer, CountingScheduler())], storage)
    return {name: tensor.cpu() for name, tensor in model.state_dict().items()}


def test_no_host_sync_between_log_steps():
    train(3, 100)  # the first kernels synchronise while they are loaded
    torch.cuda.set_sync_debug_mode("error")
    try:
        train(8, 100)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("amp_dtype", [None, torch.bfloat16, torch.float16])
def test_two_runs_give_the_same_weights(amp_dtype):
    first, second = train(10, 5, amp_dtype), train(10, 5, amp_dtype)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(torch.isfinite(tensor).all() for tensor in first.values())


def test_values_of_the_host_and_of_the_device_are_flushed_together():
    with EventStorage() as storage:
        storage.put_scalars(device=torch.tensor(2.0, device="cuda"), host=torch.tensor(3.0), plain=4.0)
        storage.flush()
    assert storage.latest() == {"device": 2.0, "host": 3.0, "plain": 4.0}
