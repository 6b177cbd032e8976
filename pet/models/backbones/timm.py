"""Backbones from timm (PyTorch Image Models)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from pet.models.backbones.base import Backbone
from pet.models.registry import construct
from pet.utils.suggest import did_you_mean


def build_timm(name: str, pretrained: bool, options: dict[str, Any], features: Sequence[str | int]) -> Backbone:
    """A model of timm without its classifier, or some of its levels (timm's ``features_only``).

    Args:
        name: e.g. ``convnext_tiny``, with or without a weight tag (``resnet50.a1_in1k``).
        pretrained: load the weights timm publishes under that name.
        options: for timm's ``create_model``, e.g. ``{"drop_path_rate": 0.1}``.
        features: see ``pet.models.backbones.build_backbone``; a number is an index of timm's ``feature_info``.
    """
    import timm

    if not timm.is_model(name):
        known = timm.list_models()
        raise KeyError(
            f"timm {timm.__version__} has no model '{name}'.{did_you_mean(name.partition('.')[0], known)} It has "
            f"{len(known)}; list them with timm.list_models('*part*')"
        )
    make = _levels if features else _pooled
    try:
        return make(name, pretrained, options, features)
    except OSError as error:
        cfg = timm.get_pretrained_cfg(name)
        where = getattr(cfg, "hf_hub_id", None) or getattr(cfg, "url", None) or "?"
        raise OSError(
            f"MODEL.PRETRAINED: cannot fetch the weights of timm/{name} (Hugging Face hub id '{where}'): {error}. Download them "
            "elsewhere and give the file as TRAIN.WEIGHTS with MODEL.PRETRAINED False"
        ) from error


def _pooled(name: str, pretrained: bool, options: dict[str, Any], features: Sequence[str | int]) -> Backbone:
    import timm

    model: Any = construct(timm.create_model, "MODEL.BACKBONE_OPTIONS", options, name, pretrained=pretrained)
    classifier, classifier_name = model.get_classifier(), model.pretrained_cfg.get("classifier")
    model.reset_classifier(0)
    channels = getattr(model, "head_hidden_size", None) or model.num_features
    backbone = Backbone(model, [channels], classifier_name if isinstance(classifier, nn.Linear) else "")
    if pretrained and isinstance(classifier, nn.Linear):
        backbone.published_classifier = (classifier.weight.detach(), classifier.bias.detach())
    return backbone


def _levels(name: str, pretrained: bool, options: dict[str, Any], features: Sequence[str | int]) -> Backbone:
    import timm

    indices = tuple(_index(name, level) if isinstance(level, str) else level for level in features)
    arguments = {"pretrained": pretrained, "features_only": True, "out_indices": indices}
    try:
        model: Any = construct(timm.create_model, "MODEL.BACKBONE_OPTIONS", options, name, **arguments)
    except (RuntimeError, AttributeError, AssertionError, IndexError) as error:
        raise ValueError(f"MODEL.FEATURES {tuple(features)} cannot be taken from timm/{name}: {error}") from error
    channels_last = str(getattr(model, "output_fmt", "NCHW")).endswith("NHWC")
    return Backbone(model, model.feature_info.channels(), channels_last=channels_last)


def _index(name: str, level: str) -> int:
    """The place of a level in timm's ``feature_info``, given its module's name."""
    import timm
    import torch

    with torch.device("meta"):
        info: Any = timm.create_model(name).feature_info
    names = [entry["module"] for entry in info]
    if level not in names:
        raise ValueError(
            f"MODEL.FEATURES: timm/{name} has no level '{level}'.{did_you_mean(level, names)} Levels: {', '.join(names)}"
        )
    return names.index(level)
