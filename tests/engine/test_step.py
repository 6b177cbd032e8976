from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from pet.engine.events import EventStorage
from pet.engine.step import SkipPolicy, TrainStep, make_clip
from tests.engine.toys import ToyBatch, forward_train, make_batch, make_model, make_sgd


def update(step: TrainStep, window: list[ToyBatch], storage: EventStorage | None = None) -> dict[str, float]:
    metrics = step(window, lambda storage: None, storage or EventStorage())
    return {name: float(value) for name, value in metrics.items()}


def halves(batch: ToyBatch) -> list[ToyBatch]:
    return [ToyBatch(*parts) for parts in zip(*(t.chunk(2) for t in (batch.images, batch.targets, batch.ids)), strict=True)]


def test_a_window_of_micro_batches_equals_one_large_batch():
    whole, parts = make_model(), make_model()
    metrics = update(TrainStep(whole, make_sgd(whole), forward_train), [make_batch(1)])
    accumulated = update(TrainStep(parts, make_sgd(parts), forward_train), halves(make_batch(1)))
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-7)
    assert metrics == pytest.approx(accumulated, rel=1e-6)


def test_total_loss_is_the_sum_of_the_losses():
    def two_losses(model: nn.Module, batch: ToyBatch) -> dict[str, dict[str, torch.Tensor]]:
        logits = model(batch.images)
        return {"losses": {"loss_a": logits.square().mean(), "loss_b": logits.abs().mean()}, "metrics": {}}

    model = make_model()
    metrics = update(TrainStep(model, make_sgd(model), two_losses), [make_batch(1)])
    assert metrics["total_loss"] == pytest.approx(metrics["loss_a"] + metrics["loss_b"])


def test_no_loss_is_an_error_that_shows_what_is_expected():
    model = make_model()
    step = TrainStep(model, make_sgd(model), lambda model, batch: {"losses": {}, "metrics": {}})
    with pytest.raises(ValueError, match="returned no loss; expected"):
        update(step, [make_batch(1)])


@pytest.mark.parametrize("clip_type", ["value", "norm", "full_model"])
def test_clipping_limits_what_it_says(clip_type):
    model = make_model()
    update(TrainStep(model, make_sgd(model), forward_train, clip=make_clip(clip_type, 1e-3)), [make_batch(1)])
    gradients = [p.grad for p in model.parameters()]
    if clip_type == "value":
        assert max(float(g.abs().max()) for g in gradients) <= 1e-3 * (1 + 1e-6)
    elif clip_type == "norm":
        assert max(float(g.norm()) for g in gradients) <= 1e-3 * (1 + 1e-4)
    else:
        assert float(torch.cat([g.flatten() for g in gradients]).norm()) <= 1e-3 * (1 + 1e-4)


@pytest.mark.parametrize(("amp_dtype", "rel"), [(None, 1e-5), (torch.float16, 1e-2)])
def test_the_norm_is_reported_unscaled_and_before_clipping(amp_dtype, rel):
    model, free = make_model(), make_model()
    clip = make_clip("full_model", 1e-3)
    metrics = update(TrainStep(model, make_sgd(model), forward_train, amp_dtype=amp_dtype, clip=clip), [make_batch(1)])
    update(TrainStep(free, make_sgd(free), forward_train), [make_batch(1)])
    assert metrics["grad_norm"] == pytest.approx(float(torch.cat([p.grad.flatten() for p in free.parameters()]).norm()), rel=rel)
    assert float(torch.cat([p.grad.flatten() for p in model.parameters()]).norm()) <= 1e-3 * (1 + 1e-4)


def test_an_unknown_clip_type_lists_the_known_ones():
    with pytest.raises(ValueError, match="value, norm or full_model"):
        make_clip("all", 1.0)


def test_a_hook_sees_unscaled_gradients_before_clipping():
    seen = []
    model = make_model()
    step = TrainStep(model, make_sgd(model), forward_train, amp_dtype=torch.float16, clip=make_clip("value", 1e-9))
    step([make_batch(1)], lambda storage: seen.append(max(float(p.grad.abs().max()) for p in model.parameters())), EventStorage())
    assert 1e-3 < seen[0] < 10


def test_gradients_that_a_hook_drops_leave_the_weights_alone():
    model = make_model()
    before = model[0].weight.detach().clone()

    def drop(storage: EventStorage) -> None:
        model[0].weight.grad = None

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    TrainStep(model, optimizer, forward_train)([make_batch(1)], drop, EventStorage())
    assert torch.equal(model[0].weight, before)
    assert model[2].weight.grad is not None


def test_bfloat16_needs_no_scaler_and_float16_has_one():
    model = make_model()
    assert TrainStep(model, make_sgd(model), forward_train, amp_dtype=torch.bfloat16).scaler is None
    assert TrainStep(model, make_sgd(model), forward_train, amp_dtype=torch.float16).scaler is not None


