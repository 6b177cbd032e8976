"""Parts of a model that do not learn."""

from __future__ import annotations

from torch import nn


def freeze(module: nn.Module) -> None:
    """Exclude all parameters of a module from training."""
    module.requires_grad_(False)


def is_frozen(module: nn.Module) -> bool:
    """Whether a module has parameters and none of them is trained."""
    parameters = list(module.parameters())
    return bool(parameters) and not any(parameter.requires_grad for parameter in parameters)


def keep_frozen_in_eval(model: nn.Module) -> None:
    """Put every frozen part in evaluation mode; called after each ``train()``.

    BatchNorm statistics of a frozen part would otherwise drift, and its dropout would add noise to fixed features.
    """
    for part in model.modules():
        if part.training and is_frozen(part):
            part.eval()
