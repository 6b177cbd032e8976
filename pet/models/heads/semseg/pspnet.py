"""PSPNet, pyramid pooling. Source: arXiv 1612.01105, section 3.2."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import Conv2dNormActivation

from pet.models.heads.semseg.norm import check_pooled_batch, classifier, init_relu_convs, set_norm
from pet.models.registry import SEMSEG_HEADS


@SEMSEG_HEADS.register("pspnet")
class PSPHead(nn.Module):
    """Means over grids of several sizes, put beside the map, so that every cell knows the whole image.

    Args:
        in_channels: of each level; the last is used.
        num_classes: number of logits.
        channels: of each branch, and of the layer before the classifier. 512 is a quarter of ResNet-50's 2048, as in
            the paper.
        bins: cells on each side of the grids.
        dropout: probability before the classifier.
        norm: ``BN``, ``SyncBN`` or ``GN``.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        /,
        *,
        channels: int = 512,
        bins: Sequence[int] = (1, 2, 3, 6),
        dropout: float = 0.1,
        norm: str = "BN",
    ) -> None:
        super().__init__()
        width = in_channels[-1]
        self.bins = tuple(bins)
        self.branches = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(cells), Conv2dNormActivation(width, channels, 1)) for cells in self.bins
        )
        self.bottleneck = Conv2dNormActivation(width + channels * len(self.bins), channels, 3)
        self.dropout = nn.Dropout(dropout)
        init_relu_convs(self)
        self.classifier = classifier(channels, num_classes)
        set_norm(self, norm)

    def forward(self, levels: list[Tensor]) -> Tensor:
        """The last level (N, C, h, w) to logits (N, num_classes, h, w)."""
        for cells, branch in zip(self.bins, self.branches, strict=True):
            if cells == 1:
                check_pooled_batch("pspnet", branch, levels[-1])
        return self._layers(levels[-1])

    def dry_run(self, levels: list[Tensor]) -> None:
        """Run the layers, also on the ``meta`` device."""
        self._layers(levels[-1])

    def _layers(self, features: Tensor) -> Tensor:
        size = features.shape[-2:]
        pooled = [F.interpolate(branch(features), size, mode="bilinear", align_corners=False) for branch in self.branches]
        logits: Tensor = self.classifier(self.dropout(self.bottleneck(torch.cat([features, *pooled], dim=1))))
        return logits
