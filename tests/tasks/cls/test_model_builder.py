"""GeneralizedCNN: what it returns, what it keeps fixed, how it names its tensors."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from pet.config import CfgNode
from pet.data.structures import Batch
from pet.models.registry import CLS_HEADS
from pet.tasks.cls import Analyser, GeneralizedCNN, forward_test, forward_train, get_base_cfg, input_size


def config(*options: object) -> CfgNode:
    cfg = get_base_cfg()
    cfg.merge_from_list(["MODEL.BACKBONE", "cifar_resnet8", "MODEL.GLOBAL_HEAD.CLS.NUM_CLASSES", 10, *options])
    cfg.merge_from_list(["SOLVER.SCHEDULER.TOTAL_EPOCHS", 1])
    cfg.freeze()
    return cfg


def pixels(count: int = 4) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8)


def batch(count: int = 4) -> Batch:
    return Batch(pixels(count), {"label": torch.arange(count)}, torch.arange(count), [])


def test_training_returns_losses_and_metrics_testing_returns_scores() -> None:
    model = GeneralizedCNN(config())
    outputs = forward_train(model, batch())
    assert outputs["losses"]["loss_cls"].requires_grad
    assert 0 <= outputs["metrics"]["acc1"] <= 100
    scores = forward_test(model.eval(), batch())["scores"]
    assert scores.shape == (4, 10)
    assert scores.dtype == torch.float32


def test_training_without_targets_is_refused() -> None:
    with pytest.raises(ValueError, match="needs targets"):
        GeneralizedCNN(config())(pixels())


def test_mixed_targets_and_several_labels_are_learned() -> None:
    mixed = torch.full((4, 10), 0.1)
    for options in ((), ("MODEL.GLOBAL_HEAD.CLS.LOSS", "bce")):
        outputs = GeneralizedCNN(config(*options))(pixels(), {"scores": mixed})
        assert torch.isfinite(outputs["losses"]["loss_cls"])


def test_tensors_have_stable_names() -> None:
    model = GeneralizedCNN(config("MODEL.FEATURES", (2, 3), "MODEL.NECK", "gap"))
    names = set(model.state_dict())
    assert {"backbone.body.conv1.weight", "global_head.cls.fc.weight", "global_head.cls.fc.bias"} <= names
    assert {name.partition(".")[0] for name in names} == {"backbone", "global_head"}
    assert model.global_head["cls"].fc.in_features == 32 + 64


def test_normalize_in_the_transforms_decides() -> None:
    images = pixels()
    plain, normal = GeneralizedCNN(config()), GeneralizedCNN(config("TRAIN.TRANSFORMS", ("normalize",)))
    torch.testing.assert_close(plain.pixels(images), images / 255)
    assert normal.pixels(images).mean() < plain.pixels(images).mean()


def frozen_batch_norms(module: nn.Module) -> set[bool]:
    return {part.training for part in module.modules() if isinstance(part, nn.BatchNorm2d)}


def test_frozen_backbone_stays_as_it_is_through_training() -> None:
    model = GeneralizedCNN(config("MODEL.FREEZE_BACKBONE", True)).train()
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    model.train()(pixels(), {"label": torch.arange(4)})["losses"]["loss_cls"].backward()
    optimizer.step()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"global_head.cls.fc.weight", "global_head.cls.fc.bias"}


def test_frozen_stages_stay_in_evaluation_mode_and_the_rest_trains() -> None:
    model = GeneralizedCNN(config("MODEL.FREEZE_AT", 2)).eval().train()
    body = model.backbone.body
    assert frozen_batch_norms(body.layer1) == {False}
    assert frozen_batch_norms(body.layer2) == {True}
    assert not body.bn1.training
    twin = copy.deepcopy(model).train()
    assert frozen_batch_norms(twin.backbone.body.layer1) == {False}


def test_a_frozen_level_extractor_stays_frozen() -> None:
    model = GeneralizedCNN(
        config("MODEL.BACKBONE", "torchvision/resnet18", "MODEL.FEATURES", (4,), "MODEL.FREEZE_BACKBONE", True)
    )
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.train()(pixels(), {"label": torch.arange(4)})
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


def test_a_new_head_is_one_class_and_a_name() -> None:
    @CLS_HEADS.register("cosine_for_test")
    class CosineHead(nn.Module):
        def __init__(self, channels: tuple[int, ...], num_classes: int, dropout: float, scale: float = 10.0) -> None:
            super().__init__()
            self.weight, self.scale = nn.Parameter(torch.randn(num_classes, channels[-1])), scale

        def forward(self, levels: list[torch.Tensor]) -> torch.Tensor:
            return self.scale * nn.functional.normalize(levels[-1]) @ nn.functional.normalize(self.weight).T

    cls = "MODEL.GLOBAL_HEAD.CLS"
    model = GeneralizedCNN(config(f"{cls}.TYPE", "cosine_for_test", f"{cls}.OPTIONS", {"scale": 3.0})).eval()
    assert "global_head.cls.weight" in model.state_dict()
    assert model.logits(pixels()).abs().max() <= 3.0


def test_published_classifier_starts_the_head_only_if_it_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models import resnet18

    published = resnet18().state_dict()
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *_, **__: copy.deepcopy(published))
    options = ("MODEL.BACKBONE", "torchvision/resnet18", "MODEL.PRETRAINED", True)
    model = GeneralizedCNN(config(*options, "MODEL.GLOBAL_HEAD.CLS.NUM_CLASSES", 1000))
    assert torch.equal(model.global_head["cls"].fc.weight, published["fc.weight"])
    assert torch.equal(model.backbone.body.conv1.weight, published["conv1.weight"])
    assert GeneralizedCNN(config(*options)).global_head["cls"].fc.out_features == 10


def test_published_weights_are_not_fetched_when_others_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("fetched")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    options = ("MODEL.BACKBONE", "torchvision/resnet18", "MODEL.PRETRAINED", True)
    GeneralizedCNN(config(*options, "TRAIN.WEIGHTS", "my.pth"))
    GeneralizedCNN(config(*options), is_train=False)


def test_a_compiled_graph_is_one_piece() -> None:
    """torch.compile finds no break in the graph: no host synchronisation in the forward pass."""
    model = GeneralizedCNN(config("TRAIN.TRANSFORMS", ("normalize",)))
    explained = torch._dynamo.explain(model)(pixels(), {"label": torch.arange(4)})
    assert explained.graph_break_count == 0
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("options", "size"),
    [
        (("TEST.TRANSFORMS", ("resize", "center_crop")), (224, 224)),
        (("TEST.TRANSFORMS", ("resize",), "TEST.RESIZE.SCALE", (32, 48)), (32, 48)),
        (("TRAIN.TRANSFORMS", ("random_crop",)), (32, 32)),
        (
            ("TRAIN.TRANSFORMS", ("resize",), "TRAIN.RESIZE.SCALES", ((40, 48),), "TRAIN.RESIZE.SCALES_SAMPLING", "force_size"),
            (40, 48),
        ),
        ((), None),
    ],
)
def test_analyser_assumes_the_size_the_config_makes(options: tuple, size: tuple[int, int] | None) -> None:
    cfg = config(*options)
    assert input_size(cfg) == size
    text = Analyser(cfg, GeneralizedCNN(cfg)).describe()
    assert f"an image of {size[0]} x {size[1]}" in text if size else "an image" not in text
