"""Stages of a backbone, read from the names its library gives to the parameters."""

from __future__ import annotations

import re

from torch import nn

# layer1 (ResNet) | stage2 (ShuffleNet) | s1, trunk_output.block1 (RegNet) | features.1, features.denseblock1 (torchvision)
# | stages.0, blocks.0, layers.0 (timm; its feature extractors write stages_0) | encoder_layer_0 (torchvision's ViT)
_STAGE = re.compile(
    r"(?:^|\.)(?:layer|stage|s|trunk_output\.block|features\.|features\.denseblock|(?:stages|blocks|layers)[._]|encoder_layer_)"
    r"\d+(?=\.)"
)


def stage_parameters(model: nn.Module) -> list[tuple[str, list[nn.Parameter]]]:
    """The parameters in stages, from input to output.

    Returns:
        Pairs of the module's name and its parameters. Pair 0 is the stem (named "" where it is several modules);
        parameters after the last stage belong to it.
    """
    stages: list[tuple[str, list[nn.Parameter]]] = []
    current = ""
    for name, parameter in model.named_parameters():
        match = _STAGE.search(name)
        prefix = name[: match.end()] if match else current
        if not stages or prefix != current:
            stages.append((prefix, []))
        stages[-1][1].append(parameter)
        current = prefix
    return stages


def freeze_stages(model: nn.Module, count: int) -> None:
    """Exclude the first ``count`` stages from training: 1 is the stem, 2 the stem and the first stage, ...

    Raises:
        ValueError: the model has fewer stages, or none that can be told apart.
    """
    stages = stage_parameters(model)
    if count and len(stages) < 2:
        raise ValueError("MODEL.FREEZE_AT: this backbone has no stages that can be told apart; use MODEL.FREEZE_BACKBONE")
    if count > len(stages):
        names = ", ".join(name or "stem" for name, _ in stages)
        raise ValueError(f"MODEL.FREEZE_AT is {count}, but the backbone has {len(stages)} stages: {names}")
    for _, parameters in stages[:count]:
        for parameter in parameters:
            parameter.requires_grad_(False)