def test_autocast_is_really_on():
    kinds = []

    def remember(model: nn.Module, batch: ToyBatch) -> dict[str, dict[str, torch.Tensor]]:
        kinds.append(model(batch.images).dtype)
        return forward_train(model, batch)

    model = make_model()
    update(TrainStep(model, make_sgd(model), remember, amp_dtype=torch.bfloat16), [make_batch(1)])
    assert kinds == [torch.bfloat16]


def overflowing(model: nn.Module, batch: ToyBatch) -> dict[str, dict[str, torch.Tensor]]:
    outputs = forward_train(model, batch)
    outputs["losses"]["loss_cls"] = outputs["losses"]["loss_cls"] * 1e38
    return outputs


def test_an_overflow_keeps_the_weights_and_is_counted():
    model = make_model()
    before = [p.detach().clone() for p in model.parameters()]
    storage = EventStorage()
    step = TrainStep(model, make_sgd(model), overflowing, amp_dtype=torch.float16, init_scale=2.0**16)
    update(step, [make_batch(1)], storage)
    assert storage.update_skipped
    for _ in range(2):
        storage.step()
        update(step, [make_batch(1)], storage)
    storage.flush()
    assert storage.latest_with_smoothing_hint()["skipped_updates"] == 3, "a counter is not a median"
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert step.state_dict()["scaler"]["scale"] < 2.0**16


class NormNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.fc = nn.BatchNorm1d(6), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.norm(x))


def poisoned(number: int) -> ToyBatch:
    batch = make_batch(number)
    batch.images[3, 2] = math.nan
    return batch


@pytest.mark.parametrize("position", [0, 1])
def test_skip_leaves_weights_and_batchnorm_statistics_finite(position, caplog):
    model = NormNet()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    storage = EventStorage(start_iter=5)
    step = TrainStep(model, make_sgd(model), forward_train, skip=SkipPolicy(10))
    window = [make_batch(1), make_batch(2)]
    window[position] = poisoned(3)
    update(step, window, storage)
    assert storage.update_skipped
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    assert "update 5 is skipped" in caplog.text
    assert "24" in caplog.text  # a sample id of the poisoned batch
    update(step, [make_batch(1)], storage)
    assert not storage.update_skipped


def test_infinite_gradients_of_a_finite_loss_are_skipped_too():
    def steep(model: nn.Module, batch: ToyBatch) -> dict[str, dict[str, torch.Tensor]]:
        return {"losses": {"loss": (model(batch.images) * 0.0).sum().abs().sqrt()}, "metrics": {}}

    model = make_model()
    before = [p.detach().clone() for p in model.parameters()]
    update(TrainStep(model, make_sgd(model), steep, skip=SkipPolicy(3)), [make_batch(1)])
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_too_many_skips_in_a_row_end_the_run_with_the_samples():
    model = make_model()
    step = TrainStep(model, make_sgd(model), forward_train, skip=SkipPolicy(2))
    update(step, [poisoned(1)])
    with pytest.raises(FloatingPointError, match="2 updates in a row were not finite"):
        update(step, [poisoned(1)])


def test_too_many_skips_among_a_thousand_end_the_run_and_old_ones_do_not_count():
    model = make_model()
    step = TrainStep(model, make_sgd(model), forward_train, skip=SkipPolicy(10, 1))
    update(step, [poisoned(1)], EventStorage(start_iter=5))
    update(step, [make_batch(1)])
    other = TrainStep(model, make_sgd(model), forward_train, skip=SkipPolicy(10, 1))
    other.load_state_dict(step.state_dict())
    update(other, [poisoned(1)], EventStorage(start_iter=1005))
    with pytest.raises(FloatingPointError, match="2 of the newest 1000 updates .* in the last one, update 2004, loss_cls not finite"):
        update(other, [poisoned(1)], EventStorage(start_iter=2004))


def test_a_parameter_without_gradient_is_named_at_the_first_update(caplog):
    model = make_model()
    model.add_module("unused", nn.Linear(2, 2))
    step = TrainStep(model, make_sgd(model), lambda m, b: forward_train(nn.Sequential(*list(m)[:3]), b))
    update(step, [make_batch(1)])
    update(step, [make_batch(1)])
    assert caplog.text.count("unused.weight") == 1


def test_state_survives_a_round_trip():
    model = make_model()
    step = TrainStep(model, make_sgd(model), overflowing, amp_dtype=torch.float16, init_scale=1024.0)
    update(step, [make_batch(1)])
    other = TrainStep(model, make_sgd(model), overflowing, amp_dtype=torch.float16)
    other.load_state_dict(step.state_dict())
    assert other.state_dict() == step.state_dict()


def test_float16_cannot_resume_without_a_saved_scale():
    model = make_model()
    plain = TrainStep(model, make_sgd(model), forward_train).state_dict()
    with pytest.raises(KeyError, match="no loss scale"):
        TrainStep(model, make_sgd(model), forward_train, amp_dtype=torch.float16).load_state_dict(plain)
