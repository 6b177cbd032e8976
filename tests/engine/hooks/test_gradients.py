"""Dropped gradients leave parameters bitwise as they are; afterwards these train like all others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pet.engine.events import EventStorage
from pet.engine.hooks.base import HookList
from pet.engine.hooks.gradients import DropGradients
from pet.engine.loop import run_loop
from pet.engine.step import SkipPolicy, TrainStep, make_clip
from pet.solver.optimizer import start_momenta
from tests.engine.toys import ToyLoader, forward_train, make_batch, make_model
from tests.helpers import run_ranks

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    "sgd-foreach": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01, foreach=True),
    "sgd-fused": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01, fused=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.05),
    "adamw-foreach": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.05, foreach=True),
    "adamw-fused": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.05, fused=True),
}


class Run:
    """A toy training that records all weights after each update."""

    def __init__(self, optimizer: str = "sgd", wrap: Callable[[nn.Module], nn.Module] | None = None, **options: Any) -> None:
        self.model = make_model()
        self.optimizer = OPTIMIZERS[optimizer](self.model.parameters())
        if optimizer == "sgd-fused":  # as pet.solver builds it
            start_momenta(self.optimizer)
        trained = self.model if wrap is None else wrap(self.model)
        self.step = TrainStep(trained, self.optimizer, forward_train, **options)
        self.weights: list[dict[str, Tensor]] = [self.now()]

    def now(self) -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in self.model.named_parameters()}

    def train(self, hooks: list[DropGradients], first: int, last: int) -> Run:
        for update in range(first, last + 1):
            with EventStorage(update, max_iter=update) as storage:
                run_loop(self.step, ToyLoader(update), HookList(hooks), storage)
            self.weights.append(self.now())
        return self

    def drop(self, patterns: Any, **options: int) -> DropGradients:
        return DropGradients(self.step.model, patterns, **options)

    def moved(self) -> list[set[str]]:
        """Names that changed, for each update."""
        pairs = zip(self.weights, self.weights[1:], strict=False)
        return [{name for name in old if not torch.equal(old[name], new[name])} for old, new in pairs]


ALL = {"0.weight", "0.bias", "2.weight", "2.bias"}


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_chosen_parameters_stand_still_and_then_train(optimizer: str) -> None:
    run = Run(optimizer)
    run.train([run.drop(["2.*"], until_iter=3)], 1, 5)
    assert run.moved() == [{"0.weight", "0.bias"}] * 3 + [ALL] * 2


def test_fused_steps_are_those_of_the_plain_optimizer() -> None:
    plain, fused = Run("sgd"), Run("sgd-fused")
    for run in (plain, fused):
        run.train([run.drop(["2.*"], until_iter=2), run.drop(["0.bias"], from_iter=2, until_iter=3)], 1, 6)
    torch.testing.assert_close(plain.weights, fused.weights)


def test_from_a_later_update_on_the_momentum_of_before_does_not_move_them() -> None:
    run = Run()
    run.train([run.drop("0.weight", from_iter=3, until_iter=4)], 1, 5)
    assert run.moved() == [ALL, ALL, ALL - {"0.weight"}, ALL - {"0.weight"}, ALL]


def test_zero_gradients_would_not_do() -> None:
    run = Run()

    class ZeroGradients(DropGradients):
        def after_backward(self, storage: EventStorage) -> None:
            for parameter in self._chosen.values():
                parameter.grad = torch.zeros_like(parameter)

    run.train([ZeroGradients(run.model, ["2.*"], until_iter=3)], 1, 1)
    assert run.moved() == [ALL]


@pytest.mark.parametrize("stop", [2, 3, 4])
@pytest.mark.parametrize("optimizer", ["sgd", "sgd-fused"])
def test_a_resumed_run_is_bitwise_the_same(optimizer: str, stop: int) -> None:
    whole = Run(optimizer)
    whole.train([whole.drop(["2.*"], until_iter=3)], 1, 6)
    begun = Run(optimizer)
    begun.train([begun.drop(["2.*"], until_iter=3)], 1, stop)
    resumed = Run(optimizer)
    resumed.model.load_state_dict(begun.model.state_dict())
    resumed.optimizer.load_state_dict(begun.optimizer.state_dict())
    resumed.step.load_state_dict(begun.step.state_dict())
    resumed.train([resumed.drop(["2.*"], until_iter=3)], stop + 1, 6)
    assert all(torch.equal(value, resumed.now()[name]) for name, value in whole.now().items())


def test_the_norm_for_clipping_is_that_of_the_others() -> None:
    run = Run(clip=make_clip("full_model", 1e-3))
    hook = run.drop(["0.*"], until_iter=1)
    metrics = run.step([make_batch(1)], hook.after_backward, EventStorage())
    free = make_model()
    forward_train(free, make_batch(1))["losses"]["loss_cls"].backward()
    norm = torch.cat([p.grad.flatten() for name, p in free.named_parameters() if name.startswith("2.")]).norm()
    torch.testing.assert_close(metrics["grad_norm"], norm)
    assert float(run.model[2].weight.grad.norm()) <= 1e-3 * (1 + 1e-4)
    assert run.model[0].weight.grad is None


def test_a_whole_model_may_stand_still() -> None:
    run = Run(clip=make_clip("full_model", 1.0))
    run.train([run.drop("*", until_iter=1)], 1, 2)
    assert run.moved() == [set(), ALL]


def test_no_false_alarm_about_unused_parameters(caplog: pytest.LogCaptureFixture) -> None:
    run = Run()
    run.train([run.drop(["2.*"], until_iter=1)], 1, 1)
    assert "got no gradient" not in caplog.text


def test_a_gradient_that_is_not_finite_but_dropped_skips_nothing() -> None:
    run = Run(skip=SkipPolicy(3))
    run.model[2].bias.register_hook(lambda gradient: gradient * float("inf"))
    run.train([run.drop(["2.*"], until_iter=2)], 1, 2)
    assert run.step.skipped_updates == 0
    assert run.moved() == [{"0.weight", "0.bias"}] * 2


def test_with_a_loss_scale_they_stand_still_as_well() -> None:
    run = Run(amp_dtype=torch.float16, init_scale=128.0)
    run.train([run.drop(["2.*"], until_iter=2)], 1, 3)
    assert run.step.skipped_updates == 0
    assert run.moved() == [{"0.weight", "0.bias"}] * 2 + [ALL]


def rank_moves(rank: int) -> list[set[str]]:
    run = Run(wrap=nn.parallel.DistributedDataParallel)
    run.train([run.drop(["2.*"], until_iter=2)], 1, 3)
    return run.moved()


@pytest.mark.distributed
def test_all_processes_drop_the_same_by_bare_names() -> None:
    expected = [{"0.weight", "0.bias"}] * 2 + [ALL]
    assert run_ranks(2, rank_moves) == [expected, expected]


def named() -> nn.Module:
    return nn.ModuleDict({"backbone": nn.Linear(2, 2), "global_head": nn.ModuleDict({"aux": nn.Linear(2, 2)})})


def build(model: nn.Module, patterns: Any, **options: int) -> DropGradients:
    return DropGradients(model, patterns, **options)


def mistakes() -> Iterator[Any]:
    yield pytest.param("global_head.aux", r"whole module write 'global_head\.aux\.\*'", id="module")
    yield pytest.param("global_haed.aux.*", r"Nearest: global_head\.aux\.\*", id="misspelt-module")
    yield pytest.param("global_head.aux.wieght", r"Nearest:.* global_head\.aux\.weight", id="misspelt-parameter")
    yield pytest.param("zzz", r"begin with: backbone, global_head", id="nothing-near")
    yield pytest.param([], "PATTERNS is empty", id="none")


@pytest.mark.parametrize(("patterns", "message"), list(mistakes()))
def test_a_pattern_that_fits_nothing_is_an_error(patterns: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(named(), patterns, until_iter=1)


def test_frozen_parameters_and_empty_ranges_are_errors() -> None:
    model = named()
    model["backbone"].requires_grad_(False)
    with pytest.raises(ValueError, match="only frozen parameters"):
        build(model, ["backbone.*"], until_iter=1)
    for first, last in ((0, 3), (4, 3)):
        with pytest.raises(ValueError, match="updates count from 1"):
            build(model, ["global_head.*"], until_iter=last, from_iter=first)


def test_it_is_built_from_the_yaml_entry() -> None:
    from types import SimpleNamespace

    from pet.engine.hooks.build import build_custom_hooks

    entry = {"TYPE": "pet.engine.hooks.gradients.DropGradients", "PATTERNS": ["global_head.*"], "UNTIL_ITER": 2000}
    model = named()
    parts = SimpleNamespace(cfg=SimpleNamespace(MISC=SimpleNamespace(HOOKS=[entry])), model=model)
    assert isinstance(build_custom_hooks(parts)[0], DropGradients)  # type: ignore[arg-type]
