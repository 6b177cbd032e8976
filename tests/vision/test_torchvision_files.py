"""A file that torchvision wrote loads by its own names, and the whole chain gives torchvision's predictions on real pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from pet.data.image import read_image
from pet.data.structures import Batch
from pet.engine.weights import load_weights, read_weights
from pet.vision.config import get_base_cfg, infer_cfg
from pet.vision.forward import forward_test
from pet.vision.model_builder import GeneralizedCNN
from tests.helpers import REPOSITORY

COCO = REPOSITORY / "cfgs/vision/COCO"
PICTURE = "detection/coco_mini/val2017"
WORDS = {
    "fasterrcnn_resnet50_fpn": ["MODEL.GLOBAL_HEAD.DET.RPN.POST_NMS_TOP_N_TEST", "1000"],
    "retinanet_resnet50_fpn": ["MODEL.NECK_OPTIONS", "{extra: p6p7}", "MODEL.GLOBAL_HEAD.DET.RETINANET.DETECTIONS_PER_IMG", "300"],
}
FILES = {"fasterrcnn_resnet50_fpn": "e2e_faster_rcnn_R-50-FPN_1x", "retinanet_resnet50_fpn": "retinanet_R-50-FPN_1x"}
CLASSES = {"fasterrcnn_resnet50_fpn": 90, "retinanet_resnet50_fpn": 91}  # RetinaNet there counts an unused class 0


def lively(model: nn.Module) -> nn.Module:
    """Random weights whose scores differ enough for detections to exist."""
    torch.manual_seed(3)
    for name, parameter in model.named_parameters():
        if name.endswith(("cls_score.weight", "cls_logits.weight")):
            nn.init.normal_(parameter, std=0.03)
        if name.endswith("cls_logits.bias"):
            nn.init.constant_(parameter, -3.0)
    return model.eval()


@pytest.mark.slow
@pytest.mark.parametrize("name", WORDS)
def test_a_file_of_torchvision_gives_its_predictions(name: str, tmp_path: Path, shared_data: Path) -> None:
    path = sorted((shared_data / PICTURE).glob("*.jpg"))[0]
    image = torch.from_numpy(read_image(path)).permute(2, 0, 1)[:, :256, :352].contiguous()
    reference = lively(torchvision.models.get_model(name, weights=None, weights_backbone=None, min_size=256, max_size=352))
    torch.save(reference.state_dict(), tmp_path / "theirs.pth")
    cfg = get_base_cfg()
    cfg.merge_from_file(COCO / f"{FILES[name]}.yaml")
    cfg.merge_from_list(["MODEL.NUM_CLASSES", str(CLASSES[name]), "MODEL.NORM", "BN", *WORDS[name]])
    infer_cfg(cfg)
    model = GeneralizedCNN(cfg, is_train=False).eval()
    theirs = read_weights(tmp_path / "theirs.pth")
    assert len(load_weights(model, theirs).loaded) == len(theirs)
    with torch.inference_mode():
        expected = reference([image.float() / 255])[0]
        batch = Batch(image[None], {"sizes": [(256, 352)], "original_sizes": [(256, 352)]}, torch.tensor([0]))
        found = forward_test(model, batch)["instances"][0]
    shift = 1 if name.startswith("faster") else 0
    assert len(found["scores"]) == len(expected["scores"]) > 5
    assert torch.equal(found["labels"] + shift, expected["labels"])
    assert torch.allclose(found["boxes"], expected["boxes"], atol=1e-3)
    assert torch.allclose(found["scores"], expected["scores"], atol=1e-4)
