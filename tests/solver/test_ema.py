"""ModelEMA: the averages, and that the model's own weights survive them."""

from __future__ import annotations

import io

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pet.solver import ModelEMA, build_ema


def _net() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    net.register_buffer("mean", torch.tensor([0.5]), persistent=False)
    return net


def _step(net: nn.Module, seed: int) -> None:
    """Change every parameter and, through the forward pass, the statistics of BatchNorm."""
    generator = torch.Generator().manual_seed(seed)
    net(torch.randn(8, 3, 3, 3, generator=generator))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))


def _copy(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def _equal(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_averages_equal_those_of_torch():
    net = _net()
    ema, reference = (
        ModelEMA(net, 0.9, warm_up=False),
        AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True),
    )
    for seed in range(20):
        _step(net, seed)
        ema.update()
        reference.update_parameters(net)
    averages, expected = ema.state_dict()["weights"], reference.module.state_dict()
    for name, value in expected.items():
        if value.is_floating_point():
            torch.testing.assert_close(averages[name], value, rtol=0, atol=0, msg=name)
    assert averages["1.num_batches_tracked"] == net[1].num_batches_tracked == 20


def test_warm_up_starts_with_a_small_decay():
    net = nn.Linear(1, 1, bias=False)
    ema = ModelEMA(net, 0.5, warm_up=True)
    expected = None
    for update, weight in enumerate([1.0, 2.0, 5.0, -3.0, 4.0, 4.0, 9.0, 1.0, 0.0, 7.0, 2.0]):
        nn.init.constant_(net.weight, weight)
        ema.update()
        decay = min(0.5, (1 + update) / (10 + update))
        expected = weight if expected is None else decay * expected + (1 - decay) * weight
        assert ema.state_dict()["weights"]["weight"].item() == pytest.approx(expected, rel=1e-6)
    assert [ema.decay(n) for n in (1, 8, 9)] == [2 / 11, 0.5, 0.5]


def test_names_are_those_of_the_model():
    net = _net()
    net.alias = net[3]
    assert ModelEMA(net, 0.9).state_dict()["weights"].keys() == net.state_dict().keys()


def test_ema_before_first_update_is_the_model():
    net = _net()
    ema = ModelEMA(net, 0.9)
    _step(net, 0)  # for instance weights loaded after the constructor
    weights = _copy(net)
    with ema.applied(net):
        assert _equal(_copy(net), weights)
    ema.update()
    with ema.applied(net):
        assert _equal(_copy(net), weights)


def test_weights_after_evaluation_are_bitwise_unchanged():
    net = _net()
    ema = ModelEMA(net, 0.9)
    for seed in range(3):
        _step(net, seed)
        ema.update()
    weights, pointers = _copy(net), [tensor.data_ptr() for tensor in net.parameters()]
    with ema.applied(net):
        assert _equal(_copy(net), ema.state_dict()["weights"])
        assert not _equal(_copy(net), weights)
    assert _equal(_copy(net), weights)
    with pytest.raises(RuntimeError, match="inside"), ema.applied(net):
        raise RuntimeError("inside")
    assert _equal(_copy(net), weights)
    assert [tensor.data_ptr() for tensor in net.parameters()] == pointers


def test_gradients_flow_inside_applied_and_averages_need_none():
    net = nn.Linear(2, 1)
    ema = ModelEMA(net, 0.9)
    ema.update()
    with ema.applied(net):
        assert torch.is_grad_enabled()
        net(torch.ones(1, 2)).sum().backward()
    assert net.weight.grad is not None
    assert not any(tensor.requires_grad for tensor in ema.state_dict()["weights"].values())


def test_statistics_replaced_by_precise_bn_are_followed():
    net = _net()
    ema = ModelEMA(net, 0.9)
    ema.update()
    net[1].running_mean = torch.full((4,), 10.0)
    ema.update()
    assert ema.state_dict()["weights"]["1.running_mean"].min() > 8  # decay of the second update is 2 / 11
    with ema.applied(net):
        net[1].running_mean = torch.zeros(4)
    assert torch.equal(net[1].running_mean, torch.full((4,), 10.0))


def test_compiled_and_shared_modules_are_averaged_once():
    shared = nn.Linear(2, 2)
    net = nn.Sequential(shared, nn.ReLU(), shared)
    ema = ModelEMA(torch.compile(net, backend="eager"), 0.5, warm_up=False)
    ema.update()
    weight = shared.weight.detach().clone()
    nn.init.zeros_(shared.weight)
    ema.update()
    averages = ema.state_dict()["weights"]
    assert torch.equal(averages["0.weight"], 0.5 * weight)
    assert averages["0.weight"] is averages["2.weight"]
    with ema.applied(net):
        assert torch.equal(shared.weight, 0.5 * weight)


def test_resume_through_a_file_is_bitwise():
    net = _net()
    ema = ModelEMA(net, 0.99)
    for seed in range(4):
        _step(net, seed)
        ema.update()
    stream = io.BytesIO()
    torch.save({"model": net.state_dict(), "ema": ema.state_dict()}, stream)
    stream.seek(0)
    state = torch.load(stream, weights_only=True)
    again = _net()
    resumed = ModelEMA(again, 0.99)
    again.load_state_dict(state["model"])
    resumed.load_state_dict(state["ema"])
    for seed in range(4, 8):
        for part, average in ((net, ema), (again, resumed)):
            _step(part, seed)
            average.update()
    assert resumed.updates == 8
    assert _equal(ema.state_dict()["weights"], resumed.state_dict()["weights"])


def test_averages_follow_the_model_to_another_device():
    net = nn.Linear(2, 2)
    ema = ModelEMA(net, 0.9)
    net.to("meta")
    ema.update()
    assert {tensor.device.type for tensor in ema.state_dict()["weights"].values()} == {"meta"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("weight"), r"missing \['weight'\]"),
        (lambda weights: weights.update(extra=torch.zeros(1)), r"only in the file \['extra'\]"),
        (lambda weights: weights.update(weight=torch.zeros(3, 2)), r"weight is \(3, 2\) in the file, \(2, 2\) in the model"),
    ],
)
def test_averages_of_another_model_are_refused(change, message):
    ema = ModelEMA(nn.Linear(2, 2), 0.9)
    state = ema.state_dict()
    change(state["weights"])
    with pytest.raises(ValueError, match=message):
        ema.load_state_dict(state)


def test_averages_are_not_applied_to_another_model():
    with (
        pytest.raises(ValueError, match="another model than the Linear"),
        ModelEMA(nn.Linear(2, 2), 0.9).applied(nn.Linear(2, 2)),
    ):
        pass


@pytest.mark.parametrize("decay", [0.0, -0.1, 1.5])
def test_decay_outside_its_range_is_refused(decay):
    with pytest.raises(ValueError, match=r"SOLVER\.EMA\.DECAY"):
        ModelEMA(nn.Linear(2, 2), decay)


def test_config_switches_averages_on(solver):
    cfg = solver()
    assert build_ema(nn.Linear(2, 2), cfg.EMA) is None
    cfg.EMA.ENABLED, cfg.EMA.DECAY, cfg.EMA.WARM_UP = True, 0.75, False
    assert build_ema(nn.Linear(2, 2), cfg.EMA).decay(1) == 0.75
