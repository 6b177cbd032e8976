"""LearningRateScheduler: the curves, and that the learning rate of update k depends on nothing but k."""

from __future__ import annotations

import logging
import math

import pytest
import torch

from pet.config import get_base_cfg
from pet.solver import LearningRateScheduler, Optimizer
from pet.solver.lr_scheduler import POLICIES, Schedule
from tests.helpers import run_ranks

POLICY_OPTIONS = {
    "CONSTANT": {},
    "STEP": {"STEPS": (30, 70)},
    "COSINE": {"MIN_LR_FACTOR": 0.01},
    "STEP_COSINE": {"STEPS": (30, 70)},
    "POLY": {"LR_POW": 0.9},
    "ONECYCLE": {},
}


def _sgd(*lrs: float) -> torch.optim.SGD:
    return torch.optim.SGD([{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in lrs or (0.1,)])


def _ours(cfg, iter_per_epoch: int = 10, num: int | None = None) -> list[float]:
    optimizer = _sgd(cfg.OPTIMIZER.BASE_LR)
    scheduler = LearningRateScheduler(optimizer, cfg, iter_per_epoch)
    rates = []
    for _ in range(num or scheduler.max_iter):
        rates.append(optimizer.param_groups[0]["lr"])
        scheduler.step()
    return rates


@pytest.mark.parametrize("method", ["LINEAR", "CONSTANT"])
@pytest.mark.parametrize("policy", ["CONSTANT", "COSINE", "POLY", "STEP", "STEP_COSINE"])
def test_peak_is_the_base_rate_right_after_the_warm_up(solver, policy, method):
    rates = _ours(solver(TOTAL_ITERS=100, POLICY=policy, WARM_UP_ITERS=20, WARM_UP_METHOD=method, **POLICY_OPTIONS[policy]))
    assert max(rates) == rates[20] == 0.1
    assert max(rates[:20]) < 0.1
    assert rates[0] == pytest.approx(0.01)


def test_step_cosine_drops_then_falls_without_a_jump_to_the_minimum(solver):
    rates = _ours(solver(TOTAL_ITERS=100, POLICY="STEP_COSINE", STEPS=(30, 50), MIN_LR_FACTOR=0.001))
    assert rates[:30] == [0.1] * 30
    assert rates[30:50] == pytest.approx([0.01] * 20)
    assert rates[50:] == pytest.approx([1e-4 + (0.01 - 1e-4) * (1 + math.cos(math.pi * k / 50)) / 2 for k in range(50)])


def test_epochs_and_updates_give_the_same_curve(solver):
    in_epochs = solver(TOTAL_EPOCHS=10, POLICY="STEP", STEPS=(3, 7.5), WARM_UP_EPOCHS=0.5)
    in_updates = solver(TOTAL_ITERS=400, POLICY="STEP", STEPS=(120, 300), WARM_UP_ITERS=20)
    assert _ours(in_epochs, iter_per_epoch=40) == _ours(in_updates, iter_per_epoch=40)


def test_rate_stays_put_after_the_last_update(solver):
    for policy, options in POLICY_OPTIONS.items():
        rates = _ours(solver(TOTAL_ITERS=100, POLICY=policy, **options), num=105)
        assert rates[100:] == [rates[99]] * 5


def test_one_cycle_of_few_updates_is_defined(solver):
    for total in (1, 2, 3, 10):
        for share in (0.1, 0.3, 1 / total, 1.0):
            assert all(0 < rate <= 0.1 for rate in _ours(solver(TOTAL_ITERS=total, POLICY="ONECYCLE", PCT_START=share)))


# ----------------------------------------------------------------------------------------------- one counter


def test_constructor_writes_the_rate_of_update_1_and_keeps_group_factors(solver):
    optimizer = _sgd(0.1, 0.3)
    scheduler = LearningRateScheduler(optimizer, solver(TOTAL_ITERS=100, WARM_UP_ITERS=10, WARM_UP_FACTOR=0.5), 10)
    assert scheduler.iteration == 1
    assert [group["lr"] for group in optimizer.param_groups] == scheduler.get_lr() == pytest.approx([0.05, 0.15])


def test_reading_changes_nothing(solver):
    optimizer = _sgd()
    scheduler = LearningRateScheduler(optimizer, solver(TOTAL_ITERS=100, POLICY="COSINE", WARM_UP_ITERS=10), 10)
    for _ in range(3):
        scheduler.get_lr(), scheduler.factor(77), scheduler.curve(5), scheduler.describe(), scheduler.state_dict()
    assert scheduler.iteration == 1
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01)


