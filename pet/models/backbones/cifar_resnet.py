"""ResNets for images of 32 x 32 pixels. Source: arXiv 1512.03385, section 4.2."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from pet.models.registry import BACKBONES

DEPTHS = (8, 14, 20, 32, 44, 56, 110)


class PadShortcut(nn.Module):
    """Option A of the paper: every second pixel, new channels are zero; no parameters."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.extra, self.stride = out_channels - in_channels, stride

    def forward(self, features: Tensor) -> Tensor:
        features = features[:, :, :: self.stride, :: self.stride]
        return F.pad(features, (0, 0, 0, 0, self.extra // 2, self.extra - self.extra // 2))


class ConvShortcut(nn.Sequential):
    """Option B of the paper: a 1 x 1 convolution."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))


SHORTCUTS: dict[str, type[nn.Module]] = {"A": PadShortcut, "B": ConvShortcut}


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        same = stride == 1 and in_channels == out_channels
        self.shortcut = nn.Identity() if same else SHORTCUTS[shortcut](in_channels, out_channels, stride)

    def forward(self, features: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(features)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(features))


class CifarResNet(nn.Module):
    """6n + 2 layers: a 3 x 3 convolution, three stages of n blocks with 16, 32 and 64 channels, average pooling.

    Args:
        depth: 6n + 2, e.g. 20.
        width: channels of the first stage; the paper has 16.
        shortcut: where the size changes: ``A`` subsample and pad with zeros (the paper's choice on CIFAR-10, hence its
            parameter counts), ``B`` a 1 x 1 convolution.
    """

    image_size = 32

    def __init__(self, depth: int, width: int = 16, shortcut: str = "A") -> None:
        super().__init__()
        if (depth - 2) % 6:
            raise ValueError(f"the depth of a CIFAR ResNet is 6n + 2, e.g. {', '.join(map(str, DEPTHS))}; got {depth}")
        if shortcut not in SHORTCUTS:
            raise ValueError(f"shortcut is '{shortcut}'; allowed: A (subsample and pad), B (1 x 1 convolution)")
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = self._stage(width, width, blocks, 1, shortcut)
        self.layer2 = self._stage(width, 2 * width, blocks, 2, shortcut)
        self.layer3 = self._stage(2 * width, 4 * width, blocks, 2, shortcut)
        self.num_features = 4 * width
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")

    @staticmethod
    def _stage(in_channels: int, out_channels: int, blocks: int, stride: int, shortcut: str) -> nn.Sequential:
        first = BasicBlock(in_channels, out_channels, stride, shortcut)
        return nn.Sequential(first, *(BasicBlock(out_channels, out_channels, 1, shortcut) for _ in range(blocks - 1)))

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) float to (N, 4 * width)."""
        out = F.relu(self.bn1(self.conv1(images)))
        out = self.layer3(self.layer2(self.layer1(out)))
        return F.adaptive_avg_pool2d(out, 1).flatten(1)


for _depth in DEPTHS:
    BACKBONES.register(f"cifar_resnet{_depth}")(partial(CifarResNet, _depth))
