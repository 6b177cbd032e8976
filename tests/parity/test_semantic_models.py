"""Same weights in, same numbers out: FCN and DeepLabV3 against torchvision's, on pictures of COCO."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import segmentation
from torchvision.transforms.functional import normalize, resize

from pet.data.image import read_image
from pet.models.backbones import build_backbone
from pet.models.heads.semseg import build_semseg_head
from pet.models.losses.semantic import SemanticLoss, semantic_map, upsample_logits
from pet.models.torchvision_names import from_torchvision_semantic

CLASSES = 21
MODELS = {"fcn": segmentation.fcn_resnet50, "deeplabv3": segmentation.deeplabv3_resnet50}


class Segmenter(nn.Module):
    """The parts under the names they have in a checkpoint."""

    def __init__(self, head: str) -> None:
        super().__init__()
        self.backbone = build_backbone(
            "torchvision/resnet50",
            options={"replace_stride_with_dilation": [False, True, True]},
            features=("layer3", "layer4"),
        )
        heads = {"semseg": build_semseg_head(head, self.backbone.channels, CLASSES)}
        heads["aux"] = build_semseg_head("fcn", self.backbone.channels[:1], CLASSES)
        self.global_head = nn.ModuleDict(heads)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        levels = self.backbone(images)
        return {"out": self.global_head["semseg"](levels), "aux": self.global_head["aux"](levels[:1])}


def pair(name: str, images: Tensor) -> tuple[nn.Module, Segmenter]:
    library = MODELS[name](weights=None, weights_backbone=None, num_classes=CLASSES, aux_loss=True)
    for key, tensor in library.state_dict().items():
        if key.endswith("running_var"):
            tensor.copy_(0.5 + torch.rand_like(tensor))
        elif key.endswith(("running_mean", "bias")):
            tensor.copy_(0.1 * torch.randn_like(tensor))
    with torch.no_grad():
        for part, logits in zip((library.classifier, library.aux_classifier), library.eval()(images).values(), strict=True):
            part[-1].weight *= 2.0 / (logits - part[-1].bias[:, None, None]).std()
    segmenter = Segmenter(name)
    segmenter.load_state_dict(from_torchvision_semantic(library.state_dict()))
    return library, segmenter


def pictures(shared_data: Path) -> Tensor:
    folder = shared_data / "detection" / "coco_mini" / "val2017"
    images = [torch.from_numpy(read_image(folder / f"{name}.jpg").copy()) for name in ("000000349860", "000000018575")]
    small = [resize(image.permute(2, 0, 1).float() / 255, [96, 144], antialias=True) for image in images]
    return normalize(torch.stack(small), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


@pytest.mark.parametrize("name", list(MODELS))
def test_logits_and_maps_equal_those_of_torchvision(name: str, shared_data: Path) -> None:
    images = pictures(shared_data)
    library, segmenter = pair(name, images)
    with torch.no_grad():
        expected, found = library.eval()(images), segmenter.eval()(images)
    for key in ("out", "aux"):
        assert found[key].shape[-2:] == (12, 18)  # stride 8
        assert len(expected[key].argmax(1).unique()) > 3
        torch.testing.assert_close(upsample_logits(found[key], images.shape[-2:]), expected[key], rtol=0, atol=1e-4)
    for logits, whole in zip(found["out"], expected["out"], strict=True):
        assert torch.equal(semantic_map(logits, (96, 144), (96, 144), (96, 144)), whole.argmax(0).to(torch.uint8))


@pytest.mark.parametrize("name", list(MODELS))
def test_losses_and_gradients_equal_those_of_torchvision(name: str, shared_data: Path) -> None:
    images = pictures(shared_data)
    library, segmenter = pair(name, images)
    library.train(), segmenter.train()
    target = torch.randint(0, CLASSES, (2, 96, 144), dtype=torch.uint8)
    target[:, :10] = 255

    def loss_of(outputs: dict[str, Tensor], loss: Any) -> Tensor:
        return loss(outputs["out"], target) + 0.5 * loss(outputs["aux"], target)

    for model in (library, segmenter):  # the same dropout in both
        for part in model.modules():
            if isinstance(part, nn.Dropout):
                part.p = 0.0
    expected = loss_of(library(images), lambda logits, labels: F.cross_entropy(logits, labels.long(), ignore_index=255))
    loss = loss_of(segmenter(images), SemanticLoss())
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    theirs = torch.autograd.grad(expected, [library.classifier[-1].weight, library.aux_classifier[0].weight])
    ours = [segmenter.global_head["semseg"][-1].weight, segmenter.global_head["aux"][0].weight]
    for found, wanted in zip(torch.autograd.grad(loss, ours), theirs, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5)


def test_a_name_of_another_model_is_refused() -> None:
    with pytest.raises(ValueError, match="aux_classifier"):
        from_torchvision_semantic({"roi_heads.box_head.fc6.weight": torch.zeros(1)})
