"""Detectors without a second stage: what they return, how they learn, what they refuse."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.models.detection.image_list import ImageList

from pet.models.backbones import build_backbone
from pet.models.heads.det import build_det_head
from pet.models.necks import build_neck
from pet.utils.module import run_on_meta

CLASSES = 4
SSD_CHANNELS = (16, 32, 16, 8, 8, 8)
SSD_SIDES = (38, 19, 10, 5, 3, 1)
HEADS: dict[str, dict[str, Any]] = {
    "retinanet": {},
    "retinanet_v2": {"norm": "GN", "box_loss": "giou"},
    "retinanet_smooth": {"box_loss": "smooth_l1", "octaves": 2},
    "fcos": {},
    "ssd": {},
}


def build(name: str, **options: Any) -> torch.nn.Module:
    kind = name.partition("_")[0]
    channels = SSD_CHANNELS if kind == "ssd" else (32,) * 5
    return build_det_head(kind, channels, CLASSES, HEADS[name] | options)


def batch(name: str, dtype: torch.dtype = torch.float32) -> tuple[list[Tensor], ImageList]:
    """Levels and images of two pictures, the second with padding."""
    if name == "ssd":
        shapes, size = [(c, s, s) for c, s in zip(SSD_CHANNELS, SSD_SIDES, strict=True)], (300, 300)
    else:
        shapes, size = [(32, 128 // stride, 192 // stride) for stride in (8, 16, 32, 64, 128)], (128, 192)
    levels = [torch.randn(2, *(max(side, 1) for side in shape)).to(dtype).requires_grad_() for shape in shapes]
    return levels, ImageList(torch.zeros(2, 3, *size), [size, (100, 120)])


def boxes(*rows: tuple[float, float, float, float, int]) -> dict[str, Tensor]:
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 5)
    return {"boxes": table[:, :4], "labels": table[:, 4].long()}


TARGETS = [boxes((4, 8, 60, 70, 0), (80, 20, 180, 120, CLASSES - 1)), boxes((10, 10, 50, 90, 2))]
EMPTY = [boxes(), boxes()]


@pytest.mark.parametrize("name", list(HEADS))
@pytest.mark.parametrize("targets", [TARGETS, EMPTY, [TARGETS[0], boxes()]], ids=["boxes", "empty", "half"])
def test_every_parameter_and_level_gets_a_finite_gradient(name: str, targets: list[dict[str, Tensor]]) -> None:
    head, (levels, images) = build(name), batch(name)
    instances, losses = head(levels, images, targets)
    assert instances == []
    assert set(losses) == {"loss_cls", "loss_box_reg"} | ({"loss_ctrness"} if name == "fcos" else set())
    sum(losses.values()).backward()
    for key, loss in losses.items():
        assert loss.dtype == torch.float32
        assert loss.isfinite(), key
    for parameter in [*head.parameters(), *levels]:
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
    if targets is EMPTY:
        assert losses["loss_box_reg"] == 0
    else:
        assert all(loss > 0 for loss in losses.values())


@pytest.mark.parametrize("name", list(HEADS))
def test_detections_lie_in_their_picture_and_count_classes_from_zero(name: str) -> None:
    head, (levels, images) = build(name, score_thresh=0.0, detections_per_img=60).eval(), batch(name)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    with torch.no_grad():
        found, losses = head(levels, images)
    assert losses == {}
    assert not head.makes_proposals
    for detections, (height, width) in zip(found, images.image_sizes, strict=True):
        assert set(detections) == {"boxes", "scores", "labels"}
        assert detections["boxes"].shape == (60, 4)
        assert (detections["boxes"] >= 0).all()
        assert (detections["boxes"] <= torch.tensor([width, height, width, height])).all()
        assert detections["scores"].diff().max() <= 0
        assert set(detections["labels"].tolist()) <= set(range(CLASSES))
    assert len({label for detections in found for label in detections["labels"].tolist()}) > 1


@pytest.mark.parametrize("name", ["retinanet_v2", "fcos", "ssd"])
def test_a_head_learns_the_boxes_it_is_shown(name: str) -> None:
    head, (levels, images) = build(name, score_thresh=0.3), batch(name)
    levels = [level.detach() for level in levels]
    optimizer = torch.optim.Adam(head.parameters(), 3e-3)
    for _ in range(80):
        _, losses = head(levels, images, TARGETS)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    with torch.no_grad():
        found, _ = head.eval()(levels, images)
    for detections, target in zip(found, TARGETS, strict=True):
        for box, label in zip(target["boxes"], target["labels"], strict=True):
            errors = (detections["boxes"][detections["labels"] == label] - box).abs().amax(1)
            assert len(errors), f"class {label} is not found"
            assert errors.min() < 8


@pytest.mark.parametrize("name", ["retinanet", "retinanet_v2", "fcos", "ssd"])
def test_autocast_keeps_losses_boxes_and_anchors_in_float32(name: str) -> None:
    head, (levels, images) = build(name), batch(name, torch.bfloat16)
    anchors: list[Tensor] = []
    head.anchor_generator.register_forward_hook(lambda _, inputs, output: anchors.extend(output))
    with torch.autocast("cpu", torch.bfloat16):
        _, losses = head(levels, images, TARGETS)
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found, _ = head.eval()(levels, images)
    assert all(detections["boxes"].dtype == detections["scores"].dtype == torch.float32 for detections in found)
    assert all(boxes.dtype == torch.float32 for boxes in anchors)  # rounded ones would be kept for later batches


@pytest.mark.parametrize("name", list(HEADS))
def test_dry_run_works_without_numbers(name: str) -> None:
    head, (levels, _) = build(name), batch(name)

    class Run(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = head

        def forward(self, *maps: Tensor) -> None:
            self.head.dry_run(list(maps))

    assert run_on_meta(Run(), *levels) is None


def test_state_holds_the_head_alone() -> None:
    for name in HEADS:
        head = build(name)
        assert all(key.startswith("head.") for key in head.state_dict())
        assert not hasattr(head, "backbone")
        assert not hasattr(head, "transform")


def test_training_without_targets_is_refused() -> None:
    levels, images = batch("fcos")
    with pytest.raises(ValueError, match="needs targets"):
        build("fcos")(levels, images)


@pytest.mark.parametrize(
    ("name", "channels", "options", "error", "words"),
    [
        ("retinanet", (32,) * 4, {}, ValueError, "5 levels.*gets 4"),
        ("fcos", (32, 32, 64, 64, 64), {}, ValueError, "add a neck"),
        ("retinanet", (32,) * 5, {"norm": "BN"}, ValueError, "'', 'GN'"),
        ("retinanet", (32,) * 5, {"box_loss": "iou"}, ValueError, "smooth_l1"),
        ("ssd", (32,) * 5, {}, ValueError, "gets 5 levels.*SCALES"),
        ("ssd", (32,) * 6, {"sizes": 3}, TypeError, r"GLOBAL_HEAD\.DET\.SSD"),
        ("retinanett", (32,) * 5, {}, KeyError, "retinanet"),
    ],
)
def test_a_mistake_is_named(name: str, channels: tuple[int, ...], options: dict, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        build_det_head(name, channels, CLASSES, options)


@pytest.mark.parametrize(
    ("head", "classes", "extra", "millions", "trained"),
    [
        # arXiv 1708.02002, section 4: P6 from C5. The zoo's figure, 37.97 M, counts all; its example, 37.74 M, leaves out the
        # stem and first stage, which are frozen.
        ("retinanet", 80, "p6p7_c5", 37.97, 37.74),
        # torchvision's num_params of 34,014,999 has 91 classes and no parameters in its batch normalisation.
        ("retinanet", 91, "p6p7", 34.07, 33.84),
        ("fcos", 91, "p6p7", 32.32, 32.10),
    ],
    ids=["zoo", "torchvision", "fcos"],
)
def test_parameters_are_those_of_the_published_models(
    head: str, classes: int, extra: str, millions: float, trained: float
) -> None:
    with torch.device("meta"):
        backbone = build_backbone("torchvision/resnet50", features=("layer2", "layer3", "layer4"), freeze_at=2)
        neck = build_neck("fpn", backbone.channels, {"extra": extra})
        parts = torch.nn.ModuleList([backbone, neck, build_det_head(head, neck.channels, classes)])
    counts = [sum(p.numel() for p in parts.parameters() if p.requires_grad or every) / 1e6 for every in (True, False)]
    assert counts == pytest.approx([millions, trained], abs=0.005)


def test_ssd300_has_the_parameters_of_torchvision() -> None:
    from torchvision.models.detection import SSD300_VGG16_Weights

    backbone = build_backbone("ssd_vgg16")
    head = build_det_head("ssd", backbone.channels, 90)
    count = sum(p.numel() for part in (backbone, head) for p in part.parameters())
    assert count == SSD300_VGG16_Weights.COCO_V1.meta["num_params"]
