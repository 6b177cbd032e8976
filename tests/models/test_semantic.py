"""Semantic heads, their loss, and the way from logits to a map of the picture."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pet.models.backbones import build_backbone
from pet.models.heads.semseg import build_semseg_head
from pet.models.losses import semantic
from pet.models.losses.semantic import SemanticLoss, semantic_map, upsample_logits
from pet.utils.module import run_on_meta

CLASSES = 5
HEADS: dict[str, dict[str, Any]] = {
    "fcn": {},
    "deeplabv3": {"rates": (1, 2, 3)},
    "pspnet": {"channels": 64},
    "semseg_fpn": {"channels": 16, "groups": 4},
}


def build(name: str, **options: Any) -> nn.Module:
    return build_semseg_head(name, (32,) * 5, CLASSES, HEADS[name] | options)


def levels(images: int = 2, sides: tuple[int, ...] = (16, 8, 4, 2, 1)) -> list[Tensor]:
    return [torch.randn(images, 32, side, side + side // 2) for side in sides]


def levels_for(name: str, images: int = 2) -> list[Tensor]:
    """A pyramid, or for the heads that look at the last level alone one of 6 x 7 cells."""
    return levels(images) if name == "semseg_fpn" else [torch.randn(images, 32, 6, 7)]


@pytest.mark.parametrize("name", list(HEADS))
def test_logits_have_the_stride_of_the_level(name: str) -> None:
    size = (16, 24) if name == "semseg_fpn" else (6, 7)
    assert build(name)(levels_for(name)).shape == (2, CLASSES, *size)


@pytest.mark.parametrize("name", list(HEADS))
@pytest.mark.parametrize("ignored", [False, True], ids=["judged", "ignored"])
def test_every_parameter_gets_a_finite_gradient(name: str, ignored: bool) -> None:
    head, target = build(name), torch.randint(0, CLASSES, (2, 64, 96), dtype=torch.uint8)
    if ignored:
        target[:] = 255
    loss = SemanticLoss()(head(levels_for(name)), target)
    loss.backward()
    assert loss.isfinite()
    assert (loss == 0) == ignored
    for parameter in head.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()


@pytest.mark.parametrize("name", list(HEADS))
def test_autocast_works_and_the_loss_is_float32(name: str) -> None:
    head, maps = build(name), levels_for(name)
    with torch.autocast("cpu", torch.bfloat16):
        logits = head([level.bfloat16() for level in maps])
        loss = SemanticLoss()(logits, torch.randint(0, CLASSES, (2, 24, 28)))
    loss.backward()
    assert logits.dtype == torch.bfloat16
    assert loss.dtype == torch.float32
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = semantic_map(head.eval()(maps)[0], (24, 28), (20, 28), (40, 56))
    assert found.shape == (40, 56)


@pytest.mark.parametrize("name", list(HEADS))
def test_dry_run_works_without_numbers_even_with_one_image_in_training(name: str) -> None:
    head = build(name)

    class Run(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = head

        def forward(self, *maps: Tensor) -> None:
            self.head.dry_run(list(maps))

    assert run_on_meta(Run(), *levels(images=1)) is None


@pytest.mark.parametrize("name", ["deeplabv3", "pspnet"])
def test_one_image_in_training_is_refused_with_the_way_out(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name}.*at least 2 images.*'GN'"):
        build(name)(levels_for(name, 1))
    assert build(name).eval()(levels_for(name, 1)).shape == (1, CLASSES, 6, 7)
    assert build(name, norm="GN")(levels_for(name, 1)).shape == (1, CLASSES, 6, 7)
    assert build("pspnet", bins=(2, 3))(levels_for(name, 1)).shape == (1, CLASSES, 6, 7)


@pytest.mark.parametrize("name", ["fcn", "deeplabv3", "pspnet"])
@pytest.mark.parametrize(("kind", "layer"), [("SyncBN", nn.SyncBatchNorm), ("GN", nn.GroupNorm)])
def test_norm_exchanges_every_batch_norm(name: str, kind: str, layer: type[nn.Module]) -> None:
    found = {type(part) for part in build(name, norm=kind).modules() if "Norm" in type(part).__name__}
    found = {part for part in found if "Activation" not in part.__name__}
    assert found == {layer}


def test_dropout_is_what_the_option_says() -> None:
    for name in ("fcn", "deeplabv3", "pspnet"):
        (dropout,) = (part for part in build(name, dropout=0.3).modules() if isinstance(part, nn.Dropout))
        assert dropout.p == 0.3


def test_pyramid_pooling_by_hand() -> None:
    head = build("pspnet").eval()
    features = torch.randn(2, 32, 6, 7)
    means = [features]
    for cells, (_, layers) in zip((1, 2, 3, 6), head.branches, strict=True):
        pooled = layers(F.adaptive_avg_pool2d(features, cells))
        means.append(F.interpolate(pooled, (6, 7), mode="bilinear", align_corners=False))
    expected = head.classifier(head.bottleneck(torch.cat(means, 1)))
    torch.testing.assert_close(head([features]), expected)


def test_semseg_fpn_doubles_each_level_until_it_is_the_finest() -> None:
    head = build("semseg_fpn")
    assert [len(branch) for branch in head.branches] == [1, 1, 2, 3]
    maps = levels()
    total = head.branches[0][0](maps[0])
    for level, branch in list(zip(maps, head.branches, strict=False))[1:]:
        for step in branch:
            level = F.interpolate(step(level), scale_factor=2.0, mode="bilinear", align_corners=False)
        total = total + level
    torch.testing.assert_close(head(maps), head.classifier(total))


def test_semseg_fpn_takes_sizes_that_are_no_multiple_of_32() -> None:
    assert build("semseg_fpn")(levels(1, (13, 7, 4, 2, 1))).shape == (1, CLASSES, 13, 19)


@pytest.mark.parametrize(
    ("name", "channels", "options", "error", "words"),
    [
        ("fcn", (32,), {"norm": "LN"}, ValueError, "SyncBN"),
        ("semseg_fpn", (32,), {}, ValueError, "MODEL.NECK"),
        ("semseg_fpn", (32, 32), {"channels": 100}, ValueError, "100.*GROUPS 32"),
        ("pspnet", (32,), {"bin": 3}, TypeError, r"SEMSEG\.PSPNET"),
        ("psp", (32,), {}, KeyError, "pspnet"),
    ],
)
def test_a_mistake_is_named(name: str, channels: tuple[int, ...], options: dict, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        build_semseg_head(name, channels, CLASSES, options)


def test_a_dilated_resnet_keeps_stride_eight() -> None:
    options = {"replace_stride_with_dilation": [False, True, True]}
    backbone = build_backbone("torchvision/resnet50", options=options, features=("layer3", "layer4"))
    maps = backbone.eval()(torch.rand(1, 3, 64, 96))
    assert backbone.channels == (1024, 2048)
    assert [tuple(level.shape[-2:]) for level in maps] == [(8, 12), (8, 12)]


# ---------------------------------------------------------------------------------------------------------------- loss


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, (1.0, 2.0, 0.5, 1.0, 3.0)], ids=["plain", "weighted"])
def test_loss_equals_torch_on_the_pixels_that_are_judged(smoothing: float, weights: tuple[float, ...] | None) -> None:
    logits, target = torch.randn(2, CLASSES, 6, 7), torch.randint(0, CLASSES, (2, 24, 28))
    target[:, :5] = 200
    large = F.interpolate(logits, (24, 28), mode="bilinear", align_corners=False)
    expected = F.cross_entropy(
        large, target, None if weights is None else torch.tensor(weights), ignore_index=200, label_smoothing=smoothing
    )
    loss = SemanticLoss(0.4, 200, smoothing, weights)
    torch.testing.assert_close(loss(logits, target.to(torch.uint8)), 0.4 * expected)
    assert not loss.state_dict()


@pytest.mark.parametrize("ignored", [0, 200])
def test_void_and_padding_are_not_judged_whatever_the_ignored_label_is(ignored: int) -> None:
    logits, target = torch.randn(1, CLASSES, 6, 7), torch.randint(1, CLASSES, (1, 6, 7))
    target[:, 0], target[:, 1] = ignored, 255
    expected = F.cross_entropy(logits[:, :, 2:], target[:, 2:])
    torch.testing.assert_close(SemanticLoss(ignore_label=ignored)(logits, target.to(torch.uint8)), expected)


def test_loss_without_judged_pixels_is_zero_and_connected() -> None:
    for options in ({}, {"class_weights": (1.0,) * CLASSES}, {"ohem_thresh": 0.7}):
        logits = torch.randn(1, CLASSES, 3, 3, requires_grad=True)
        loss = SemanticLoss(**options)(logits, torch.full((1, 6, 6), 255, dtype=torch.uint8))
        loss.backward()
        assert loss == 0
        assert (logits.grad == 0).all()


def test_hard_examples_by_hand() -> None:
    # Probabilities of the right class: 0.9, 0.8, 0.6, 0.2; the fifth pixel is not judged.
    right = torch.tensor([0.9, 0.8, 0.6, 0.2, 0.1])
    logits = torch.stack([right.log(), (1 - right).log()])[None, :, None]
    target = torch.tensor([[[0, 0, 0, 0, 255]]])
    cases = {(0.7, 1): (0.6, 0.2), (0.1, 1): (0.2,), (0.1, 3): (0.8, 0.6, 0.2), (0.7, 99): (0.9, 0.8, 0.6, 0.2)}
    for (threshold, kept), counted in cases.items():
        loss = SemanticLoss(ohem_thresh=threshold, ohem_min_kept=kept)(logits, target)
        torch.testing.assert_close(loss, -torch.tensor(counted).log().mean())


# ---------------------------------------------------------------------------------------------------------------- map


def test_upsampling_to_the_same_size_changes_nothing() -> None:
    logits = torch.randn(1, 2, 3, 4)
    assert upsample_logits(logits, (3, 4)) is logits


def test_map_loses_the_padding_before_it_takes_the_size_of_the_picture() -> None:
    # Stride 8, input 32 x 48 of which 24 x 40 is picture; classes 0 | 1 left and right, 2 only in the padding.
    logits = torch.zeros(3, 4, 6)
    logits[0, :, :3] = logits[1, :, 3:] = 5.0
    logits[2, 3:] = logits[2, :, 5:] = 50.0
    found = semantic_map(logits, (32, 48), (24, 40), (48, 80))
    assert found.shape == (48, 80)
    assert found.dtype == torch.uint8
    assert (found[:40, :46] == 0).all()
    assert (found[:40, 50:70] == 1).all()


@pytest.mark.parametrize("classes", [1, 7, 300])
def test_map_is_the_same_whatever_the_memory(classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(classes, 5, 6)
    sizes = ((40, 48), (37, 45), (61, 33))
    large = F.interpolate(logits[None], sizes[0], mode="bilinear", align_corners=False)[..., :37, :45]
    expected = F.interpolate(large, sizes[2], mode="bilinear", align_corners=False)[0].argmax(0)
    for budget in (1, 3 * 61 * 33, 2**25):
        monkeypatch.setattr(semantic, "_BUDGET", budget)
        found = semantic_map(logits, *sizes)
        assert found.dtype == (torch.uint8 if classes <= 256 else torch.int64)
        assert torch.equal(found.long(), expected)
        assert not semantic_map(torch.zeros_like(logits), *sizes).any()  # of equal logits the first class wins


# ----------------------------------------------------------------------------------------------------------- ssd_vgg16


def test_ssd_vgg_returns_the_levels_of_the_paper() -> None:
    backbone = build_backbone("ssd_vgg16").eval()
    maps = run_on_meta(backbone, torch.empty(1, 3, 300, 300))
    assert backbone.channels == (512, 1024, 512, 256, 256, 256) == tuple(level.shape[1] for level in maps)
    assert [level.shape[-1] for level in maps] == [38, 19, 10, 5, 3, 1]
    highres = build_backbone("ssd_vgg16", options={"highres": True})
    maps = run_on_meta(highres, torch.empty(1, 3, 512, 512))
    assert highres.channels == tuple(level.shape[1] for level in maps)
    assert [level.shape[-1] for level in maps] == [64, 32, 16, 8, 6, 4, 1]


def test_ssd_vgg_freezes_whole_blocks() -> None:
    backbone = build_backbone("ssd_vgg16", options={"freeze_blocks": 1})
    frozen = [name for name, parameter in backbone.body.named_parameters() if not parameter.requires_grad]
    assert frozen == ["features.0.weight", "features.0.bias", "features.2.weight", "features.2.bias"]
    with pytest.raises(ValueError, match="5 blocks"):
        build_backbone("ssd_vgg16", options={"freeze_blocks": 6})


def test_ssd_vgg_starts_from_the_published_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models.vgg import cfgs, make_layers

    layers = make_layers(cfgs["D"])
    published = {f"features.{name}": tensor for name, tensor in layers.state_dict().items()}
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *_, **__: published)
    body = build_backbone("ssd_vgg16", pretrained=True).body.eval()
    image = torch.rand(1, 3, 48, 48)
    with torch.no_grad():
        torch.testing.assert_close(body.features(image), layers[:23](image))
        torch.testing.assert_close(body.extra[0][:7](body.features(image)), layers[:30](image))

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    with pytest.raises(OSError, match=r"vgg16_features.*TRAIN\.WEIGHTS"):
        build_backbone("ssd_vgg16", pretrained=True)
