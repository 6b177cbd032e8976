"""The analyser: numbers that can be checked, and nothing changed."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision import models, ops

from pet.analyser import Analyser, RCNNAnalyser
from pet.config import CfgNode, get_base_cfg


class FromPixels(nn.Module):
    """A library's model that takes uint8 images."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.model(images.float())


@pytest.fixture(scope="module")
def cfg() -> CfgNode:
    return get_base_cfg()


def analyser(cfg: CfgNode, name: str) -> Analyser:
    with torch.device("meta"):
        return RCNNAnalyser(cfg, FromPixels(models.get_model(name)))


def test_resnet50_has_its_published_size_and_cost(cfg: CfgNode) -> None:
    found = analyser(cfg, "resnet50")
    rows, text = found.get_params()
    assert (rows[0], text) == (("model", 25_557_032), "25.56M")
    conv, total = found.get_flops_activs(224, 224)
    assert round(total / 1000, 1) == 4.1
    assert conv == pytest.approx(4087.136256)
    assert found.get_flops_activs(224, 224, "activations")[0] == pytest.approx(11.1, abs=0.05)  # arXiv 2003.13678, table 2


@pytest.mark.parametrize(
    "name",
    ["resnet18", "resnet101", "mobilenet_v2", "mobilenet_v3_large", "efficientnet_b0", "swin_t", "vit_b_16", "convnext_tiny"],
)
def test_flops_without_normalisation_match_torchvision_table(cfg: CfgNode, name: str) -> None:
    found = analyser(cfg, name)
    counter = found._count(224, 224)
    published = models.get_model_weights(name).IMAGENET1K_V1.meta
    assert (sum(counter.flops.values()) - counter.flops["norm"]) / 1e9 == pytest.approx(published["_ops"], abs=6e-4)
    assert found.get_params()[0][0][1] == published["num_params"]


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_convolutions_and_activations_match_fvcore(cfg: CfgNode, name: str) -> None:
    from fvcore.nn import ActivationCountAnalysis, FlopCountAnalysis

    model, images = models.get_model(name).eval(), torch.zeros(1, 3, 96, 96)
    flops = FlopCountAnalysis(model, images).unsupported_ops_warnings(False)
    activations = ActivationCountAnalysis(model, images).unsupported_ops_warnings(False)
    found = Analyser(cfg, FromPixels(model))
    assert found.get_flops_activs(96, 96)[0] * 1e6 == flops.by_operator()["conv"]
    assert found.get_flops_activs(96, 96, "activations")[1] * 1e6 == activations.total()


def count(cfg: CfgNode, layer: nn.Module) -> dict[str, int]:
    return dict(Analyser(cfg, FromPixels(layer))._count(8, 8).flops)


def test_norms_count_once_with_stored_statistics_and_twice_without(cfg: CfgNode) -> None:
    elements = 3 * 8 * 8
    assert count(cfg, nn.BatchNorm2d(3)) == {"norm": elements}
    assert count(cfg, nn.GroupNorm(3, 3)) == {"norm": 2 * elements}
    assert count(cfg, nn.LayerNorm((3, 8, 8))) == {"norm": 2 * elements}


def test_attention_is_counted(cfg: CfgNode) -> None:
    class Attention(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return nn.functional.scaled_dot_product_attention(images, images, images)

    assert sum(count(cfg, Attention()).values()) == 3 * 2 * 8 * 8 * 8


def test_deformable_convolution_is_counted(cfg: CfgNode) -> None:
    class Deformable(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = ops.DeformConv2d(3, 5, 3, padding=1)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.conv(images, images.new_zeros(len(images), 18, 8, 8))

    assert count(cfg, Deformable()) == {"conv": 8 * 8 * 9 * 3 * (5 + 4)}


def test_what_is_not_counted_is_listed(cfg: CfgNode) -> None:
    found = Analyser(cfg, FromPixels(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Softmax(1))))
    assert found.uncounted(8, 8) == {"relu": 1, "softmax": 1}
    assert "relu x1, softmax x1" in found.describe()


def test_analysing_changes_neither_modes_nor_statistics_nor_random_numbers(cfg: CfgNode) -> None:
    model = FromPixels(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))).train()
    model.model[1].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    generator = torch.get_rng_state()
    Analyser(cfg, model, param_details=True).describe()
    assert torch.equal(generator, torch.get_rng_state())
    assert [part.training for part in model.modules()] == [True, True, True, False, True]
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.device.type == "cpu" for parameter in model.parameters())


def test_table_of_parameters_has_the_asked_depth(cfg: CfgNode) -> None:
    rows, _ = analyser(cfg, "resnet18").get_params(max_depth=2)
    names = [name for name, _ in rows]
    assert "model.layer1" in names
    assert "model.layer1.0" not in names
    assert dict(rows)["model.fc"] == 513_000


def test_unknown_mode_is_refused(cfg: CfgNode) -> None:
    with pytest.raises(ValueError, match="flops, activations"):
        analyser(cfg, "resnet18").get_flops_activs(32, 32, "flop")
