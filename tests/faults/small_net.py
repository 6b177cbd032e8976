"""A backbone that costs little and carries all kinds of state: convolution, BatchNorm, dropout."""

from __future__ import annotations

from torch import Tensor, nn


class SmallNet(nn.Module):
    """(N, 3, H, W) to (N, 32)."""

    def __init__(self) -> None:
        super().__init__()
        self.num_features = 32
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Dropout2d(0.1),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.layers(images)
        return features
