"""Normalisation inside the semantic heads."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pet.models.layers.norm import convert_norm

NORMS = ("BN", "SyncBN", "GN")


def set_norm(head: nn.Module, kind: str) -> None:
    """Exchange the batch normalisation of a head, in place.

    Raises:
        ValueError: a kind that is not in ``NORMS``.
    """
    if kind not in NORMS:
        raise ValueError(f"norm of a semantic head is '{kind}'; allowed: {', '.join(NORMS)}")
    for name, part in list(head.named_children()):
        if kind != "BN" and any(isinstance(inner, _BatchNorm) for inner in part.modules()):
            setattr(head, name, convert_norm(part, kind))


def init_relu_convs(head: nn.Module) -> None:
    """Start convolutions that a ReLU follows with its gain, by fan out (arXiv 1502.01852)."""
    for part in head.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")


def classifier(channels: int, num_classes: int) -> nn.Conv2d:
    """The last layer, 1 x 1, which starts with all classes about equally likely."""
    conv = nn.Conv2d(channels, num_classes, 1)
    nn.init.normal_(conv.weight, std=0.01)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


def check_pooled_batch(name: str, pooled_branch: nn.Module, features: Tensor) -> None:
    """Refuse to normalise a single value per channel, of which batch normalisation has no variance.

    Args:
        name: of the head, for the message.
        pooled_branch: layers that see one value per channel and image.

    Raises:
        ValueError: there is one image, in training, and batch normalisation that looks at this process alone.
    """
    if len(features) > 1:
        return
    for part in pooled_branch.modules():
        if isinstance(part, _BatchNorm) and part.training and not _is_shared(part):
            raise ValueError(
                f"{name} averages the whole map to one value per channel, and batch normalisation needs more than one of them "
                "in training, but the batch of this process has one image. Train with at least 2 images a process (the last "
                "batch of an epoch too), or give the head norm 'GN', or 'SyncBN' on several GPUs"
            )


def _is_shared(norm: nn.Module) -> bool:
    return isinstance(norm, nn.SyncBatchNorm) and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
