"""The learning rates are those of torch.optim.lr_scheduler and fvcore.common.param_scheduler to 1e-9."""

from __future__ import annotations

import pytest
import torch
from fvcore.common.param_scheduler import CosineParamScheduler, MultiStepParamScheduler, PolynomialDecayParamScheduler
from torch.optim import lr_scheduler as torch_lr

from pet.config import get_base_cfg
from pet.solver import LearningRateScheduler


def _sgd(lr: float) -> torch.optim.SGD:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)


def _ours(options: dict) -> list[float]:
    cfg = get_base_cfg().SOLVER
    cfg.OPTIMIZER.BASE_LR, cfg.SCHEDULER.TOTAL_ITERS = 0.1, 100
    for name, value in options.items():
        (cfg.SCHEDULER if name in cfg.SCHEDULER else cfg.SCHEDULER.ONECYCLE)[name] = value
    optimizer = _sgd(0.1)
    scheduler, rates = LearningRateScheduler(optimizer, cfg, 10), []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        scheduler.step()
    return rates


def _torch(make, num: int) -> list[float]:
    optimizer = _sgd(0.1)
    scheduler, rates = make(optimizer), []
    for update in range(num):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if update < num - 1:
            scheduler.step()
    return rates


def _after(warm_up, policy, warm: int):
    return lambda optimizer: torch_lr.SequentialLR(optimizer, [warm_up(optimizer), policy(optimizer)], milestones=[warm])


def _linear(optimizer):
    return torch_lr.LinearLR(optimizer, start_factor=0.2, total_iters=20)


def _held(optimizer):
    return torch_lr.ConstantLR(optimizer, factor=0.2, total_iters=20)


CURVES = {
    "step": ({"POLICY": "STEP", "STEPS": (30, 70)}, lambda o: torch_lr.MultiStepLR(o, [30, 70], gamma=0.1)),
    "cosine": ({"POLICY": "COSINE", "MIN_LR_FACTOR": 0.05}, lambda o: torch_lr.CosineAnnealingLR(o, 100, eta_min=0.005)),
    "poly": ({"POLICY": "POLY", "LR_POW": 0.7}, lambda o: torch_lr.PolynomialLR(o, 100, power=0.7)),
    "constant": ({"POLICY": "CONSTANT"}, lambda o: torch_lr.ConstantLR(o, factor=1.0, total_iters=100)),
    "onecycle": ({"POLICY": "ONECYCLE"}, lambda o: torch_lr.OneCycleLR(o, 0.1, total_steps=100)),
    "onecycle shape": (
        {"POLICY": "ONECYCLE", "PCT_START": 0.45, "DIV_FACTOR": 10.0, "FINAL_DIV_FACTOR": 50.0},
        lambda o: torch_lr.OneCycleLR(o, 0.1, total_steps=100, pct_start=0.45, div_factor=10.0, final_div_factor=50.0),
    ),
    "linear + step": (
        {"POLICY": "STEP", "STEPS": (30, 70), "WARM_UP_ITERS": 20, "WARM_UP_FACTOR": 0.2},
        _after(_linear, lambda o: torch_lr.MultiStepLR(o, [10, 50]), 20),
    ),
    "constant + step": (
        {"POLICY": "STEP", "STEPS": (30, 70), "WARM_UP_ITERS": 20, "WARM_UP_FACTOR": 0.2, "WARM_UP_METHOD": "CONSTANT"},
        _after(_held, lambda o: torch_lr.MultiStepLR(o, [10, 50]), 20),
    ),
    "linear + cosine": (
        {"POLICY": "COSINE", "WARM_UP_ITERS": 20, "WARM_UP_FACTOR": 0.2},
        _after(_linear, lambda o: torch_lr.CosineAnnealingLR(o, 80), 20),
    ),
    "linear + poly": (
        {"POLICY": "POLY", "LR_POW": 0.9, "WARM_UP_ITERS": 20, "WARM_UP_FACTOR": 0.2},
        _after(_linear, lambda o: torch_lr.PolynomialLR(o, 80, power=0.9), 20),
    ),
}


@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step")
@pytest.mark.parametrize("name", CURVES)
def test_curve_equals_torch(name):
    options, make = CURVES[name]
    assert _ours(options) == pytest.approx(_torch(make, 100), rel=1e-9)


@pytest.mark.parametrize(
    ("options", "reference"),
    [
        ({"POLICY": "STEP", "STEPS": (30, 70)}, MultiStepParamScheduler([1, 0.1, 0.01], milestones=[30, 70], num_updates=100)),
        ({"POLICY": "COSINE", "MIN_LR_FACTOR": 0.1}, CosineParamScheduler(1.0, 0.1)),
        ({"POLICY": "POLY", "LR_POW": 2.0}, PolynomialDecayParamScheduler(1.0, 2.0)),
    ],
    ids=["step", "cosine", "poly"],
)
def test_curve_equals_fvcore(options, reference):
    expected = [0.1 * reference(done / 100) for done in range(100)]
    assert _ours(options) == pytest.approx(expected, rel=1e-9)
