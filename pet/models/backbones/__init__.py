"""Backbones: any model of torchvision or timm by name, and a few of ours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pet.models.backbones.base import Backbone, level_channels
from pet.models.backbones.levels import extract_levels
from pet.models.backbones.stages import freeze_stages
from pet.models.backbones.timm import build_timm
from pet.models.backbones.torchvision import build_torchvision
from pet.models.layers.norm import convert_norm
from pet.models.registry import BACKBONES, construct, import_files
from pet.utils.comm import main_process_first
from pet.utils.suggest import did_you_mean

__all__ = ["Backbone", "build_backbone"]

LIBRARIES: dict[str, Callable[..., Backbone]] = {"torchvision": build_torchvision, "timm": build_timm}


def build_backbone(
    name: str,
    *,
    pretrained: bool = False,
    options: dict[str, Any] | None = None,
    features: Sequence[str | int] = (),
    norm: str = "",
    freeze_at: int = 0,
) -> Backbone:
    """Build a backbone by name.

    Args:
        name: ``torchvision/<model>``, ``timm/<model>``, one of ours (``lenet5``, ``cifar_resnet20``, ...) or the import path
            of a class.
        pretrained: load the weights the library publishes for this name.
        options: keyword arguments of the model's constructor.
        features: the levels to return, by name or stage number. Empty: one level, the pooled vector (N, C) that the
            library's own classifier sees, with the library's own pooling, class token and last normalisation.
        norm: exchange the batch normalisation, see ``convert_norm``; empty: leave it.
        freeze_at: exclude that many stages from training, see ``freeze_stages``.

    Raises:
        KeyError: unknown name, with the nearest one.
        ValueError, TypeError: levels, options or numbers the model does not have.
        OSError: published weights that cannot be fetched, with their address.
    """
    library, slash, model = name.partition("/")
    if slash and library not in LIBRARIES:
        raise KeyError(
            f"MODEL.BACKBONE is '{name}', but there is no library '{library}'.{did_you_mean(library, LIBRARIES)} Allowed: "
            f"torchvision/<model>, timm/<model>, {', '.join(BACKBONES)}"
        )
    with main_process_first():  # one process downloads, the others read its file
        build = LIBRARIES[library] if slash else _build_own
        backbone = build(model if slash else name, pretrained, options or {}, features)
    if norm:
        backbone.body = convert_norm(backbone.body, norm)
    freeze_stages(backbone.body, freeze_at)
    return backbone


def _build_own(name: str, pretrained: bool, options: dict[str, Any], features: Sequence[str | int]) -> Backbone:
    """A class of ours or of the user.

    Its ``num_features`` are the channels of what ``forward`` returns: a number, or one for each level. If weights are
    published for it, its method ``load_published()`` fetches them.
    """
    part: Any = BACKBONES.find(name)
    if pretrained and not hasattr(part, "load_published"):
        raise ValueError(f"MODEL.PRETRAINED: there are no published weights for '{name}'; give a file as TRAIN.WEIGHTS")
    model: Any = construct(part, "MODEL.BACKBONE_OPTIONS", options)
    if pretrained:
        model.load_published()
    if not features:
        channels = model.num_features
        return Backbone(model, [channels] if isinstance(channels, int) else channels)
    body = extract_levels(model, features)
    return Backbone(body, level_channels(body, getattr(model, "image_size", 224)))


import_files(__name__, __path__)
