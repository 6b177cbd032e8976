"""Feature pyramid."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, LastLevelMaxPool, LastLevelP6P7

from pet.models.layers.norm import norm_layer
from pet.models.registry import NECKS

EXTRAS = {"": 0, "pool": 1, "p6p7": 2, "p6p7_c5": 2}


@NECKS.register("fpn")
class FPN(FeaturePyramidNetwork):
    """Feature Pyramid Network of torchvision. Source: arXiv 1612.03144, section 3.

    Args:
        channels: of each level of the backbone, finest first.
        out_channels: of every level that is returned.
        extra: coarser levels: ``pool`` every second pixel of the last one (P6); ``p6p7`` two convolutions of stride 2 on the
            last output (torchvision's RetinaNet); ``p6p7_c5`` the same on the last level of the backbone (arXiv 1708.02002,
            section 4; torchvision's RetinaNet v2); empty: none.
        norm: normalisation of the pyramid's convolutions: ``BN`` (torchvision's detectors v2), ``SyncBN``, ``GN`` or empty.

    Attributes:
        channels: of each level returned.
    """

    def __init__(self, channels: Sequence[int], out_channels: int = 256, extra: str = "pool", norm: str = "") -> None:
        if extra not in EXTRAS:
            allowed = ", ".join(filter(None, EXTRAS))
            raise ValueError(f"MODEL.NECK_OPTIONS extra is '{extra}'; allowed: {allowed}, or empty for no further level")
        block = _extra_levels(extra, channels[-1], out_channels)
        super().__init__(list(channels), out_channels, block, norm_layer(norm, "MODEL.NECK_OPTIONS norm"))
        self.channels = (out_channels,) * (len(channels) + EXTRAS[extra])

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """Maps (N, C_i, H_i, W_i) to maps (N, out_channels, H_i, W_i), and the extra levels at half the size each."""
        return list(super().forward({str(index): level for index, level in enumerate(levels)}).values())


def _extra_levels(extra: str, last_channels: int, out_channels: int) -> ExtraFPNBlock | None:
    if extra == "pool":
        return LastLevelMaxPool()
    if not extra:
        return None
    block = LastLevelP6P7(last_channels if extra == "p6p7_c5" else out_channels, out_channels)
    block.use_P5 = extra == "p6p7"  # torchvision guesses it from the channels, wrong when C5 has as many as P5
    return block
