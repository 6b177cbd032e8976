"""LeNet-5 for small images."""

from __future__ import annotations

from torch import Tensor, nn

from pet.models.registry import BACKBONES

ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU}


@BACKBONES.register("lenet5")
class LeNet5(nn.Module):
    """LeNet-5 up to its layer F6, for images of 32 x 32.

    Max pooling instead of trainable subsampling, and a full connection in C3. Source: LeCun et al. 1998,
    "Gradient-based learning applied to document recognition", section II-B.

    Args:
        activation: ``tanh`` as in the paper, or ``relu``.
        batch_norm: normalise after each layer, which learns faster; the paper has none.
        in_channels: of the images; grey images come as three equal channels.
    """

    image_size = 32

    def __init__(self, activation: str = "tanh", batch_norm: bool = False, in_channels: int = 3) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation of lenet5 is '{activation}'; allowed: {', '.join(ACTIVATIONS)}")

        def block(layer: nn.Module, norm: nn.Module, *after: nn.Module) -> nn.Sequential:
            return nn.Sequential(layer, norm if batch_norm else nn.Identity(), ACTIVATIONS[activation](), *after)

        self.layer1 = block(nn.Conv2d(in_channels, 6, 5), nn.BatchNorm2d(6), nn.MaxPool2d(2))
        self.layer2 = block(nn.Conv2d(6, 16, 5), nn.BatchNorm2d(16), nn.MaxPool2d(2))
        self.layer3 = block(nn.Conv2d(16, 120, 5), nn.BatchNorm2d(120), nn.Flatten())
        self.fc = block(nn.Linear(120, 84), nn.BatchNorm1d(84))
        self.num_features = 84

    def forward(self, images: Tensor) -> Tensor:
        """(N, in_channels, 32, 32) float to (N, 84)."""
        if images.shape[-2:] != (self.image_size, self.image_size):
            raise ValueError(
                f"lenet5 takes images of 32 x 32 pixels and got {images.shape[-2]} x {images.shape[-1]}: add resize to "
                "TRAIN.TRANSFORMS and TEST.TRANSFORMS, with SCALES_SAMPLING force_size"
            )
        out: Tensor = self.fc(self.layer3(self.layer2(self.layer1(images))))
        return out
