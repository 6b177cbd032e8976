"""Same weights in, same numbers out: our two-stage detectors against torchvision's, on photographs of COCO."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.image_list import ImageList

from pet.data.image import read_image
from pet.models.backbones import build_backbone
from pet.models.heads.det import build_det_head
from pet.models.heads.roi import build_box_head, build_keypoint_head, build_mask_head
from pet.models.layers.norm import convert_norm
from pet.models.necks import build_neck
from pet.models.torchvision_names import from_torchvision_detection

LAYERS = ("layer1", "layer2", "layer3", "layer4")
THEIR_CLASSES = 91  # background included
SIZE = {"min_size": 160, "max_size": 256}
# Few proposals, so that a test takes seconds; what becomes of them does not depend on their number.
THEIR_LIMITS = {
    "rpn_post_nms_top_n_train": 300,
    "rpn_post_nms_top_n_test": 100,
    "box_batch_size_per_image": 32,
    "box_detections_per_img": 12,
}
RPN_LIMITS = {"post_nms_top_n_train": 300, "post_nms_top_n_test": 100}
BOX_LIMITS = {"batch_size_per_image": 32, "detections_per_img": 12}
NAMES = {"loss_classifier": "loss_cls"}


class Detector(nn.Module):
    """The parts in the order in which a domain runs them."""

    def __init__(self, num_classes: int, version: int, norm: str, *extra: str) -> None:
        super().__init__()
        v2 = version == 2
        self.backbone = build_backbone("torchvision/resnet50", features=LAYERS, norm=norm)
        self.neck: Any = build_neck("fpn", self.backbone.channels, {"norm": "BN" if v2 else ""})
        channels = self.neck.channels
        rpn = build_det_head("rpn", channels, num_classes, {"conv_depth": version, **RPN_LIMITS})
        self.global_head = nn.ModuleDict({"det": rpn})
        options = {"head": "conv_fc" if v2 else "two_mlp", **BOX_LIMITS}
        self.roi_head = nn.ModuleDict({"box": build_box_head("faster", channels, num_classes, options)})
        if "mask" in extra:
            self.roi_head["mask"] = build_mask_head("mask_rcnn", channels, num_classes, {"norm": "BN" if v2 else ""})
        if "keypoint" in extra:
            self.roi_head["keypoint"] = build_keypoint_head("keypoint_rcnn", channels, num_classes)

    def forward(self, images: ImageList, targets: list[dict[str, Tensor]] | None = None) -> Any:
        levels = self.neck(self.backbone(images.tensors))
        proposals, losses = self.global_head["det"](levels, images, targets)
        instances, box_losses = self.roi_head["box"](levels, images, [found["boxes"] for found in proposals], targets)
        losses.update(box_losses)
        for name in ("mask", "keypoint"):
            if name in self.roi_head:
                instances, more = self.roi_head[name](levels, images, instances, targets)
                losses.update(more)
        return instances, losses


def drawn(polygons: list[list[float]], size: tuple[int, int]) -> Tensor:
    canvas = np.zeros(tuple(size), np.uint8)
    cv2.fillPoly(canvas, [np.array(polygon).reshape(-1, 2).round().astype(np.int32) for polygon in polygons], 1)
    return torch.from_numpy(canvas)


@pytest.fixture(scope="module")
def photographs(shared_data: Path) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Two pictures with persons, their boxes, masks and keypoints; classes from 1 as torchvision counts."""
    from pycocotools.coco import COCO

    root = shared_data / "detection" / "coco_mini"
    coco = COCO(root / "annotations" / "person_keypoints_val2017.json")
    annotated = [coco.loadAnns(coco.getAnnIds(index, iscrowd=False)) for index in coco.getImgIds()]
    images, targets = [], []
    for objects in [found for found in annotated if sum(one["num_keypoints"] > 4 for one in found) > 1][:2]:
        file = coco.loadImgs(objects[0]["image_id"])[0]["file_name"]
        images.append(torch.from_numpy(read_image(root / "val2017" / file)).permute(2, 0, 1) / 255)
        boxes = torch.tensor([one["bbox"] for one in objects])
        targets.append(
            {
                "boxes": torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1),
                "labels": torch.tensor([one["category_id"] for one in objects]),
                "masks": torch.stack([drawn(one["segmentation"], images[-1].shape[1:]) for one in objects]),
                "keypoints": torch.tensor([one["keypoints"] for one in objects], dtype=torch.float32).view(-1, 17, 3),
            }
        )
    assert len(images) == 2
    return images, targets


