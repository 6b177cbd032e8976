"""The semantic branch of Panoptic FPN. Source: arXiv 1901.02446, section 3.1 and figure 3."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import Conv2dNormActivation

from pet.models.heads.semseg.norm import classifier, init_relu_convs
from pet.models.registry import SEMSEG_HEADS

LEVELS = 4  # P2 to P5; what a neck adds after them is too coarse to help


@SEMSEG_HEADS.register("semseg_fpn")
class SemSegFPNHead(nn.Module):
    """Every level is brought to the finest one by steps of convolution and doubling; their sum is classified.

    Args:
        in_channels: of each level, finest first; the first four are used.
        num_classes: number of logits.
        channels: of the branches.
        groups: of the group normalisation.
    """

    def __init__(self, in_channels: Sequence[int], num_classes: int, /, *, channels: int = 128, groups: int = 32) -> None:
        super().__init__()
        if len(in_channels) < 2:
            raise ValueError(
                f"semseg_fpn joins levels, but gets {len(in_channels)}; use a neck, e.g. MODEL.NECK fpn, or another semantic head"
            )
        if channels % groups:
            raise ValueError(f"semseg_fpn: CHANNELS {channels} is not a multiple of GROUPS {groups}")

        def step(width: int) -> nn.Module:
            return Conv2dNormActivation(width, channels, 3, norm_layer=lambda c: nn.GroupNorm(groups, c))

        # The finest level has one step without doubling, as the paper's figure shows.
        self.branches = nn.ModuleList(
            nn.ModuleList(step(width if index == 0 else channels) for index in range(max(level, 1)))
            for level, width in enumerate(in_channels[:LEVELS])
        )
        init_relu_convs(self)
        self.classifier = classifier(channels, num_classes)

    def forward(self, levels: list[Tensor]) -> Tensor:
        """Levels (N, C, h_i, w_i) to logits (N, num_classes, h_0, w_0) at the stride of the finest."""
        joined = torch.stack([self._to_finest(index, levels) for index in range(len(self.branches))]).sum(dim=0)
        logits: Tensor = self.classifier(joined)
        return logits

    def dry_run(self, levels: list[Tensor]) -> None:
        """Run the head, also on the ``meta`` device."""
        self(levels)

    def _to_finest(self, index: int, levels: list[Tensor]) -> Tensor:
        """One level; each step ends at the size of the next finer level, which is twice its own where that is even."""
        features = levels[index]
        for done, step in enumerate(self.branches[index]):  # type: ignore[arg-type]
            features = step(features)
            if index:
                size = levels[index - done - 1].shape[-2:]
                features = F.interpolate(features, size, mode="bilinear", align_corners=False)
        return features
