"""Same weights in, same numbers out: RetinaNet, FCOS and SSD against torchvision's, on pictures of COCO."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.image_list import ImageList
from torchvision.transforms.functional import resize

from pet.data.image import read_image
from pet.models.backbones import build_backbone
from pet.models.heads.det import build_det_head
from pet.models.necks import build_neck
from pet.models.torchvision_names import from_torchvision_one_stage

CLASSES, SIDE = 7, 128
LOSSES = {"classification": "loss_cls", "bbox_regression": "loss_box_reg", "bbox_ctrness": "loss_ctrness"}
NO_WEIGHTS = {"weights": None, "weights_backbone": None}

MODELS: dict[str, tuple[Any, int, dict[str, Any]]] = {
    # torchvision's builder, its classes, and ours
    "retinanet": (
        partial(detection.retinanet_resnet50_fpn, detections_per_img=100, min_size=SIDE, max_size=2 * SIDE),
        CLASSES,
        {"head": "retinanet", "extra": "p6p7"},
    ),
    "retinanet_v2": (
        partial(detection.retinanet_resnet50_fpn_v2, detections_per_img=100, min_size=SIDE, max_size=2 * SIDE),
        CLASSES,
        {"head": "retinanet", "extra": "p6p7_c5", "options": {"norm": "GN", "box_loss": "giou"}},
    ),
    "fcos": (partial(detection.fcos_resnet50_fpn, min_size=SIDE, max_size=2 * SIDE), CLASSES, {"head": "fcos", "extra": "p6p7"}),
    "ssd": (detection.ssd300_vgg16, CLASSES + 1, {"head": "ssd"}),
}


class Detector(nn.Module):
    """The parts under the names they have in a checkpoint."""

    def __init__(self, head: str, extra: str = "", options: dict[str, Any] | None = None) -> None:
        super().__init__()
        name, features = ("torchvision/resnet50", ("layer2", "layer3", "layer4")) if extra else ("ssd_vgg16", ())
        self.backbone = build_backbone(name, features=features)
        self.neck = build_neck("fpn", self.backbone.channels, {"extra": extra}) if extra else nn.Identity()
        channels = self.neck.channels if extra else self.backbone.channels
        self.global_head = nn.ModuleDict({"det": build_det_head(head, channels, CLASSES, options)})

    def forward(self, images: ImageList, targets: list[dict[str, Tensor]] | None = None) -> Any:
        return self.global_head["det"](self.neck(self.backbone(images.tensors)), images, targets)


def spread_predictions(library: nn.Module, images: list[Tensor]) -> None:
    """Scale the last layers so that scores differ from cell to cell and boxes move, as after training."""
    spread = {"cls_logits": 1.0, "bbox_reg": 0.4, "bbox_ctrness": 1.5, "classification_head": 2.5, "regression_head": 0.4}

    handles, seen = [], set()

    def rescale(layer: nn.Conv2d, _: object, output: Tensor, *, wanted: float) -> None:
        factor = wanted / (output - layer.bias[:, None, None]).std().clamp(min=1e-12)
        # A layer that all levels share is scaled for the one with the largest values.
        layer.weight.data *= factor.clamp(max=1.0) if layer in seen else factor
        seen.add(layer)

    for name, layer in library.head.named_modules():
        kind = [spread[part] for part in name.split(".") if part in spread][-1:]
        if isinstance(layer, nn.Conv2d) and kind and "conv." not in name:
            layer.bias.data = 0.3 * torch.randn_like(layer.bias)
            handles.append(layer.register_forward_hook(partial(rescale, wanted=kind[0])))
    with torch.no_grad():
        library.eval().head(list(library.backbone(library.transform(images)[0].tensors).values()))
    for handle in handles:
        handle.remove()


def pictures(shared_data: Path, name: str) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Two photographs of different shape, made small, and their boxes; one for SSD, which wants 300 x 300 pixels."""
    root = shared_data / "detection" / "coco_mini"
    truth = json.loads((root / "annotations" / "instances_val2017.json").read_text())
    images, targets = [], []
    for file in ("000000349860.jpg", "000000183709.jpg")[: 1 if name == "ssd" else 2]:
        record = next(image for image in truth["images"] if image["file_name"] == file)
        image = torch.from_numpy(read_image(root / "val2017" / file).copy()).permute(2, 0, 1).float() / 255
        scale = SIDE / min(image.shape[-2:])
        size = [round(side * scale) for side in image.shape[-2:]]
        rows = [a for a in truth["annotations"] if a["image_id"] == record["id"] and not a["iscrowd"]]
        x, y, w, h = torch.tensor([row["bbox"] for row in rows]).mul(scale).unbind(1)
        labels = torch.tensor([row["category_id"] % CLASSES for row in rows])
        images.append(resize(image, size, antialias=True))
        targets.append({"boxes": torch.stack([x, y, x + w, y + h], 1), "labels": labels})
    return images, targets


