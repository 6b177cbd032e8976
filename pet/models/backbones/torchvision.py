"""Backbones from torchvision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from pet.models.backbones.base import Backbone, level_channels
from pet.models.backbones.levels import extract_levels
from pet.models.registry import construct
from pet.utils.suggest import did_you_mean

# Their auxiliary classifiers would turn the training output into a tuple of logits.
_FORCED_OPTIONS = {"googlenet": {"aux_logits": False}, "inception_v3": {"aux_logits": False}}


def build_torchvision(name: str, pretrained: bool, options: dict[str, Any], features: Sequence[str | int]) -> Backbone:
    """A classification model of torchvision without its last linear layer, or some of its levels.

    Args:
        name: e.g. ``resnet50``, or with a tag ``resnet50.IMAGENET1K_V1`` that says which published weights are meant.
        pretrained: load the weights of the tag, else ``get_model_weights(name).DEFAULT``.
        options: for torchvision's builder, e.g. ``{"stochastic_depth_prob": 0.2}``.
        features: see ``pet.models.backbones.build_backbone``.
    """
    from torchvision import models

    name, _, tag = name.partition(".")
    known = models.list_models(module=models)
    if name not in known:
        raise KeyError(
            f"torchvision {_version()} has no classification model '{name}'.{did_you_mean(name, known)} "
            f"Known: {', '.join(known)}"
        )
    weights = _published(name, tag) if pretrained or tag else None
    try:
        given = {"weights": weights if pretrained else None, **_FORCED_OPTIONS.get(name, {})}
        model = construct(models.get_model, "MODEL.BACKBONE_OPTIONS", options, name, **given)
    except OSError as error:
        raise OSError(
            f"MODEL.PRETRAINED: cannot fetch the weights of torchvision/{name} from {getattr(weights, 'url', '?')}: {error}. "
            "Download that file elsewhere and give it as TRAIN.WEIGHTS with MODEL.PRETRAINED False"
        ) from error
    return _without_classifier(name, model, pretrained) if not features else _with_levels(model, features)


def _published(name: str, tag: str) -> Any:
    """The weights that torchvision publishes under a tag; without one those it recommends."""
    from torchvision import models

    tags = models.get_model_weights(name)
    if tag and tag not in tags.__members__:
        raise KeyError(
            f"MODEL.BACKBONE: torchvision has no weights '{tag}' of {name}.{did_you_mean(tag, tags.__members__)} It has "
            f"{', '.join(m.name for m in tags) or 'none'}"
        )
    return tags[tag or "DEFAULT"]


def _with_levels(model: nn.Module, features: Sequence[str | int]) -> Backbone:
    from torchvision.models import SwinTransformer

    channels_last = isinstance(model, SwinTransformer)  # its blocks return (N, H, W, C)
    body = extract_levels(model, features)
    channels = level_channels(body, getattr(model, "image_size", 224), channels_last)
    return Backbone(body, channels, channels_last=channels_last)


def _without_classifier(name: str, model: nn.Module, pretrained: bool) -> Backbone:
    """Take off the last linear layer, and the dropout before it: the head has its own."""
    linear = [key for key, part in model.named_modules() if isinstance(part, nn.Linear)]
    last = list(model.named_modules())[-1][0]
    if not linear or linear[-1] != last:
        raise ValueError(
            f"torchvision/{name} does not end in a linear layer; name the levels to use in MODEL.FEATURES, e.g. (features,)"
        )
    classifier: Any = model.get_submodule(last)
    parent_name, _, child = last.rpartition(".")
    parent = model.get_submodule(parent_name)
    if isinstance(parent, nn.Sequential) and len(parent) > 1 and isinstance(parent[-2], nn.Dropout):
        parent[-2] = nn.Identity()
    setattr(parent, child, nn.Identity())
    backbone = Backbone(model, [classifier.in_features], last)
    if pretrained:
        backbone.published_classifier = (classifier.weight.detach(), classifier.bias.detach())
    return backbone


def _version() -> str:
    import torchvision

    return str(torchvision.__version__)
