"""Folding batch normalisation: the same outputs, every pair that exists, none that does not."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
import torchvision
from timm.layers import freeze_batch_norm_2d
from torch import Tensor, nn

from pet.models.fuse import fuse_conv_bn
from pet.vision.config import get_base_cfg, infer_cfg
from pet.vision.model_builder import GeneralizedCNN
from tests.helpers import REPOSITORY


def shaken(model: nn.Module) -> nn.Module:
    """The model in evaluation mode, with statistics that do something."""
    for part in model.modules():
        if hasattr(part, "running_var"):
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.5, 1.5)
            part.weight.data.uniform_(0.5, 1.5)
            part.bias.data.normal_(0, 0.1)
    return model.eval()


def norms(model: nn.Module) -> int:
    return sum("BatchNorm" in type(part).__name__ for part in model.modules())


def library(name: str) -> nn.Module:
    source, _, kind = name.partition("/")
    return torchvision.models.get_model(kind, weights=None) if source == "torchvision" else timm.create_model(kind)


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("torchvision/resnet18", 0),
        ("torchvision/vgg11_bn", 0),
        ("torchvision/mobilenet_v3_small", 0),
        ("timm/resnet26d", 0),
        ("timm/tf_efficientnet_b0", 0),  # activations inside the normalisation, padding inside the convolution
        ("timm/regnetx_002", 0),
        ("torchvision/shufflenet_v2_x0_5", 0),
        ("timm/resnetv2_50", 17),  # the normalisation after an addition, and the last one, have no convolution of their own
        ("timm/nf_resnet26", 0),  # none at all, and weights that are standardised
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_outputs_stay_and_every_pair_is_folded(name: str, left: int) -> None:
    model, images = shaken(library(name)), torch.randn(2, 3, 96, 96)
    before = norms(model)
    with torch.inference_mode():
        expected = model(images)
        assert fuse_conv_bn(model) == before - left
        found = model(images)
    assert norms(model) == left
    assert fuse_conv_bn(model) == 0
    torch.testing.assert_close(found, expected, atol=1e-4 * max(float(expected.abs().max()), 1.0), rtol=0)


@pytest.mark.parametrize("kind", ["torchvision", "timm"])
def test_frozen_normalisation_is_folded(kind: str) -> None:
    if kind == "torchvision":
        model: Any = torchvision.models.resnet18(norm_layer=torchvision.ops.FrozenBatchNorm2d)
    else:
        model = freeze_batch_norm_2d(timm.create_model("mobilenetv3_small_050"))
    shaken(model)
    images, before = torch.randn(1, 3, 64, 64), norms(model)
    with torch.inference_mode():
        expected = model(images)
        assert fuse_conv_bn(model) == before > 0
        torch.testing.assert_close(model(images), expected, atol=1e-4, rtol=0)


class Branches(nn.Module):
    """Convolutions whose output somebody else reads as well, in different ways."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.conv, self.other = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
        self.bn, self.second = nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, images: Tensor) -> Any:
        made = self.conv(images)
        if self.kind == "read twice":
            return self.bn(made) + made
        if self.kind == "returned":
            return self.bn(made), made
        if self.kind == "two norms":
            return self.bn(made) + self.second(made)
        if self.kind == "two convolutions":
            return self.bn(made) + self.bn(self.other(images))
        if self.kind == "changed in place":
            return self.bn(made.relu_())
        if self.kind == "view":
            return self.bn(made) + made.flatten(1).mean()
        return self.bn(self.conv(images)) + self.bn(made)  # "both twice"


@pytest.mark.parametrize(
    ("kind", "pairs"),
    [
        ("read twice", 0),
        ("returned", 0),
        ("two norms", 0),
        ("two convolutions", 0),
        ("changed in place", 0),
        ("view", 0),
        ("both twice", 1),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_only_convolutions_with_one_reader_are_folded(kind: str, pairs: int) -> None:
    model, images = shaken(Branches(kind)), torch.randn(1, 3, 5, 5)
    with torch.inference_mode():
        expected = model(images)
        assert fuse_conv_bn(model) == pairs
        torch.testing.assert_close(model(images), expected)


class Doubled(nn.Conv2d):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) * 2


def test_a_convolution_that_does_more_is_left_alone() -> None:
    weird = nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 3))
    model = shaken(
        nn.Sequential(Doubled(3, 4, 1), nn.BatchNorm2d(4), weird, nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
    )
    images = torch.randn(1, 3, 6, 6)
    with torch.inference_mode():
        expected = model(images)
        assert fuse_conv_bn(model) == 1
        torch.testing.assert_close(model(images), expected)


def test_a_detector_is_folded_with_all_its_heads() -> None:
    cfg = get_base_cfg()
    cfg.merge_from_file(REPOSITORY / "cfgs/vision/shapes/mask_rcnn.yaml")
    cfg.merge_from_list(
        ["MODEL.NECK_OPTIONS.norm", "BN", "MODEL.ROI_HEAD.MASK.NORM", "BN", "MODEL.ROI_HEAD.FASTER.HEAD", "conv_fc"]
    )  # fmt: skip
    cfg.merge_from_list(["MODEL.ROI_HEAD.FASTER.SCORE_THRESH", "0.0", "MODEL.ROI_HEAD.FASTER.DETECTIONS_PER_IMG", "10"])
    infer_cfg(cfg)
    model = GeneralizedCNN(cfg, is_train=False)
    shaken(model)
    images, before = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8), norms(model)
    with torch.inference_mode():
        expected = model(images)["instances"][0]
        assert fuse_conv_bn(model, (64, 64)) == before > 25
        found = model(images)["instances"][0]
    assert len(expected["boxes"])
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-4)


def test_a_model_in_training_mode_is_refused() -> None:
    model = torchvision.models.resnet18().eval()
    model.layer2.train()
    with pytest.raises(ValueError, match=r"layer2 is in training mode.*eval\(\)"):
        fuse_conv_bn(model)


def test_images_of_a_size_the_model_does_not_take_are_refused() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 28 * 28, 2)).eval()
    assert fuse_conv_bn(model, (28, 28)) == 0
    with pytest.raises(ValueError, match="224 x 224"):
        fuse_conv_bn(model)
