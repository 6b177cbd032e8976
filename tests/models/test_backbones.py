"""Backbones by name: what they return, what they refuse, what stays fixed."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from pet.models.backbones import Backbone, build_backbone
from pet.models.backbones.stages import stage_parameters
from pet.models.registry import BACKBONES


def levels_of(backbone: Backbone, size: int) -> list[torch.Tensor]:
    backbone.eval()
    with torch.no_grad():
        return backbone(torch.rand(2, 3, size, size))


@pytest.mark.parametrize(("name", "millions"), [("cifar_resnet20", 0.27), ("cifar_resnet56", 0.85), ("cifar_resnet110", 1.7)])
def test_cifar_resnets_have_the_parameters_of_the_paper(name: str, millions: float) -> None:
    """arXiv 1512.03385, table 6; the classifier of ten classes included."""
    count = sum(p.numel() for p in build_backbone(name).parameters()) + 64 * 10 + 10
    assert count / 1e6 == pytest.approx(millions, rel=0.02)


def test_cifar_resnet_shortcut_b_adds_two_projections() -> None:
    plain, projected = (
        sum(p.numel() for p in build_backbone("cifar_resnet20", options={"shortcut": s}).parameters()) for s in "AB"
    )
    assert projected - plain == 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64


@pytest.mark.parametrize(
    ("name", "features", "size", "shapes"),
    [
        ("lenet5", (), 32, [(2, 84)]),
        ("cifar_resnet20", (), 32, [(2, 64)]),
        ("cifar_resnet20", (1, 2, 3), 32, [(2, 16, 32, 32), (2, 32, 16, 16), (2, 64, 8, 8)]),
        ("torchvision/resnet18", (), 64, [(2, 512)]),
        ("torchvision/resnet18", ("layer2", 4), 64, [(2, 128, 8, 8), (2, 512, 2, 2)]),
        ("torchvision/mobilenet_v3_small", ("features.3", 8), 64, [(2, 24, 8, 8), (2, 48, 4, 4)]),
        ("torchvision/swin_t", (1, 7), 64, [(2, 96, 16, 16), (2, 768, 2, 2)]),
        ("timm/resnet18d", (), 64, [(2, 512)]),
        ("timm/resnet18d", (1, "layer4"), 64, [(2, 64, 16, 16), (2, 512, 2, 2)]),
        ("timm/vit_tiny_patch16_224", (), 224, [(2, 192)]),
        ("timm/vit_tiny_patch16_224", (11,), 224, [(2, 192, 14, 14)]),
        ("timm/swin_tiny_patch4_window7_224", (0, 3), 224, [(2, 96, 56, 56), (2, 768, 7, 7)]),
        ("timm/mobilenetv3_small_050", (), 64, [(2, 1024)]),
    ],
)
def test_backbone_returns_the_levels_asked_for(name: str, features: tuple, size: int, shapes: list) -> None:
    backbone = build_backbone(name, features=features)
    assert [tuple(level.shape) for level in levels_of(backbone, size)] == shapes
    assert backbone.channels == tuple(shape[1] for shape in shapes)


def test_levels_hold_only_the_layers_they_need() -> None:
    names = [name for name, _ in build_backbone("torchvision/resnet18", features=(2,)).named_parameters()]
    assert any("layer2" in name for name in names)
    assert not any("layer3" in name or "fc" in name for name in names)


def test_levels_of_torchvision_equal_the_whole_model() -> None:
    torch.manual_seed(1)
    levels = build_backbone("torchvision/resnet18", features=(4,))
    torch.manual_seed(1)
    pooled = build_backbone("torchvision/resnet18")
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(levels.eval()(images)[0].mean((2, 3)), pooled.eval()(images)[0])


def test_building_is_repeatable_from_torch_seed_alone() -> None:
    torch.manual_seed(5)
    first = build_backbone("timm/resnet18d").state_dict()
    torch.manual_seed(5)
    second = build_backbone("timm/resnet18d").state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("name", "options", "error", "words"),
    [
        ("torchvision/resnet19", {}, KeyError, "resnet18"),
        ("torchvison/resnet18", {}, KeyError, "torchvision"),
        ("timm/convnext_tinny", {}, KeyError, "convnext_tiny"),
        ("lenet", {}, KeyError, "lenet5"),
        ("my_pkg.backbones.Net", {}, KeyError, "cannot be imported"),
        ("torchvision/resnet18", {"options": {"widht": 3}}, TypeError, "BACKBONE_OPTIONS"),
        ("torchvision/resnet18", {"features": ("layr4",)}, ValueError, "layer4"),
        ("torchvision/resnet18", {"features": (9,)}, ValueError, "4: layer4"),
        ("timm/resnet18d", {"features": ("layr4",)}, ValueError, "layer4"),
        ("torchvision/resnet18", {"freeze_at": 9}, ValueError, "5 stages"),
        ("lenet5", {"freeze_at": 9}, ValueError, "layer3"),
        ("torchvision/squeezenet1_0", {}, ValueError, "MODEL.FEATURES"),
        ("torchvision/vit_b_16", {"norm": "GN"}, ValueError, "LayerNorm"),
        ("lenet5", {"pretrained": True}, ValueError, "TRAIN.WEIGHTS"),
        ("cifar_resnet20", {"options": {"shortcut": "C"}}, ValueError, "1 x 1"),
    ],
)
def test_a_mistake_is_named_with_what_is_allowed(name: str, options: dict, error: type[Exception], words: str) -> None:
    with torch.device("meta"), pytest.raises(error, match=words):
        build_backbone(name, **options)


def test_lenet_names_the_size_it_needs() -> None:
    with pytest.raises(ValueError, match=r"32 x 32 .*28 x 28.*resize"):
        build_backbone("lenet5")(torch.zeros(1, 3, 28, 28))


@pytest.mark.parametrize("name", ["torchvision/mobilenet_v3_small", "timm/mobilenetv3_small_050", "cifar_resnet20"])
@pytest.mark.parametrize(
    ("kind", "layer"),
    [("GN", "GroupNorm"), ("SyncBN", "SyncBatchNorm"), ("FrozenBN", "FrozenBatchNorm"), ("BN", "BatchNorm2d|BatchNormAct2d")],
)
def test_norm_exchanges_every_batch_norm(name: str, kind: str, layer: str) -> None:
    backbone = build_backbone(name, norm=kind)
    kinds = {type(part).__name__ for part in backbone.modules()}
    kinds = {found for found in kinds if "Norm" in found and "Conv" not in found}
    assert kinds
    assert all(any(word in found for word in layer.split("|")) for found in kinds), kinds
    levels_of(backbone, 64)


@pytest.mark.parametrize("name", ["torchvision/resnet18", "timm/mobilenetv3_small_050"])
def test_frozen_batch_norm_computes_what_batch_norm_does_in_evaluation(name: str) -> None:
    torch.manual_seed(0)
    usual = build_backbone(name)
    torch.manual_seed(0)
    frozen = build_backbone(name, norm="FrozenBN")
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(frozen.train()(images)[0], usual.eval()(images)[0], rtol=1e-4, atol=1e-4)


def test_group_norm_keeps_the_activation_that_timm_fuses_into_the_norm() -> None:
    backbone = build_backbone("timm/mobilenetv3_small_050", norm="GN")
    fused = [part for part in backbone.modules() if type(part).__name__ == "GroupNormAct"]
    assert {type(part.act).__name__ for part in fused} >= {"Hardswish", "ReLU", "Identity"}


@pytest.mark.parametrize(
    ("name", "stem", "stages"),
    [
        ("torchvision/resnet50", "conv1", 5),
        ("torchvision/convnext_tiny", "features.0", 8),
        ("torchvision/vit_b_16", "class_token", 13),
        ("torchvision/shufflenet_v2_x0_5", "conv1", 4),
        ("timm/resnet50d", "conv1", 5),
        ("timm/convnext_tiny", "stem", 5),
        ("timm/vit_tiny_patch16_224", "cls_token", 13),
        ("timm/efficientnet_b0", "conv_stem", 8),
    ],
)
def test_stages_follow_the_library_names(name: str, stem: str, stages: int) -> None:
    with torch.device("meta"):
        body = build_backbone(name).body
    groups = stage_parameters(body)
    names = {id(p): n for n, p in body.named_parameters()}
    assert len(groups) == stages
    assert names[id(groups[0][1][0])].startswith(stem)
    assert sum(len(parameters) for _, parameters in groups) == len(names)


def test_freeze_at_two_fixes_stem_and_first_stage() -> None:
    for features in ((), (1, 4)):
        body = build_backbone("torchvision/resnet18", freeze_at=2, features=features).body
        fixed = {name.partition(".")[0] for name, p in body.named_parameters() if not p.requires_grad}
        assert fixed == {"conv1", "bn1", "layer1"}


def test_offline_torchvision_weights_name_the_address_and_the_way_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from urllib.error import URLError

    def refuse(*_: object, **__: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", refuse)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    with pytest.raises(OSError, match=r"download\.pytorch\.org/models/resnet18.*TRAIN\.WEIGHTS"):
        build_backbone("torchvision/resnet18", pretrained=True)


def test_offline_timm_weights_name_the_hub_id_and_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match=r"timm/resnet18d.*TRAIN\.WEIGHTS"):
        build_backbone("timm/resnet18d", pretrained=True)


def test_pretrained_weights_come_from_the_library_with_their_classifier(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models import resnet18

    published = resnet18().state_dict()
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *_, **__: copy.deepcopy(published))
    backbone = build_backbone("torchvision/resnet18", pretrained=True)
    assert torch.equal(backbone.body.layer1[0].conv1.weight, published["layer1.0.conv1.weight"])
    assert torch.equal(backbone.published_classifier[0], published["fc.weight"])


def test_a_backbone_of_ones_own_needs_one_class() -> None:
    @BACKBONES.register("tiny_test_net")
    class Tiny(nn.Module):
        def __init__(self, width: int = 4) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, width, 3)
            self.num_features = width

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.conv(images).mean((2, 3))

    assert levels_of(build_backbone("tiny_test_net", options={"width": 6}), 8)[0].shape == (2, 6)
    assert build_backbone("pet.models.backbones.lenet.LeNet5").channels == (84,)
