"""GeneralizedCNN of the vision domain: named losses and records, padding, empty targets, foreign names."""

from __future__ import annotations

import pytest
import torch

from pet.vision.config import get_base_cfg, infer_cfg
from pet.vision.model_builder import GeneralizedCNN
from tests.helpers import REPOSITORY

SHAPES = REPOSITORY / "cfgs/vision/shapes"


def model(name: str, *words: str) -> GeneralizedCNN:
    cfg = get_base_cfg()
    cfg.merge_from_file(SHAPES / f"{name}.yaml")
    cfg.merge_from_list(list(words))
    infer_cfg(cfg)
    cfg.freeze()
    return GeneralizedCNN(cfg)


def targets(count: int, size: int = 64):
    """Targets of two pictures with ``count`` instances each."""
    boxes = torch.tensor([[8.0, 8.0, 40.0, 44.0], [20.0, 10.0, 60.0, 60.0]])[:count]
    masks = torch.zeros(count, size, size, dtype=torch.uint8)
    masks[:, 12:40, 12:36] = 1
    points = torch.tensor([[20.0, 20.0, 2.0]] * 5).repeat(count, 1, 1)
    return {
        "sizes": [(size, size), (size, size - 8)],
        "boxes": [boxes, boxes.clone()],
        "labels": [torch.arange(count), torch.arange(count)],
        "masks": [masks, masks.clone()],
        "keypoints": [points, points.clone()],
        "semseg": torch.randint(0, 2, (2, size, size), dtype=torch.uint8) if count else torch.full((2, size, size), 255, dtype=torch.uint8),
    }  # fmt: skip


IMAGES = torch.arange(2 * 3 * 64 * 64, dtype=torch.int64).mul(7919).remainder(256).to(torch.uint8).view(2, 3, 64, 64)
NAMES = ["faster_rcnn_quickstart", "mask_rcnn", "keypoint_rcnn", "retinanet", "semantic_fpn", "panoptic_fpn"]


@pytest.mark.parametrize("count", [2, 0], ids=["instances", "empty"])
@pytest.mark.parametrize("name", NAMES)
def test_every_loss_is_finite_and_reaches_every_parameter(name, count):
    net = model(name)
    outputs = net(IMAGES, targets(count))
    losses = outputs["losses"]
    assert all(loss.ndim == 0 and torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    without = [name for name, p in net.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert not without


def test_predictions_are_named_records_with_labels_from_0():
    net = model("panoptic_fpn", "MODEL.ROI_HEAD.FASTER.SCORE_THRESH", "0.0").eval()
    with torch.inference_mode():
        outputs = net(IMAGES, {"sizes": [(64, 64), (64, 56)]})
    assert set(outputs) == {"instances", "semseg"}
    first = outputs["instances"][0]
    assert {"boxes", "scores", "labels", "masks"} == set(first)
    assert len(first["boxes"])
    assert 0 <= int(first["labels"].min()) <= int(first["labels"].max()) <= 9
    assert float(outputs["instances"][1]["boxes"][:, 2].max()) <= 56, "boxes end where the picture ends, not its padding"


def test_an_rpn_alone_returns_proposals():
    net = model("faster_rcnn_quickstart", "MODEL.ROI_HEAD.TYPE", "", "EVAL.METRICS", "()").eval()
    with torch.inference_mode():
        outputs = net(IMAGES)
    assert set(outputs) == {"proposals"}
    assert len(outputs["proposals"][0]["boxes"]) == len(outputs["proposals"][0]["scores"]) > 0


def test_what_is_padded_does_not_matter():
    """The padding is 0 after normalisation, whatever its pixels are."""
    net = model("semantic_fpn").eval()
    other = IMAGES.clone()
    other[1, :, :, 56:] = 255
    sizes = {"sizes": [(64, 64), (64, 56)]}
    with torch.inference_mode():
        assert torch.equal(net(IMAGES, sizes)["semseg"], net(other, sizes)["semseg"])


def test_training_without_targets_is_refused():
    with pytest.raises(ValueError, match="needs targets"):
        model("faster_rcnn_quickstart")(IMAGES)


def test_an_image_classifier_is_a_head_like_the_others():
    words = ["MODEL.GLOBAL_HEAD.SEMSEG.TYPE", "", "MODEL.NECK", "", "MODEL.NECK_OPTIONS", "{}", "EVAL.BEST.METRIC", "top1"]
    net = model("semantic_fpn", "MODEL.GLOBAL_HEAD.CLS.TYPE", "linear", "MODEL.GLOBAL_HEAD.CLS.NUM_CLASSES", "10", *words)
    outputs = net(IMAGES, {"label": torch.tensor([1, 9])})
    assert set(outputs["losses"]) == {"loss_image"}
    assert set(outputs["metrics"]) == {"acc1"}
    assert net.eval()(IMAGES)["scores"].shape == (2, 10)


def test_weights_with_our_names_stay_and_a_backbone_gets_its_prefix():
    net = model("faster_rcnn_quickstart")
    own = net.state_dict()
    assert net.from_library(dict(own)) == own
    renamed = net.from_library({"conv1.weight": own["backbone.body.conv1.weight"], "fc.bias": torch.zeros(2)})
    assert set(renamed) == {"backbone.body.conv1.weight", "backbone.body.fc.bias"}