@pytest.mark.parametrize("policy", POLICY_OPTIONS)
def test_first_update_after_resume_uses_its_own_lr(solver, policy):
    cfg = solver(TOTAL_ITERS=100, POLICY=policy, WARM_UP_ITERS=0 if policy == "ONECYCLE" else 20, **POLICY_OPTIONS[policy])
    expected = _ours(cfg)
    for stop in (1, 5, 20, 21, 30, 31, 70, 71, 99):
        optimizer = _sgd()
        scheduler = LearningRateScheduler(optimizer, cfg, 10)
        for _ in range(stop):
            scheduler.step()
        resumed_optimizer = _sgd()
        resumed_optimizer.load_state_dict(optimizer.state_dict())
        resumed = LearningRateScheduler(resumed_optimizer, cfg, 10)
        resumed.load_state_dict(scheduler.state_dict())
        assert resumed.iteration == stop + 1
        assert resumed_optimizer.param_groups[0]["lr"] == expected[stop]


@pytest.mark.parametrize("optimizer_first", [True, False])
def test_changed_base_lr_wins_on_resume(solver, optimizer_first):
    model = torch.nn.Linear(2, 2)
    old_cfg, new_cfg = (solver(TOTAL_ITERS=100, POLICY="COSINE", BASE_LR=lr, BIAS_LR_FACTOR=2.0) for lr in (0.1, 0.5))
    old = Optimizer(model, old_cfg.OPTIMIZER).build()
    scheduler = LearningRateScheduler(old, old_cfg, 10)
    for _ in range(40):
        scheduler.step()
    new = Optimizer(model, new_cfg.OPTIMIZER).build()
    if optimizer_first:
        new.load_state_dict(old.state_dict())
    resumed = LearningRateScheduler(new, new_cfg, 10)
    if not optimizer_first:
        new.load_state_dict(old.state_dict())
    resumed.load_state_dict(scheduler.state_dict())
    assert [g["lr"] for g in new.param_groups] == pytest.approx([5 * g["lr"] for g in old.param_groups])


def test_lr_does_not_depend_on_accumulation(solver):
    curves = [_ours(solver(TOTAL_ITERS=50, POLICY="COSINE", WARM_UP_ITERS=5, ACCUMULATE=n)) for n in (1, 4)]
    assert curves[0] == curves[1]


def _curve_on_rank(rank: int) -> list[float]:
    cfg = get_base_cfg().SOLVER
    cfg.SCHEDULER.TOTAL_EPOCHS, cfg.SCHEDULER.POLICY, cfg.SCHEDULER.WARM_UP_EPOCHS = 3, "COSINE", 0.5
    return _ours(cfg)


@pytest.mark.distributed
def test_lr_does_not_depend_on_world_size():
    assert run_ranks(2, _curve_on_rank) == [_curve_on_rank(0)] * 2


# ------------------------------------------------------------------------------------------------------- text


def test_description_states_the_horizon_in_both_units(solver):
    cfg = solver(TOTAL_EPOCHS=12, POLICY="STEP", STEPS=(8, 11), WARM_UP_ITERS=500)
    text = LearningRateScheduler(_sgd(), cfg, 7329).describe()
    assert text.startswith("12 epochs = 87,948 updates; BASE_LR 0.1, STEP x 0.1 after 58,632, 80,619 updates")
    assert text.endswith("warm-up LINEAR from x 0.1 over 500 updates")


