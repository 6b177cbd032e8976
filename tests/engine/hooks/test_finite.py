from __future__ import annotations

import math

import pytest
import torch

from pet.engine.events import EventStorage
from pet.engine.hooks.finite import FiniteGuard, Rollback
from pet.engine.loop import run_loop
from pet.engine.step import TrainStep
from tests.engine.toys import ToyLoader, forward_train, make_model, make_sgd


def diverge_at(update: int):
    calls = iter(range(1, 1000))

    def forward(model, batch):
        outputs = forward_train(model, batch)
        if next(calls) == update:
            outputs["losses"]["loss_cls"] = outputs["losses"]["loss_cls"] * math.nan
        return outputs

    return forward


def test_the_report_names_loss_first_update_rank_and_samples():
    model = make_model()
    optimizer = make_sgd(model)
    step = TrainStep(model, optimizer, diverge_at(3))
    message = r"loss_cls is not finite since update 3 on rank 0; samples of that update: \[24, 25"
    with pytest.raises(FloatingPointError, match=message) as caught, EventStorage(1, 4, max_iter=8) as storage:
        run_loop(step, ToyLoader(), [FiniteGuard(optimizer)], storage)
    assert "SOLVER.NON_FINITE.POLICY skip" in str(caught.value)


def test_a_state_with_broken_weights_is_refused_though_the_losses_are_fine():
    model = make_model()
    guard = FiniteGuard(make_sgd(model))
    guard.check_weights(EventStorage())
    with torch.no_grad():
        model[0].bias[0] = math.inf
    with pytest.raises(FloatingPointError, match="weights are not finite after update 1"):
        guard.check_weights(EventStorage())


def test_without_a_checkpoint_or_after_its_limit_a_rollback_ends_the_run_after_all():
    model = make_model()
    step = TrainStep(model, make_sgd(model), diverge_at(2))
    none = FiniteGuard(step.optimizer, Rollback(lambda: None, 3))
    with pytest.raises(FloatingPointError, match="no checkpoint yet to go back to"), EventStorage(1, 4, max_iter=8) as storage:
        run_loop(step, ToyLoader(), [none], storage)

    def go_back() -> int:
        model.load_state_dict(make_model().state_dict())
        return 0

    used = FiniteGuard(step.optimizer, Rollback(go_back, 1))
    poisoned = TrainStep(model, make_sgd(model), lambda model, batch: diverge_at(1)(model, batch))
    with pytest.raises(FloatingPointError, match="went back 1 times"), EventStorage(1, 4, max_iter=8) as storage:
        run_loop(poisoned, ToyLoader(), [used], storage)
    assert used.state_dict() == {"rollbacks": 1}


def test_a_log_after_a_rollback_holds_finite_numbers_only():
    storage = EventStorage(1, 4)
    for value in (1.0, math.nan, 3.0):
        storage.put_scalar("total_loss", value)
        storage.put_scalar("loss_cls", math.nan)
        storage.flush()
        storage.step()
    storage.forget_non_finite()
    assert storage.latest_with_smoothing_hint() == {"total_loss": 2.0}
    assert storage.non_finite == []
