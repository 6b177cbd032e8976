"""Normalisation layers: by name, and exchanged in a whole model."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

NORM_KINDS = ("BN", "SyncBN", "FrozenBN", "GN")
GROUPS = 32  # arXiv 1803.08494, table 3


def norm_layer(kind: str, where: str) -> Callable[[int], nn.Module] | None:
    """What makes the normalisation of a convolution from its channels; ``None`` for the empty name.

    Args:
        kind: ``BN``, ``SyncBN``, ``GN`` or empty.
        where: the config key it comes from, for the message.
    """
    known: dict[str, Callable[[int], nn.Module] | None] = {
        "": None,
        "BN": nn.BatchNorm2d,
        "SyncBN": nn.SyncBatchNorm,
        "GN": lambda channels: nn.GroupNorm(math.gcd(GROUPS, channels), channels),
    }
    if kind not in known:
        raise ValueError(f"{where} is '{kind}'; allowed: {', '.join(filter(None, known))}, or empty for none")
    return known[kind]


def convert_norm(model: nn.Module, kind: str) -> nn.Module:
    """Exchange all batch normalisation layers of a model, activations fused into them included.

    Args:
        kind: ``BN`` as it is; ``SyncBN`` statistics over all processes (CUDA only when there are several); ``FrozenBN``
            statistics and affine parameters are constants; ``GN`` group normalisation with 32 groups (fewer where the
            channels are not a multiple).

    Returns:
        The model, changed in place (a new module if it is itself a normalisation layer).

    Raises:
        ValueError: unknown kind, or a model without batch normalisation.
    """
    from timm import layers

    if kind not in NORM_KINDS:
        raise ValueError(f"no normalisation is named '{kind}'; allowed: {', '.join(NORM_KINDS)}")
    if not any(isinstance(part, _BatchNorm) for part in model.modules()):
        present = Counter(type(part).__name__ for part in model.modules() if "Norm" in type(part).__name__)
        raise ValueError(
            f"MODEL.NORM is '{kind}', which exchanges batch normalisation, but the backbone has none (it has "
            f"{', '.join(present) or 'no normalisation'}); leave MODEL.NORM empty"
        )
    if kind == "SyncBN":
        return layers.convert_sync_batchnorm(model)
    if kind == "FrozenBN":
        return layers.freeze_batch_norm_2d(model)
    return _to_group_norm(model) if kind == "GN" else model


def _to_group_norm(module: nn.Module) -> nn.Module:
    if isinstance(module, _BatchNorm):
        return _group_norm_like(module)
    for name, child in module.named_children():
        setattr(module, name, _to_group_norm(child))
    return module


def _group_norm_like(norm: _BatchNorm) -> nn.Module:
    from timm.layers import GroupNormAct

    channels = norm.num_features
    device = norm.weight.device if norm.affine else torch.get_default_device()
    group_norm: Any
    if hasattr(norm, "act"):  # timm fuses the activation (and DropBlock) into the layer
        group_norm = GroupNormAct(channels, num_groups=math.gcd(GROUPS, channels), eps=norm.eps, affine=norm.affine)
        group_norm.act, group_norm.drop = norm.act, norm.drop
    else:
        group_norm = nn.GroupNorm(math.gcd(GROUPS, channels), channels, eps=norm.eps, affine=norm.affine)
    return group_norm.to(device)