def pair(name: str, images: list[Tensor]) -> tuple[nn.Module, Detector]:
    build, classes, ours = MODELS[name]
    library, detector = build(**NO_WEIGHTS, num_classes=classes), Detector(**ours)
    spread_predictions(library, images)
    detector.load_state_dict(from_torchvision_one_stage(library.state_dict()))
    return library, detector


@pytest.mark.parametrize("name", list(MODELS))
def test_detections_losses_and_gradients_equal_those_of_torchvision(name: str, shared_data: Path) -> None:
    images, targets = pictures(shared_data, name)
    library, detector = pair(name, images)
    shift = MODELS[name][1] - CLASSES  # SSD alone counts the background
    compare_detections(library.eval(), detector.eval(), images, shift)
    compare_losses(library.train(), detector.train(), images, targets, shift)


def compare_detections(library: nn.Module, detector: Detector, images: list[Tensor], shift: int) -> None:
    with torch.no_grad():
        expected = library(images)
        batch, _ = library.transform(images)
        found, losses = detector(batch)
    found = library.transform.postprocess(found, batch.image_sizes, [image.shape[-2:] for image in images])
    assert losses == {}
    for ours, theirs in zip(found, expected, strict=True):
        assert len(theirs["scores"]) >= 20
        assert theirs["scores"].std() > 0.001
        assert len(theirs["labels"].unique()) > 2
        torch.testing.assert_close(ours["boxes"], theirs["boxes"], rtol=0, atol=1e-4)
        torch.testing.assert_close(ours["scores"], theirs["scores"], rtol=0, atol=1e-5)
        assert torch.equal(ours["labels"], theirs["labels"] - shift)


def compare_losses(
    library: nn.Module, detector: Detector, images: list[Tensor], targets: list[dict[str, Tensor]], shift: int
) -> None:
    expected = library(images, [{**target, "labels": target["labels"] + shift} for target in targets])
    batch, scaled = library.transform(images, targets)
    instances, losses = detector(batch, scaled)
    assert instances == []
    assert set(losses) == {LOSSES[key] for key in expected}
    for key, loss in expected.items():
        assert loss > 0
        torch.testing.assert_close(losses[LOSSES[key]], loss, rtol=1e-5, atol=1e-5)
    gradients = [
        torch.autograd.grad(sum(terms.values()), list(model.parameters()))
        for model, terms in ((detector.global_head["det"].head, losses), (library.head, expected))
    ]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * max(1.0, float(theirs.abs().max())))


def test_names_of_retinanet_files_from_before_013_are_known() -> None:
    with torch.device("meta"):
        new = detection.retinanet_resnet50_fpn(**NO_WEIGHTS).state_dict()
        fcos = detection.fcos_resnet50_fpn(**NO_WEIGHTS).state_dict()
    old = {}
    for name, tensor in new.items():
        parts = name.split(".")
        if ".conv." in name:
            name = f"{'.'.join(parts[:-3])}.{2 * int(parts[-3])}.{parts[-1]}"
        elif ".fpn.inner_blocks." in name or ".fpn.layer_blocks." in name:
            name = f"{'.'.join(parts[:-2])}.{parts[-1]}"
        old[name] = tensor
    assert old.keys() != new.keys()
    assert from_torchvision_one_stage(old).keys() == from_torchvision_one_stage(new).keys()
    assert "global_head.det.head.classification_head.conv.3.weight" in from_torchvision_one_stage(fcos)
    with pytest.raises(ValueError, match=r"'rpn\.head"):
        from_torchvision_one_stage({"rpn.head.cls_logits.weight": torch.zeros(1)})
