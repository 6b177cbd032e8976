from __future__ import annotations

import pytest
import torch
from torch import nn

from pet.engine.events import EventStorage
from pet.engine.hooks.ema import EMA
from pet.engine.hooks.precise_bn import PreciseBN
from tests.engine.toys import ToyLoader, forward_train


class CountUpdates:
    def __init__(self) -> None:
        self.count = 0

    def update(self) -> None:
        self.count += 1


def test_a_skipped_update_is_not_averaged():
    storage, ema = EventStorage(), CountUpdates()
    EMA(ema).after_step(storage)
    storage.update_skipped = True
    EMA(ema).after_step(storage)
    assert ema.count == 1


def make_norm_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 2))


def batches(update: int):
    for window in ToyLoader(update):
        yield from window


def test_statistics_become_those_of_the_present_weights_and_nothing_else_changes():
    model = make_norm_net()
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    mean, rng = model[1].running_mean, torch.get_rng_state()
    storage = EventStorage(start_iter=5, max_iter=5)
    PreciseBN(model, forward_train, batches, "cpu", 0, 3).after_step(storage)
    inputs = [model[0](window[0].images) for window, _ in zip(ToyLoader(5), range(3), strict=False)]
    torch.testing.assert_close(model[1].running_mean, torch.stack([x.mean(0) for x in inputs]).mean(0))
    assert model[1].running_mean is mean
    assert torch.equal(torch.get_rng_state(), rng)
    assert all(torch.equal(weights[name], p) for name, p in model.named_parameters())
    assert model[1].momentum == pytest.approx(0.1)


def test_it_runs_at_its_period_only():
    model = make_norm_net()
    hook = PreciseBN(model, forward_train, batches, "cpu", 4, 1)
    hook.after_step(EventStorage(start_iter=3, max_iter=10))
    assert float(model[1].running_mean.abs().sum()) == 0
    hook.after_step(EventStorage(start_iter=4, max_iter=10))
    assert float(model[1].running_mean.abs().sum()) > 0


def test_a_model_without_batchnorm_is_left_alone():
    PreciseBN(nn.Linear(6, 2), forward_train, batches, "cpu", 0, 1).after_step(EventStorage(start_iter=1, max_iter=1))
