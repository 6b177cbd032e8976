"""Configs for the solver's tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pet.config import CfgNode, get_base_cfg


@pytest.fixture
def solver() -> Callable[..., CfgNode]:
    """``solver(BASE_LR=0.1, POLICY="STEP")``: the node SOLVER with options of OPTIMIZER and SCHEDULER set."""

    def build(**options: Any) -> CfgNode:
        cfg = get_base_cfg().SOLVER
        for name, value in options.items():
            node = next(node for node in (cfg.OPTIMIZER, cfg.SCHEDULER, cfg.SCHEDULER.ONECYCLE, cfg) if name in node)
            node[name] = value
        return cfg

    return build
