"""Same weights in, same numbers out: our classifier against the libraries' own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pet.tasks.cls import GeneralizedCNN, get_base_cfg

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def library_model(name: str, options: dict[str, int] | None = None) -> torch.nn.Module:
    library, _, model = name.partition("/")
    if library == "timm":
        import timm

        return timm.create_model(model, **options or {})
    from torchvision.models import get_model

    return get_model(model, **options or {})


def randomise(model: torch.nn.Module) -> dict[str, Tensor]:
    """Weights and statistics that no layer starts with, so that a tensor in the wrong place shows."""
    state = {}
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            state[name] = tensor
        elif "running_var" in name:
            state[name] = 0.5 + torch.rand_like(tensor)
        else:
            state[name] = tensor + 0.02 * torch.randn_like(tensor)
    return state


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("torchvision/resnet18", {}),
        ("torchvision/resnet50", {}),
        ("torchvision/mobilenet_v2", {}),
        ("torchvision/mobilenet_v3_large", {}),
        ("torchvision/swin_t", {}),
        ("torchvision/vit_b_16", {"image_size": 64}),
        ("torchvision/convnext_tiny", {}),
        ("torchvision/efficientnet_b0", {}),
        ("torchvision/densenet121", {}),
        ("timm/resnet50c", {}),
        ("timm/resnet50d", {}),
        ("timm/vit_tiny_patch16_224", {"img_size": 64}),
        ("timm/mobilenetv3_small_050", {}),
        ("timm/convnext_atto", {}),
    ],
)
def test_logits_and_loss_equal_those_of_the_library(name: str, options: dict[str, int]) -> None:
    library = library_model(name, options).eval()
    weights = randomise(library)
    library.load_state_dict(weights)
    cfg = get_base_cfg()
    cfg.merge_from_list(["MODEL.BACKBONE", name, "MODEL.BACKBONE_OPTIONS", options, "TRAIN.TRANSFORMS", "('normalize',)"])
    ours = GeneralizedCNN(cfg).eval()
    missing, surplus = ours.load_state_dict(ours.from_library(weights), strict=False)
    assert not missing
    assert not surplus

    images, labels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8), torch.tensor([3, 7])
    normalised = (images / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    with torch.no_grad():
        expected = library(normalised)
        logits = ours.logits(images)
        scale = expected.abs().max()
        torch.testing.assert_close(logits / scale, expected / scale, rtol=0, atol=1e-5)
        torch.testing.assert_close(ours(images)["scores"], expected.softmax(1), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(ours.loss(logits, labels), F.cross_entropy(expected, labels), rtol=1e-5, atol=1e-5)


def test_training_step_equals_that_of_the_library() -> None:
    library = library_model("torchvision/resnet18").train()
    weights = randomise(library)
    library.load_state_dict(weights)
    cfg = get_base_cfg()
    cfg.merge_from_list(["MODEL.GLOBAL_HEAD.CLS.LABEL_SMOOTHING", "0.1", "TRAIN.TRANSFORMS", "('normalize',)"])
    ours = GeneralizedCNN(cfg).train()
    ours.load_state_dict(ours.from_library(weights))

    images, labels = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8), torch.tensor([3, 7, 1, 0])
    normalised = (images / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    expected = F.cross_entropy(library(normalised), labels, label_smoothing=0.1)
    expected.backward()
    loss = ours(images, {"label": labels})["losses"]["loss_cls"]
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    ours_grad, library_grad = ours.global_head["cls"].fc.weight.grad, library.fc.weight.grad
    torch.testing.assert_close(ours_grad, library_grad, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(ours.backbone.body.bn1.running_mean, library.bn1.running_mean)
