"""Feature levels out of a plain module, by torchvision's graph extractor."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from pet.models.backbones.stages import stage_parameters
from pet.utils.suggest import did_you_mean


def extract_levels(model: nn.Module, levels: Sequence[str | int]) -> nn.Module:
    """A module that returns ``{level: map}`` and holds only the layers those levels need.

    The names of the parameters stay those of ``model``.

    Args:
        levels: names of modules or graph nodes, or stage numbers (0 is the stem).

    Raises:
        ValueError: a level that does not exist, with the nearest name.
    """
    from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

    nodes = get_graph_node_names(model)[1]
    stages = [name for name, _ in stage_parameters(model)]
    names = [_stage_name(stages, level) if isinstance(level, int) else level for level in levels]
    for name in names:
        if not any(node == name or node.startswith(f"{name}.") for node in nodes):
            raise ValueError(
                f"MODEL.FEATURES: the backbone has no level '{name}'.{did_you_mean(name, stages + nodes)} "
                f"Stages: {', '.join(stage for stage in stages if stage)}; any of its graph nodes is allowed, from '{nodes[0]}' "
                f"to '{nodes[-1]}'"
            )
    extractor: nn.Module = create_feature_extractor(model, {name: name for name in names})
    return extractor


def _stage_name(stages: list[str], index: int) -> str:
    if not -len(stages) <= index < len(stages) or not stages[index]:
        known = ", ".join(f"{i}: {name}" for i, name in enumerate(stages) if name)
        raise ValueError(f"MODEL.FEATURES: the backbone has no single module for level {index}; levels with a number: {known}")
    return stages[index]