def test_curve_runs_from_the_first_to_the_last_update(solver):
    scheduler = LearningRateScheduler(_sgd(), solver(TOTAL_ITERS=1000, POLICY="POLY"), 10)
    points = scheduler.curve(11)
    assert len(points) == 11
    assert (points[0], points[-1][0]) == ((1, 0.1), 1000)
    assert points[5] == (501, pytest.approx(0.1 * 0.5**0.9))
    assert len(LearningRateScheduler(_sgd(), solver(TOTAL_ITERS=3, POLICY="POLY"), 10).curve(100)) == 3


@pytest.mark.parametrize(
    ("options", "updates"),
    [
        ({"POLICY": "STEP", "STEPS": (30, 70)}, [31, 71]),
        ({"POLICY": "STEP", "STEPS": (30, 70), "GAMMA": 0.95}, []),
        ({"POLICY": "STEP_COSINE", "STEPS": (30, 70)}, [31]),
        ({"POLICY": "COSINE"}, []),
        ({"POLICY": "COSINE", "MIN_LR_FACTOR": 0.5}, []),
        ({"POLICY": "POLY"}, []),
        ({"POLICY": "ONECYCLE", "WARM_UP_ITERS": 0}, []),
        ({"POLICY": "CONSTANT", "WARM_UP_METHOD": "CONSTANT"}, []),
    ],
    ids=["drops", "small drops", "drops before a cosine", "cosine", "cosine to a half", "poly", "one cycle", "end of the warm-up"],
)
def test_steps_of_the_rate_are_logged_and_smooth_curves_are_not(solver, caplog, monkeypatch, options, updates):
    monkeypatch.setattr(logging.getLogger("pet"), "propagate", True)
    with caplog.at_level(logging.INFO, "pet"):
        _ours(solver(**{"TOTAL_ITERS": 100, "WARM_UP_ITERS": 10, **options}))
    assert [int(record.message.rsplit(" ", 1)[1]) for record in caplog.records] == updates


# ----------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "TOTAL_EPOCHS or TOTAL_ITERS"),
        ({"TOTAL_ITERS": 10, "WARM_UP_ITERS": 10}, "the warm-up takes 10 of 10 updates"),
        ({"TOTAL_ITERS": 10, "STEPS": (5, 3)}, "STEPS must ascend"),
        ({"TOTAL_ITERS": 10, "POLICY": "STEP_COSINE"}, "STEP_COSINE needs a last one"),
        ({"TOTAL_ITERS": 10, "POLICY": "STEP_COSINE", "STEPS": (10,)}, "STEP_COSINE needs a last one"),
        ({"TOTAL_ITERS": 10, "POLICY": "ONECYCLE", "WARM_UP_ITERS": 2}, "ONECYCLE has a warm-up of its own"),
    ],
)
def test_schedule_that_cannot_be_is_refused(solver, options, message):
    with pytest.raises(ValueError, match=message):
        LearningRateScheduler(_sgd(), solver(**options), 10)


def test_unknown_policy_names_the_nearest(solver):
    with pytest.raises(KeyError, match="Did you mean 'COSINE'"):
        Schedule("COSIN", 10)
    with pytest.raises(KeyError, match="Did you mean 'LINEAR'"):
        Schedule("COSINE", 10, warmup_method="LINEA")


def test_state_without_iteration_is_refused(solver):
    scheduler = LearningRateScheduler(_sgd(), solver(TOTAL_ITERS=10), 10)
    with pytest.raises(ValueError, match="needs 'iteration'"):
        scheduler.load_state_dict({})
    with pytest.raises(ValueError, match="updates count from 1, not 0"):
        scheduler.factor(0)


def test_policy_of_ones_own_is_a_function():
    @POLICIES.register("HALF")
    def _half(schedule: Schedule, done: int) -> float:
        return 0.5

    try:
        assert Schedule("HALF", 10, warmup_iter=2, warmup_factor=0.0).factor(2) == 0.25
    finally:
        del POLICIES._entries["HALF"]
