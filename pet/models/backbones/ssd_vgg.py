"""VGG-16 with the further levels of SSD. Source: arXiv 1512.02325, sections 2.1 and 3.1; the layers are torchvision's."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn
from torchvision.models import VGG16_Weights
from torchvision.models.detection.ssd import SSDFeatureExtractorVGG
from torchvision.models.vgg import cfgs, make_layers

from pet.models.registry import BACKBONES

BLOCKS = (0, 4, 9, 16, 23)  # first layer of each of the five blocks of VGG-16

SMALLEST = {6: 268, 7: 460}  # side of an image, by the number of levels; below it nothing is left for the last one


@BACKBONES.register("ssd_vgg16")
class SSDVGG16(SSDFeatureExtractorVGG):
    """Six levels of an image of 300 x 300: sides 38, 19, 10, 5, 3 and 1.

    The first is conv4_3, its pixels normalised to a learnt length. Published weights are those of VGG-16 without its
    classifier; they expect RGB from 0 to 255 minus (123.0, 117.0, 104.0), so DATA.FORMAT.IMAGE rgb255,
    DATA.PIXEL_MEAN (122.99925, 116.9991, 103.9992) and DATA.PIXEL_STD (1, 1, 1).

    Args:
        highres: a seventh level, for images of 512 x 512 (SSD512).
        freeze_blocks: exclude that many of VGG's five blocks from training. MODEL.FREEZE_AT would count every convolution.
    """

    def __init__(self, highres: bool = False, freeze_blocks: int = 0) -> None:
        if not 0 <= freeze_blocks <= len(BLOCKS):
            raise ValueError(f"ssd_vgg16: freeze_blocks is {freeze_blocks}; VGG-16 has {len(BLOCKS)} blocks, 0 freezes none")
        layers = make_layers(cfgs["D"], batch_norm=False)
        for layer in layers:
            if isinstance(layer, nn.Conv2d):  # as torchvision starts its VGG
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(layer.bias)
        layers[: [*BLOCKS, len(layers)][freeze_blocks]].requires_grad_(False)
        super().__init__(layers, highres)
        self.num_features = (512, 1024, 512, 256, 256, 256, 256)[: 7 if highres else 6]

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        """Levels of (N, 3, H, W).

        Raises:
            ValueError: an image too small for the last level.
        """
        least, side = SMALLEST[len(self.num_features)], min(x.shape[-2:])
        if side < least:
            raise ValueError(
                f"ssd_vgg16 needs images of at least {least} pixels on each side for its {len(self.num_features)} levels, got "
                f"{tuple(x.shape[-2:])} (height, width); end the transforms with resize to 300 x 300 (SCALES_SAMPLING force_size)"
            )
        levels: OrderedDict[str, Tensor] = super().forward(x)
        return levels

    def load_published(self) -> None:
        """Fetch the convolutions of VGG-16 that were trained on ImageNet.

        Raises:
            OSError: they cannot be fetched, with their address.
        """
        weights = VGG16_Weights.IMAGENET1K_FEATURES
        try:
            published = weights.get_state_dict(progress=False, check_hash=True)
        except OSError as error:
            raise OSError(
                f"MODEL.PRETRAINED: cannot fetch the weights of ssd_vgg16 from {weights.url}: {error}. Use MODEL.PRETRAINED "
                "False, and a checkpoint as TRAIN.WEIGHTS"
            ) from error
        layers = [*self.features, *self.extra[0]]  # counted as in VGG up to its last pooling, which SSD exchanges
        for index, layer in enumerate(layers):
            if isinstance(layer, nn.Conv2d):
                layer.load_state_dict({name: published[f"features.{index}.{name}"] for name in ("weight", "bias")})
