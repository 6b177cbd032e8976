"""Region proposals: what the second stage and the evaluation of proposals may rely on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.models.detection.image_list import ImageList

from pet.models.heads.det import build_det_head

SIZES = ((16,), (32,))
IMAGES = ImageList(torch.zeros(2, 3, 64, 96), [(64, 96), (50, 70)])
BOXES = [torch.tensor([[4.0, 4, 30, 28], [50, 10, 80, 44]]), torch.tensor([[10.0, 10, 40, 40]])]


def levels() -> list[Tensor]:
    return [torch.randn(2, 8, 16, 24), torch.randn(2, 8, 8, 12)]


def build(channels: tuple[int, ...] = (8, 8), **options: Any) -> Any:
    rpn = build_det_head("rpn", channels, 3, {"anchor_sizes": SIZES, **options})
    for layer in (rpn.head.cls_logits, rpn.head.bbox_pred):
        torch.nn.init.normal_(layer.weight, std=0.3)
    return rpn


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_proposals_are_inside_the_picture_and_best_first(training: bool) -> None:
    rpn = build(post_nms_top_n_train=40, post_nms_top_n_test=25).train(training)
    assert rpn.makes_proposals
    instances, losses = rpn(levels(), IMAGES, [{"boxes": boxes} for boxes in BOXES] if training else None)
    for found, (height, width) in zip(instances, IMAGES.image_sizes, strict=True):
        boxes, scores = found["boxes"], found["scores"]
        assert boxes.shape == ((40, 4) if training else (25, 4))
        assert (boxes >= 0).all()
        assert (boxes <= torch.tensor([width, height] * 2)).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert torch.equal(scores, scores.sort(descending=True).values)
        assert ((scores >= 0) & (scores <= 1)).all()
    assert losses.keys() == ({"loss_objectness", "loss_rpn_box_reg"} if training else set())


@pytest.mark.parametrize("empty", [0, 1, 2])
def test_losses_stay_connected_without_objects(empty: int) -> None:
    rpn = build()
    boxes = [torch.zeros(0, 4)] * empty + BOXES[empty:]
    _, losses = rpn(levels(), IMAGES, [{"boxes": one} for one in boxes])
    sum(losses.values()).backward()
    for name, parameter in rpn.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_boxes_are_decoded_in_float32_under_autocast() -> None:
    rpn = build(nms_thresh=1.0).eval()
    features = levels()
    # a regression of zero leaves the anchors as they are: every coordinate must be exact
    torch.nn.init.zeros_(rpn.head.bbox_pred.weight)
    large = ImageList(torch.zeros(2, 3, 1003, 1501), [(1003, 1501)] * 2)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        proposals, _ = rpn([level.bfloat16() for level in features], large)
        anchors = rpn.anchor_generator(large, [level.bfloat16() for level in features])[0]
    assert torch.equal(anchors, rpn.anchor_generator(large, features)[0])
    assert proposals[0]["boxes"].dtype == proposals[0]["scores"].dtype == torch.float32
    clipped = anchors.clamp(min=0).minimum(torch.tensor([1501.0, 1003, 1501, 1003]))
    distance = torch.cdist(proposals[0]["boxes"], clipped, compute_mode="donot_use_mm_for_euclid_dist")
    assert distance.amin(1).max() < 1e-3


def test_training_under_autocast_gives_float32_losses() -> None:
    rpn = build()
    with torch.autocast("cpu", torch.bfloat16):
        _, losses = rpn(levels(), IMAGES, [{"boxes": boxes} for boxes in BOXES])
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    assert all(loss.isfinite() and loss > 0 for loss in losses.values())


def test_single_level_of_c4_has_anchors_of_all_sizes() -> None:
    rpn = build((8,), anchor_sizes=((32, 64, 128, 256, 512),)).eval()
    features = [torch.randn(1, 8, 4, 6)]
    picture = ImageList(torch.zeros(1, 3, 64, 96), [(64, 96)])
    (anchors,) = rpn.anchor_generator(picture, features)
    assert anchors.shape == (4 * 6 * 15, 4)
    area = (anchors[:15, 2:] - anchors[:15, :2]).prod(1).sqrt()
    torch.testing.assert_close(area.view(3, 5), torch.tensor([[32.0, 64, 128, 256, 512]] * 3), rtol=0.02, atol=0)
    assert len(rpn(features, picture)[0][0]["boxes"])


@pytest.mark.parametrize(
    ("channels", "sizes", "message"),
    [
        ((8, 8, 8), SIZES, "2 tuples, but there are 3"),
        ((8, 16), SIZES, "MODEL.NECK"),
        ((8, 8), ((16,), (32, 64)), "same number of sizes"),
    ],
    ids=["levels", "channels", "sizes"],
)
def test_sizes_that_do_not_fit_the_levels_are_refused(channels: tuple[int, ...], sizes: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(channels, anchor_sizes=sizes)


def test_unknown_names_and_options_are_refused() -> None:
    with pytest.raises(KeyError, match="rpn"):
        build_det_head("rpm", (8,), 1)
    with pytest.raises(TypeError, match=r"MODEL\.GLOBAL_HEAD\.DET\.RPN"):
        build_det_head("rpn", (8,), 1, {"anchors": 3})


def test_dry_run_needs_no_values() -> None:
    rpn = build().to("meta")
    rpn.dry_run([level.to("meta") for level in levels()])
