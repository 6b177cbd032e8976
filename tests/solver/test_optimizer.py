"""Optimizer: which parameter gets which learning rate and weight decay, and what survives a resume."""

from __future__ import annotations

import copy
import io

import pytest
import timm
import torch
import torchvision
from torch import nn

from pet.solver import Optimizer
from pet.solver.optimizer import OPTIMIZERS


class Classifier(nn.Module):
    """Every kind of parameter once."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.GroupNorm(2, 4))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 4))
        self.table = nn.Embedding(5, 4)
        self.head = nn.Linear(4, 2)


def _options(optimizer: torch.optim.Optimizer, key: str) -> dict[str, float]:
    return {name: group[key] for group in optimizer.param_groups for name in group["param_names"]}


def _decay_rules(solver, **options):
    return solver(WEIGHT_DECAY=0.1, WEIGHT_DECAY_NORM=0.2, WEIGHT_DECAY_BIAS=0.3, WEIGHT_DECAY_EMBED=0.4, **options).OPTIMIZER


def test_each_kind_of_parameter_gets_its_weight_decay(solver):
    decay = _options(Optimizer(Classifier(), _decay_rules(solver)).build(), "weight_decay")
    assert decay == {
        "backbone.0.weight": 0.1,
        "backbone.0.bias": 0.3,
        "backbone.1.weight": 0.2,
        "backbone.1.bias": 0.2,
        "backbone.2.weight": 0.1,
        "backbone.2.bias": 0.3,
        "backbone.3.weight": 0.2,
        "backbone.3.bias": 0.2,
        "cls_token": 0.4,
        "table.weight": 0.4,
        "head.weight": 0.1,
        "head.bias": 0.3,
    }


def test_learning_rate_factors_of_bias_and_backbone_multiply(solver):
    lr = _options(
        Optimizer(Classifier(), solver(BASE_LR=1.0, BIAS_LR_FACTOR=2.0, BACKBONE_LR_FACTOR=0.1).OPTIMIZER).build(), "lr"
    )
    assert lr["head.weight"] == lr["table.weight"] == 1.0
    assert lr["head.bias"] == 2.0
    assert lr["backbone.0.weight"] == lr["backbone.1.bias"] == 0.1
    assert lr["backbone.0.bias"] == pytest.approx(0.2)


@pytest.mark.parametrize("kind", ["SGD", "ADAM", "ADAMW", "RMSPROP"])
def test_every_optimizer_keeps_the_rules_and_learns(solver, kind):
    model = Classifier()
    optimizer = Optimizer(model, _decay_rules(solver, TYPE=kind, BASE_LR=0.01)).build()
    assert len({group["weight_decay"] for group in optimizer.param_groups}) == 4
    before = copy.deepcopy(model.state_dict())
    model.head(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    assert not torch.equal(model.head.weight, before["head.weight"])


def test_timm_and_torchvision_tables_and_tokens_are_embeddings(solver):
    for model in (
        timm.create_model("vit_tiny_patch16_224", num_classes=2),
        timm.create_model("swin_tiny_patch4_window7_224", num_classes=2),
        torchvision.models.vit_b_32(num_classes=2),
        torchvision.models.swin_t(num_classes=2),
    ):
        decay = _options(Optimizer(model, _decay_rules(solver)).build(), "weight_decay")
        tables = {name for name, value in decay.items() if value == 0.4}
        expected = ("cls_token", "class_token", "pos_embed", "pos_embedding", "relative_position_bias_table")
        assert tables == {name for name in decay if name.split(".")[-1] in expected} != set()
        norms = {name for name, value in decay.items() if value == 0.2}
        assert norms == {
            name for name in decay if decay[name] == 0.2 and ("norm" in name or ".ln" in name or "features.0.2" in name)
        }
        assert all(decay[name] == 0.3 for name in decay if name.endswith("in_proj_bias"))


def test_equal_rules_share_one_group(solver):
    model = torchvision.models.resnet50()
    assert len(Optimizer(model, solver().OPTIMIZER).build().param_groups) == 1
    assert len(Optimizer(model, solver(WEIGHT_DECAY_NORM=0.0, WEIGHT_DECAY_BIAS=0.0).OPTIMIZER).build().param_groups) == 2


def test_frozen_parameters_are_left_out_and_shared_ones_come_once(solver):
    model = Classifier()
    model.head.weight = nn.Parameter(torch.zeros(5, 4))
    model.table.weight = model.head.weight
    for parameter in model.backbone.parameters():
        parameter.requires_grad_(False)
    optimizer = Optimizer(model, solver().OPTIMIZER).build()
    assert sorted(_options(optimizer, "lr")) == ["cls_token", "head.bias", "table.weight"]


def test_model_without_trainable_parameters_is_refused(solver):
    with pytest.raises(ValueError, match=r"Sequential has no trainable parameter.*MODEL\.FREEZE_BACKBONE"):
        Optimizer(nn.Sequential(nn.Linear(2, 2).requires_grad_(False)), solver().OPTIMIZER)


def test_backbone_factor_without_backbone_is_refused(solver):
    with pytest.raises(ValueError, match=r"BACKBONE_LR_FACTOR is 0\.1.*trunk"):
        Optimizer(nn.ModuleDict({"trunk": nn.Linear(2, 2)}), solver(BACKBONE_LR_FACTOR=0.1).OPTIMIZER)


def test_nesterov_without_momentum_names_both_keys(solver):
    with pytest.raises(ValueError, match=r"NESTEROV needs SOLVER\.OPTIMIZER\.MOMENTUM"):
        Optimizer(Classifier(), solver(NESTEROV=True, MOMENTUM=0.0).OPTIMIZER)


def test_unknown_type_names_the_nearest(solver):
    with pytest.raises(KeyError, match="Did you mean 'ADAMW'"):
        OPTIMIZERS.get("ADMAW")


def test_description_counts_all_parameters(solver):
    model = Classifier()
    model.head.requires_grad_(False)
    text = Optimizer(model, solver(WEIGHT_DECAY_NORM=0.0).OPTIMIZER).describe()
    assert text.startswith("SGD (fused), 2 frozen tensors (10 parameters) left out")
    assert [line.split()[:4] for line in text.splitlines()[2:]] == [["0.1", "0.0001", "6", "284"], ["0.1", "0", "4", "16"]]


@pytest.mark.parametrize("kind", ["SGD", "ADAM", "ADAMW"])
def test_fused_kernels_do_not_depend_on_threads(solver, kind):
    def train(threads: int) -> torch.Tensor:
        torch.set_num_threads(threads)
        generator = torch.Generator().manual_seed(0)
        model = nn.Linear(20_011, 7)
        with torch.no_grad():
            model.weight.copy_(torch.randn(7, 20_011, generator=generator))
        optimizer = Optimizer(model, solver(TYPE=kind, BASE_LR=0.0137).OPTIMIZER).build()
        for _ in range(3):
            model.weight.grad = torch.randn(7, 20_011, generator=generator)
            optimizer.step()
        return model.weight.detach()

    threads = torch.get_num_threads()
    try:
        assert torch.equal(train(1), train(3))
    finally:
        torch.set_num_threads(threads)


# ----------------------------------------------------------------------------------------------------- resume


def _train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        optimizer.zero_grad()
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()


def _file(state: object) -> object:
    """Through a file that loads with ``weights_only=True``."""
    stream = io.BytesIO()
    torch.save(state, stream)
    stream.seek(0)
    return torch.load(stream, weights_only=True)


@pytest.mark.parametrize("kind", ["SGD", "ADAM", "ADAMW", "RMSPROP"])
def test_resume_is_bitwise_even_if_the_groups_are_cut_differently(solver, kind):
    torch.manual_seed(0)
    model = Classifier()
    # Decay 0 everywhere: the groupings differ, the mathematics does not.
    one_group = solver(TYPE=kind, WEIGHT_DECAY=0.0, BASE_LR=0.01).OPTIMIZER
    many_groups = solver(TYPE=kind, WEIGHT_DECAY=0.0, WEIGHT_DECAY_NORM=1e-30, WEIGHT_DECAY_BIAS=1e-31, BASE_LR=0.01).OPTIMIZER
    optimizer = Optimizer(model, one_group).build()
    _train(model, optimizer, 3, seed=1)
    resumed = copy.deepcopy(model)
    again = Optimizer(resumed, many_groups).build()
    again.load_state_dict(_file(optimizer.state_dict()))
    assert (len(optimizer.param_groups), len(again.param_groups)) == (1, 3)
    _train(model, optimizer, 3, seed=2)
    _train(resumed, again, 3, seed=2)
    for name, value in model.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_options_of_the_config_win_over_the_saved_ones(solver):
    model = Classifier()
    old = Optimizer(model, solver(BASE_LR=0.1, WEIGHT_DECAY=0.1, MOMENTUM=0.9).OPTIMIZER).build()
    _train(model, old, 1, seed=0)
    new = Optimizer(model, solver(BASE_LR=0.5, WEIGHT_DECAY=0.2, MOMENTUM=0.8).OPTIMIZER).build()
    new.load_state_dict(_file(old.state_dict()))
    (group,) = new.param_groups
    assert (group["initial_lr"], group["lr"], group["weight_decay"], group["momentum"]) == (0.5, 0.5, 0.2, 0.8)
    assert all(torch.equal(new.state[p]["momentum_buffer"], old.state[p]["momentum_buffer"]) for p in model.parameters())


def test_state_of_other_parameters_is_refused_with_names(solver):
    model = Classifier()
    saved = Optimizer(model, solver().OPTIMIZER).build().state_dict()
    model.head.requires_grad_(False)
    with pytest.raises(ValueError, match=r"2 only in the file \(head\.bias, head\.weight\).*TRAIN\.AUTO_RESUME"):
        Optimizer(model, solver().OPTIMIZER).build().load_state_dict(saved)


def test_state_of_another_optimizer_is_refused(solver):
    saved = Optimizer(Classifier(), solver(TYPE="ADAMW").OPTIMIZER).build().state_dict()
    with pytest.raises(ValueError, match=r"is of ADAMW, SOLVER\.OPTIMIZER\.TYPE is SGD"):
        Optimizer(Classifier(), solver().OPTIMIZER).build().load_state_dict(saved)


def test_state_without_names_is_refused(solver):
    model = Classifier()
    with pytest.raises(ValueError, match="no parameter names"):
        Optimizer(model, solver().OPTIMIZER).build().load_state_dict(torch.optim.SGD(model.parameters(), lr=1.0).state_dict())
