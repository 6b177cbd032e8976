"""The plain head of a fully convolutional network. Source: arXiv 1411.4038; the layers are torchvision's."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.models.segmentation.fcn import FCNHead as Layers

from pet.models.heads.semseg.norm import set_norm
from pet.models.registry import SEMSEG_HEADS


@SEMSEG_HEADS.register("fcn")
class FCNHead(Layers):
    """A 3 x 3 convolution to a quarter of the channels, dropout, and the classifier. Also the usual auxiliary head.

    Args:
        in_channels: of each level; the last is used.
        num_classes: number of logits.
        dropout: probability before the classifier.
        norm: ``BN``, ``SyncBN`` or ``GN``.
    """

    def __init__(self, in_channels: Sequence[int], num_classes: int, /, *, dropout: float = 0.1, norm: str = "BN") -> None:
        super().__init__(in_channels[-1], num_classes)
        set_dropout(self, dropout)
        set_norm(self, norm)

    def forward(self, levels: list[Tensor]) -> Tensor:
        """The last level (N, C, h, w) to logits (N, num_classes, h, w)."""
        logits: Tensor = super().forward(levels[-1])
        return logits

    def dry_run(self, levels: list[Tensor]) -> None:
        """Run the head, also on the ``meta`` device."""
        self(levels)


def set_dropout(head: nn.Module, probability: float) -> None:
    """Give every dropout layer of a head this probability."""
    for part in head.modules():
        if isinstance(part, nn.Dropout):
            part.p = probability
