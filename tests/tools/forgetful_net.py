"""A backbone with a layer that its forward pass forgets, and one that returns NaN."""

from __future__ import annotations

from torch import Tensor, nn

from tests.faults.small_net import SmallNet


class ForgetfulNet(SmallNet):
    """Has parameters that no gradient reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.forgotten = nn.Linear(4, 4)


class NanNet(SmallNet):
    """Features that are not numbers."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) * float("nan")
