"""The optimizers built by Pet are torch's: bitwise with the same kernels, to rounding with the plain ones."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from pet.config import get_base_cfg
from pet.solver import Optimizer

CASES = {
    "SGD": ({"MOMENTUM": 0.9, "NESTEROV": True}, lambda p, **kw: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, **kw)),
    "ADAM": ({"BETAS": (0.8, 0.95)}, lambda p, **kw: torch.optim.Adam(p, lr=0.05, betas=(0.8, 0.95), **kw)),
    "ADAMW": ({"EPS": 1e-6}, lambda p, **kw: torch.optim.AdamW(p, lr=0.05, eps=1e-6, **kw)),
    "RMSPROP": ({"ALPHA": 0.9, "MOMENTUM": 0.5}, lambda p, **kw: torch.optim.RMSprop(p, lr=0.05, alpha=0.9, momentum=0.5, **kw)),
}


def _train(optimizer: torch.optim.Optimizer, model: nn.Module) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        optimizer.zero_grad()
        model(torch.randn(8, 5, generator=generator)).square().mean().backward()
        optimizer.step()
    return [parameter.detach() for parameter in model.parameters()]


@pytest.mark.parametrize("kind", CASES)
def test_weights_after_training_are_those_of_torch(kind):
    options, make = CASES[kind]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 16), nn.LayerNorm(16), nn.Linear(16, 3))
    same_kernels, plain_kernels = copy.deepcopy(model), copy.deepcopy(model)
    cfg = get_base_cfg().SOLVER.OPTIMIZER
    cfg.TYPE, cfg.BASE_LR, cfg.WEIGHT_DECAY, cfg.WEIGHT_DECAY_NORM = kind, 0.05, 0.01, 0.0
    for name, value in options.items():
        cfg[name] = value

    def groups(net: nn.Sequential) -> list[dict]:
        return [
            {"params": [*net[0].parameters(), *net[2].parameters()], "weight_decay": 0.01},
            {"params": net[1].parameters(), "weight_decay": 0.0},
        ]

    ours = _train(Optimizer(model, cfg).build(), model)
    kernels = {} if kind == "RMSPROP" else {"fused": True}
    for own, reference in zip(ours, _train(make(groups(same_kernels), **kernels), same_kernels), strict=True):
        assert torch.equal(own, reference)
    for own, reference in zip(ours, _train(make(groups(plain_kernels), foreach=False), plain_kernels), strict=True):
        torch.testing.assert_close(own, reference, rtol=1e-4, atol=1e-6)