@torch.no_grad()
def make_lively(model: Any, images: ImageList) -> None:
    """Statistics of the pictures and strong predictors, so that untrained weights give many different detections."""
    norms = [part for part in model.backbone.modules() if isinstance(part, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, std=0.1)
    model.backbone.train()(images.tensors)
    for norm in norms:
        norm.momentum = 0.1
    boxes = model.roi_heads.box_predictor
    strengthen = {model.rpn.head.cls_logits: 20.0, model.rpn.head.bbox_pred: 5.0, boxes.cls_score: 30.0, boxes.bbox_pred: 10.0}
    for layer, factor in strengthen.items():
        layer.weight.sub_(layer.weight.mean(1, keepdim=True)).mul_(factor)  # no class wins everywhere
        nn.init.normal_(layer.bias, std=0.1)


CASES = {
    "faster_v1": (detection.fasterrcnn_resnet50_fpn, 1, ()),
    "faster_v2": (detection.fasterrcnn_resnet50_fpn_v2, 2, ()),
    "mask_v1": (detection.maskrcnn_resnet50_fpn, 1, ("mask",)),
    "mask_v2": (detection.maskrcnn_resnet50_fpn_v2, 2, ("mask",)),
    "keypoint_v1": (detection.keypointrcnn_resnet50_fpn, 1, ("keypoint",)),
}


@pytest.mark.parametrize(("build", "version", "extra"), CASES.values(), ids=CASES)
def test_detections_and_losses_equal_those_of_torchvision(
    photographs: tuple[list[Tensor], list[dict[str, Tensor]]],
    build: Callable[..., Any],
    version: int,
    extra: tuple[str, ...],
) -> None:
    theirs = build(weights=None, weights_backbone=None, num_classes=THEIR_CLASSES, **SIZE, **THEIR_LIMITS)
    images, targets = theirs.transform(*photographs)
    make_lively(theirs, images)
    if version == 1:  # as torchvision does for published weights
        convert_norm(theirs.backbone.body, "FrozenBN")
    ours = Detector(THEIR_CLASSES - 1, version, "FrozenBN" if version == 1 else "", *extra)
    ours.load_state_dict(from_torchvision_detection(theirs.state_dict()))
    compare_detections(theirs.eval(), ours.eval(), images)
    compare_losses(theirs.train(), ours.train(), images, targets)


@torch.no_grad()
def compare_detections(theirs: Any, ours: Detector, images: ImageList) -> None:
    features = theirs.backbone(images.tensors)
    proposals, _ = theirs.rpn(images, features)
    expected, _ = theirs.roi_heads(features, proposals, images.image_sizes)
    found, losses = ours(images)
    assert losses == {}
    for one, other in zip(found, expected, strict=True):
        assert len(other["boxes"]) > 5
        other["labels"] = other["labels"] - 1
        if "keypoints_scores" in other:
            other["keypoint_scores"] = other.pop("keypoints_scores")
        assert one.keys() == other.keys()
        for name in one:
            torch.testing.assert_close(one[name], other[name], atol=1e-4, rtol=0)


@torch.no_grad()
def compare_losses(theirs: Any, ours: Detector, images: ImageList, targets: list[dict[str, Tensor]]) -> None:
    torch.manual_seed(3)
    features = theirs.backbone(images.tensors)
    proposals, expected = theirs.rpn(images, features, targets)
    expected.update(theirs.roi_heads(features, proposals, images.image_sizes, targets)[1])
    torch.manual_seed(3)
    _, losses = ours(images, [{**target, "labels": target["labels"] - 1} for target in targets])
    assert losses.keys() == {NAMES.get(name, name) for name in expected}
    for name, loss in expected.items():
        assert loss > 0
        torch.testing.assert_close(losses[NAMES.get(name, name)], loss, atol=1e-4, rtol=1e-5)


def old_name(name: str) -> str:
    """What a file called the tensor before torchvision 0.13."""
    for old, new in {"conv.": "conv.0.0.", "mask_fcn1.": "0.0.", "mask_fcn4.": "3.0."}.items():
        for parent in ("rpn.head.", "roi_heads.mask_head."):
            if name.startswith(parent + new):
                return parent + old + name.removeprefix(parent + new)
    return name.replace(".0.weight", ".weight").replace(".0.bias", ".bias") if "fpn" in name else name


def test_names_of_published_files_are_understood() -> None:
    with torch.device("meta"):
        theirs = detection.maskrcnn_resnet50_fpn(weights=None, weights_backbone=None).state_dict()
    published = {old_name(name): tensor for name, tensor in theirs.items()}
    assert "backbone.fpn.inner_blocks.0.weight" in published
    assert "roi_heads.mask_head.mask_fcn4.bias" in published
    assert from_torchvision_detection(published).keys() == from_torchvision_detection(theirs).keys()
    with pytest.raises(ValueError, match=r"transform\.mean"):
        from_torchvision_detection({"transform.mean": torch.zeros(3)})


# MMDetection's table; BatchNorm of its backbone counts, here only when it is not frozen. It has no box for the background.
PUBLISHED = {"faster_coco": (80, (), 41.75), "mask_coco": (80, ("mask",), 44.40), "faster_voc": (20, (), 41.45)}


@pytest.mark.parametrize(("classes", "extra", "millions"), PUBLISHED.values(), ids=PUBLISHED)
def test_parameter_counts_are_the_published_ones(classes: int, extra: tuple[str, ...], millions: float) -> None:
    with torch.device("meta"):
        model = Detector(classes, 1, "", *extra)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert parameters / 1e6 == pytest.approx(millions, abs=0.01)
    frozen_affine = sum(p.numel() for part in model.modules() if isinstance(part, nn.BatchNorm2d) for p in part.parameters())
    box_of_background = 4 * 1025
    assert (frozen_affine, box_of_background) == (53_120, 4_100)
