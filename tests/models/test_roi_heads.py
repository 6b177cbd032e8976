"""Second-stage heads: boxes, masks and keypoints of regions."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

from pet.models.heads.roi import build_box_head, build_keypoint_head, build_mask_head
from pet.models.layers.regions import RegionPool

CLASSES, KEYPOINTS = 3, 4
IMAGES = ImageList(torch.zeros(2, 3, 64, 96), [(64, 96), (50, 70)])
BOXES = [torch.tensor([[4.0, 4, 30, 28], [50, 10, 80, 44]]), torch.tensor([[10.0, 10, 40, 40]])]
FPN, C4 = (8, 8, 8), (256,)
SMALL = {"batch_size_per_image": 16, "detections_per_img": 6, "fc_dim": 16}
BOX_HEADS: dict[str, tuple[str, tuple[int, ...], dict[str, Any]]] = {
    "two_mlp": ("faster", FPN, {}),
    "conv_fc": ("faster", FPN, {"head": "conv_fc"}),
    "cascade": ("cascade", FPN, {}),
    "cascade_conv_fc": ("cascade", FPN, {"head": "conv_fc"}),
    "res5": ("faster", C4, {"head": "res5", "backbone": "torchvision/resnet18", "pool_resolution": 14}),
}


def targets(empty: int = 0) -> list[dict[str, Tensor]]:
    """Of both images; the first ``empty`` ones have no object."""
    found = []
    for index, boxes in enumerate(BOXES):
        boxes = boxes[:0] if index < empty else boxes
        masks = torch.zeros(len(boxes), 64, 96, dtype=torch.uint8)
        masks[:, 12:24, 12:28] = 1
        centres = (boxes[:, None, :2] + boxes[:, None, 2:]) / 2 + torch.randn(len(boxes), KEYPOINTS, 2)
        keypoints = torch.cat([centres, torch.full((len(boxes), KEYPOINTS, 1), 2.0)], 2)
        found.append({"boxes": boxes, "labels": torch.arange(len(boxes)), "masks": masks, "keypoints": keypoints})
    return found


def proposals() -> list[Tensor]:
    """Regions around the objects, and others."""
    near = [boxes.repeat(6, 1) + torch.randn(6 * len(boxes), 4) * 3 for boxes in BOXES]
    corner = torch.rand(30, 2) * 40
    far = torch.cat([corner, corner + 2 + torch.rand(30, 2) * 30], 1)
    return [torch.cat([one, far]) for one in near]


class Heads(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        name, self.channels, options = BOX_HEADS[kind]
        self.box: Any = build_box_head(name, self.channels, CLASSES, {**SMALL, **options})
        convs = () if kind == "res5" else (8, 8)
        self.mask: Any = build_mask_head("mask_rcnn", self.channels, CLASSES, {"channels": convs, "dim_reduced": 8}, self.box)
        keypoint = {"channels": (8,), "num_keypoints": KEYPOINTS}
        self.keypoint: Any = build_keypoint_head("keypoint_rcnn", self.channels, CLASSES, keypoint)

    def levels(self) -> list[Tensor]:
        if len(self.channels) == 1:
            return [torch.randn(2, self.channels[0], 4, 6)]
        return [torch.randn(2, channels, 16 >> index, 24 >> index) for index, channels in enumerate(self.channels)]

    def forward(self, regions: list[Tensor], truth: list[dict[str, Tensor]] | None = None) -> Any:
        levels = self.levels()
        instances, losses = self.box(levels, IMAGES, regions, truth)
        instances, mask = self.mask(levels, IMAGES, instances, truth)
        instances, keypoint = self.keypoint(levels, IMAGES, instances, truth)
        return instances, {**losses, **mask, **keypoint}


def check_gradients(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("kind", BOX_HEADS)
def test_every_parameter_learns(kind: str, autocast: bool) -> None:
    heads = Heads(kind)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        instances, losses = heads(proposals(), targets())
    stages = [f"stage{index}_" for index in range(3)] if "cascade" in kind else [""]
    boxes = {f"{stage}{name}" for stage in stages for name in ("loss_cls", "loss_box_reg")}
    assert losses.keys() == boxes | {"loss_mask", "loss_keypoint"}
    assert all(loss.dtype == torch.float32 and loss > 0 for loss in losses.values())
    sum(losses.values()).backward()
    check_gradients(heads)
    for sample, truth in zip(instances, targets(), strict=True):
        assert len(sample["boxes"]) <= SMALL["batch_size_per_image"]
        overlap = box_iou(sample["boxes"], truth["boxes"])[torch.arange(len(sample["boxes"])), sample["matched"]]
        positive = sample["labels"] > 0
        assert torch.equal(sample["labels"][positive] - 1, truth["labels"][sample["matched"][positive]])
        assert (overlap[positive] >= (0.7 if "cascade" in kind else 0.5)).all()


@pytest.mark.parametrize("kind", BOX_HEADS)
def test_losses_stay_connected_without_objects(kind: str) -> None:
    heads = Heads(kind)
    for empty, regions in ((1, proposals()), (2, proposals()), (2, [torch.zeros(0, 4)] * 2)):
        heads.zero_grad()
        _, losses = heads(regions, targets(empty))
        sum(losses.values()).backward()
        check_gradients(heads)
    assert all(buffer.isfinite().all() for buffer in heads.buffers())


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("kind", BOX_HEADS)
@torch.no_grad()
def test_detections_have_everything(kind: str, autocast: bool) -> None:
    heads = Heads(kind).eval()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        instances, losses = heads(proposals())
    assert losses == {}
    for found, (height, width) in zip(instances, IMAGES.image_sizes, strict=True):
        count = len(found["boxes"])
        assert count == SMALL["detections_per_img"]
        assert (found["boxes"] >= 0).all()
        assert (found["boxes"] <= torch.tensor([width, height] * 2)).all()
        assert set(found["labels"].tolist()) <= set(range(CLASSES))
        assert (found["scores"] > 0.05).all()
        side = 14 if kind == "res5" else 28
        assert found["masks"].shape == (count, 1, side, side)
        assert ((found["masks"] >= 0) & (found["masks"] <= 1)).all()
        assert found["keypoints"].shape == (count, KEYPOINTS, 3)
        assert found["keypoint_scores"].shape == (count, KEYPOINTS)
        corners = found["boxes"].repeat_interleave(KEYPOINTS, 0).view(count, KEYPOINTS, 4)
        assert (found["keypoints"][..., :2] >= corners[..., :2]).all()
        assert (found["keypoints"][..., :2] <= corners[..., 2:].maximum(corners[..., :2] + 1)).all()
        assert all(value.dtype == torch.float32 for name, value in found.items() if name != "labels")


@pytest.mark.parametrize("kind", BOX_HEADS)
@torch.no_grad()
def test_no_proposals_give_no_detections(kind: str) -> None:
    heads = Heads(kind).eval()
    some = proposals()
    assert [len(found["masks"]) for found in heads([torch.zeros(0, 4)] * 2)[0]] == [0, 0]
    assert [len(found["keypoints"]) > 0 for found in heads([torch.zeros(0, 4), some[1]])[0]] == [False, True]


@torch.no_grad()
def test_cascade_moves_boxes_stage_by_stage_and_averages_scores() -> None:
    head = build_box_head("cascade", FPN, CLASSES, {"fc_dim": 16}).eval()
    probabilities = torch.tensor([[0.1, 0.6, 0.2, 0.1], [0.2, 0.2, 0.5, 0.1], [0.3, 0.4, 0.2, 0.1]])
    for stage, wanted in zip(head.stages, probabilities, strict=True):
        for layer in (stage.predictor.cls_score, stage.predictor.bbox_pred):
            nn.init.zeros_(layer.weight)
        stage.predictor.cls_score.bias.copy_(wanted.log())
        stage.predictor.bbox_pred.bias.copy_(torch.tensor([1.0, 0, 0, 0]))
    levels = [torch.randn(1, 8, 16 >> index, 24 >> index) for index in range(3)]
    picture = ImageList(torch.zeros(1, 3, 64, 96), [(64, 96)])
    (found,), _ = head(levels, picture, [torch.tensor([[10.0, 10, 40, 40]])])
    moved = 30 * (1 / 10 + 1 / 20 + 1 / 30)  # the codes of the stages are in these units of the width
    torch.testing.assert_close(found["boxes"], torch.tensor([[10 + moved, 10, 40 + moved, 40]]).repeat(3, 1))
    mean = probabilities.mean(0)[1:]
    torch.testing.assert_close(found["scores"], mean.sort(descending=True).values)
    assert torch.equal(found["labels"], mean.argsort(descending=True))


def test_cascade_weighs_its_losses_and_checks_their_number() -> None:
    torch.manual_seed(1)
    plain = build_box_head("cascade", FPN, CLASSES, {**SMALL, "loss_weights": (1.0, 1.0, 1.0)})
    weighed = build_box_head("cascade", FPN, CLASSES, {**SMALL, "loss_weights": (1.0, 0.5, 0.25)})
    weighed.load_state_dict(plain.state_dict())
    levels, regions = Heads("cascade").levels(), proposals()
    losses = []
    for head in (plain, weighed):
        torch.manual_seed(2)
        losses.append(head(levels, IMAGES, regions, targets())[1])
    for name, loss in losses[0].items():
        torch.testing.assert_close(loss * {"0": 1.0, "1": 0.5, "2": 0.25}[name[5]], losses[1][name])
    with pytest.raises(ValueError, match="3, 3 and 2 stages"):
        build_box_head("cascade", FPN, CLASSES, {"loss_weights": (1.0, 0.5)})


def test_mask_head_on_c4_shares_the_last_stage_and_a_checkpoint_holds_it_once() -> None:
    heads = Heads("res5")
    for model in (heads, copy.deepcopy(heads)):
        assert {name.split(".")[0] for name in model.mask.state_dict()} == {"predictor"}
        model.eval()
        levels, instances = (
            model.levels(),
            [{"boxes": boxes, "labels": torch.zeros(len(boxes), dtype=torch.long)} for boxes in BOXES],
        )
        before = model.mask(levels, IMAGES, instances)[0][0]["masks"]
        with torch.no_grad():
            for parameter in model.box.head.layer4.parameters():
                parameter.mul_(1.5)
        assert not torch.equal(before, model.mask(levels, IMAGES, instances)[0][0]["masks"])


def test_last_stage_that_does_not_fit_is_refused() -> None:
    options = BOX_HEADS["res5"][2]
    with pytest.raises(ValueError, match="takes 256 channels, but the level has 8"):
        build_box_head("faster", (8,), CLASSES, options)
    with pytest.raises(ValueError, match="no stage 'layer4'"):
        build_box_head("faster", C4, CLASSES, {**options, "backbone": "lenet5"})
    with pytest.raises(ValueError, match="two_mlp"):
        build_box_head("faster", FPN, CLASSES, {"head": "two_mpl"})


def test_regions_are_pooled_with_the_strides_of_the_padded_picture() -> None:
    pool = RegionPool((1, 1), 4, 2)
    # every cell holds its own x, in pixels of the picture
    levels = [(torch.arange(96 // stride) * stride + stride / 2.0).expand(1, 1, 64 // stride, -1) for stride in (4, 8)]
    box = torch.tensor([[20.0, 20, 44, 44]])
    # small, then large in the same padding: torchvision's pool would keep the strides it guessed from the small one
    for size in ((10, 12), (64, 96)):
        pooled = pool(levels, [box], ImageList(torch.zeros(1, 3, 64, 96), [size]))
        assert pooled.shape == (1, 1, 4, 4)
        torch.testing.assert_close(pooled[0, 0, 0], torch.tensor([25.0, 31, 37, 43]))
    with pytest.raises(ValueError, match="MODEL.NECK"):
        RegionPool((8, 16), 7, 2)


def test_threads_may_pool_with_one_module() -> None:
    pool, before = RegionPool((1, 1), 4, 2), set(vars(RegionPool((1, 1), 4, 2)))
    kept = {name: repr(value) for name, value in vars(pool).items()}
    pool([torch.zeros(1, 1, 16, 24), torch.zeros(1, 1, 8, 12)], BOXES[1:], ImageList(torch.zeros(1, 3, 64, 96), [(64, 96)]))
    assert set(vars(pool)) == before
    assert {name: repr(value) for name, value in vars(pool).items()} == kept


@pytest.mark.parametrize("kind", BOX_HEADS)
def test_dry_run_needs_no_values(kind: str) -> None:
    heads = Heads(kind).to("meta").eval()
    for head in (heads.box, heads.mask, heads.keypoint):
        head.dry_run([level[:1].to("meta") for level in heads.levels()])


def test_training_without_targets_is_refused() -> None:
    with pytest.raises(ValueError, match="needs targets"):
        Heads("two_mlp")(proposals())
