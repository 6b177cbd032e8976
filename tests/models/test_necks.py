"""The feature pyramid returns the levels that torchvision's detectors see."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models.detection import retinanet_resnet50_fpn, retinanet_resnet50_fpn_v2
from torchvision.ops import FeaturePyramidNetwork

from pet.models.necks import build_neck

CHANNELS = (8, 16, 32)


def levels() -> list[torch.Tensor]:
    return [torch.rand(2, channels, 16 >> index, 24 >> index) for index, channels in enumerate(CHANNELS)]


@pytest.mark.parametrize(("extra", "count"), [("", 3), ("pool", 4), ("p6p7", 5), ("p6p7_c5", 5)])
def test_channels_describe_the_levels(extra: str, count: int) -> None:
    neck = build_neck("fpn", CHANNELS, {"out_channels": 12, "extra": extra})
    out = neck(levels())
    assert [level.shape[1] for level in out] == list(neck.channels) == [12] * count
    sizes = [tuple(level.shape[-2:]) for level in out]
    assert sizes == [(16, 24), (8, 12), (4, 6), (2, 3), (1, 2)][:count]


def test_pyramid_computes_what_torchvisions_does() -> None:
    theirs = FeaturePyramidNetwork(list(CHANNELS), 12)
    neck = build_neck("fpn", CHANNELS, {"out_channels": 12, "extra": "pool"})
    neck.load_state_dict(theirs.state_dict())
    features = levels()
    expected = list(theirs({str(index): level for index, level in enumerate(features)}).values())
    out = neck(features)
    for ours, other in zip(out, expected, strict=False):
        assert torch.equal(ours, other)
    assert torch.equal(out[-1], expected[-1][:, :, ::2, ::2])


@pytest.mark.parametrize(("extra", "reads_last_output"), [("p6p7", True), ("p6p7_c5", False)])
def test_p6_reads_p5_or_c5_even_when_their_channels_are_equal(extra: str, reads_last_output: bool) -> None:
    neck = build_neck("fpn", (8, 12), {"out_channels": 12, "extra": extra})
    features = [torch.rand(1, 8, 8, 8), torch.rand(1, 12, 4, 4)]
    out = neck(features)
    source = out[1] if reads_last_output else features[1]
    torch.testing.assert_close(out[2], neck.extra_blocks.p6(source))
    torch.testing.assert_close(out[3], neck.extra_blocks.p7(out[2].relu()))


@pytest.mark.parametrize(
    ("build", "extra"), [(retinanet_resnet50_fpn, "p6p7"), (retinanet_resnet50_fpn_v2, "p6p7_c5")], ids=["v1", "v2"]
)
def test_extra_levels_are_those_of_torchvisions_retinanet(build: type, extra: str) -> None:
    with torch.device("meta"):
        theirs = build(weights=None, weights_backbone=None).backbone.fpn.state_dict()
        neck = build_neck("fpn", (512, 1024, 2048), {"extra": extra})
    assert {name: tensor.shape for name, tensor in neck.state_dict().items()} == {k: v.shape for k, v in theirs.items()}


def test_normalisation_by_name() -> None:
    def kinds(norm: str) -> set[type]:
        neck = build_neck("fpn", CHANNELS, {"norm": norm})
        return {type(part) for part in neck.modules() if "Norm" in type(part).__name__ and not list(part.children())}

    assert kinds("") == set()
    assert kinds("BN") == {nn.BatchNorm2d}
    assert kinds("GN") == {nn.GroupNorm}
    with pytest.raises(ValueError, match="SyncBN"):
        kinds("batch")


def test_unknown_extra_level_is_refused() -> None:
    with pytest.raises(ValueError, match="p6p7_c5"):
        build_neck("fpn", CHANNELS, {"extra": "p6"})
