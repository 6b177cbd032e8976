"""Looking at a module without changing it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import nn


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Put a module in evaluation mode; afterwards every part of it is in the mode it was in."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        # Parents come first, so a part whose mode differs from its parent's is set last. Through train(), because
        # torchvision's feature extractors switch graphs there.
        for part, mode in modes:
            part.train(mode)


def run_on_meta(module: nn.Module, *inputs: torch.Tensor) -> Any:
    """What ``module(*inputs)`` returns in evaluation mode, with shapes but without numbers.

    Weights and results live on torch's ``meta`` device: nothing is computed, neither weights nor statistics nor the
    random state change, and it takes milliseconds whatever the size of the model.

    Args:
        inputs: tensors; only their shapes and types matter.
    """
    named = chain(module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False))
    state = {name: torch.empty_like(tensor, device="meta") for name, tensor in named}
    with eval_mode(module), torch.no_grad():
        return torch.func.functional_call(module, state, tuple(tensor.to("meta") for tensor in inputs))
