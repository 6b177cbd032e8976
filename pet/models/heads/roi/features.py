"""What box heads compute from the features of a region before they predict."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, TwoMLPHead

from pet.models.backbones import build_backbone
from pet.utils.module import run_on_meta
from pet.utils.suggest import did_you_mean

WHERE = "HEAD of MODEL.ROI_HEAD.FASTER or .CASCADE"


class LastStage(nn.Module):
    """The last stage of a ResNet, ``layer4``, applied to regions, and their mean over space.

    Source: arXiv 1512.03385, appendix A ("Networks on conv feature maps"); 1703.06870, figure 4 left.

    Args:
        in_channels: of the features of a region.
        resolution: of the features of a region.
        backbone, pretrained, options, norm: as for ``build_backbone``; a torchvision or timm ResNet.
    """

    def __init__(
        self, in_channels: int, resolution: int, backbone: str, pretrained: bool, options: dict[str, Any], norm: str
    ) -> None:
        super().__init__()
        whole = build_backbone(backbone, pretrained=pretrained, options=options, norm=norm).body
        layer4 = getattr(whole, "layer4", None)
        if not isinstance(layer4, nn.Module):
            raise ValueError(f"{WHERE} is 'res5', but the backbone {backbone} has no stage 'layer4'; use a ResNet")
        expected = next(part.in_channels for part in layer4.modules() if isinstance(part, nn.Conv2d))
        if expected != in_channels:
            raise ValueError(
                f"{WHERE} is 'res5': layer4 of {backbone} takes {expected} channels, but the level has {in_channels}; use "
                "MODEL.FEATURES (layer3,) and no neck"
            )
        self.layer4 = layer4
        self.out_channels: int = run_on_meta(layer4, torch.empty(1, in_channels, resolution, resolution)).shape[1]

    def maps(self, regions: Tensor) -> Tensor:
        """(P, C, r, r) to (P, out_channels, r / 2, r / 2)."""
        maps: Tensor = self.layer4(regions)
        return maps

    def forward(self, regions: Tensor) -> Tensor:
        """(P, C, r, r) to (P, out_channels)."""
        return self.maps(regions).mean((2, 3))


def build_features(
    kind: str, in_channels: int, resolution: int, fc_dim: int, last_stage: dict[str, Any]
) -> tuple[nn.Module, int]:
    """The layers called ``kind`` (see ``BoxStage``) and the number of features they return for a region."""

    def two_mlp() -> tuple[nn.Module, int]:
        return TwoMLPHead(in_channels * resolution**2, fc_dim), fc_dim

    def conv_fc() -> tuple[nn.Module, int]:
        size = (in_channels, resolution, resolution)
        return FastRCNNConvFCHead(size, [in_channels] * 4, [fc_dim], norm_layer=nn.BatchNorm2d), fc_dim

    def res5() -> tuple[nn.Module, int]:
        stage = LastStage(in_channels, resolution, **last_stage)
        return stage, stage.out_channels

    kinds: dict[str, Callable[[], tuple[nn.Module, int]]] = {"two_mlp": two_mlp, "conv_fc": conv_fc, "res5": res5}
    if kind not in kinds:
        raise ValueError(f"{WHERE} is '{kind}'.{did_you_mean(kind, kinds)} Allowed: {', '.join(kinds)}")
    return kinds[kind]()
