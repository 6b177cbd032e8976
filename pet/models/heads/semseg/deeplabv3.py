"""DeepLabV3. Source: arXiv 1706.05587; the layers are torchvision's."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torchvision.models.segmentation.deeplabv3 import DeepLabHead

from pet.models.heads.semseg.fcn import set_dropout
from pet.models.heads.semseg.norm import check_pooled_batch, set_norm
from pet.models.registry import SEMSEG_HEADS


@SEMSEG_HEADS.register("deeplabv3")
class DeepLabV3Head(DeepLabHead):
    """Atrous convolutions of several rates and the mean of the map side by side, then the classifier.

    Args:
        in_channels: of each level; the last is used.
        num_classes: number of logits.
        rates: dilations, for a backbone of stride 8; half of them for stride 16.
        dropout: probability after the pyramid.
        norm: ``BN``, ``SyncBN`` or ``GN``.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        /,
        *,
        rates: Sequence[int] = (12, 24, 36),
        dropout: float = 0.5,
        norm: str = "BN",
    ) -> None:
        super().__init__(in_channels[-1], num_classes, tuple(rates))
        set_dropout(self, dropout)
        set_norm(self, norm)

    def forward(self, levels: list[Tensor]) -> Tensor:
        """The last level (N, C, h, w) to logits (N, num_classes, h, w)."""
        check_pooled_batch("deeplabv3", self[0].convs[-1], levels[-1])
        return super().forward(levels[-1])

    def dry_run(self, levels: list[Tensor]) -> None:
        """Run the layers, also on the ``meta`` device."""
        super().forward(levels[-1])
