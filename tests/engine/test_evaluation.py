from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

from pet.engine.evaluation import Evaluation, EvaluationSet, inference_mode_of, run_evaluation
from pet.evaluation.evaluator import DatasetEvaluator
from pet.utils import comm
from tests.engine.toys import ToyBatch, make_batch
from tests.helpers import run_ranks


class Correct:
    """Counts right answers over all ranks."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.right = self.seen = 0

    def process(self, inputs: ToyBatch, outputs: torch.Tensor) -> None:
        self.right += int((outputs.argmax(1) == inputs.targets).sum())
        self.seen += len(inputs.targets)

    def evaluate(self) -> dict[str, float]:
        parts = comm.gather((self.right, self.seen))
        return {"accuracy": 100 * sum(r for r, _ in parts) / sum(n for _, n in parts)} if parts else {}


def make_model() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Dropout(), nn.Linear(6, 2))


def forward_test(model: nn.Module, batch: ToyBatch) -> torch.Tensor:
    return model(batch.images)


LOADER = [make_batch(k) for k in range(5)]


def test_weights_modes_and_random_numbers_are_what_they_were():
    model = make_model()
    model[1].eval()
    before, rng = {n: t.clone() for n, t in model.state_dict().items()}, torch.get_rng_state()
    run_evaluation(model, LOADER, Correct(), forward_test)
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert [m.training for m in model] == [True, False, True, True]
    assert torch.equal(torch.get_rng_state(), rng)


def test_modes_are_restored_after_an_error():
    model = make_model()
    try:
        with inference_mode_of(model):
            assert not any(m.training for m in model.modules())
            raise ValueError("x")
    except ValueError:
        assert all(m.training for m in model.modules())


class FunctionalDropout(nn.Module):
    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"out": nn.functional.dropout(images, 0.5, self.training)}


def test_a_feature_extractor_still_trains_after_an_evaluation():
    # torchvision's extractors hold a graph for each mode and exchange them in train()
    extractor = create_feature_extractor(FunctionalDropout(), {"dropout": "out"})
    with inference_mode_of(extractor):
        assert extractor(torch.ones(64))["out"].all()
    assert not extractor(torch.ones(64))["out"].all()


def test_a_request_to_stop_throws_the_partial_result_away():
    seen = []

    def forward(model: nn.Module, batch: ToyBatch) -> torch.Tensor:
        seen.append(batch)
        return model(batch.images)

    assert run_evaluation(make_model(), LOADER, Correct(), forward, should_stop=lambda: len(seen) == 2) is None
    assert len(seen) == 2


def test_results_carry_the_name_of_their_data_set_and_pictures_come_on_request():
    class OnePicture:
        def process(self, inputs: Any, outputs: Any) -> None: ...

        def pictures(self) -> dict[str, np.ndarray]:
            return {"predictions": np.zeros((2, 2, 3), np.uint8)}

    sets = [EvaluationSet("a", LOADER, Correct(), OnePicture), EvaluationSet("b", LOADER[:1], Correct())]
    evaluation = Evaluation(make_model(), sets, forward_test, "cpu")
    measured = evaluation(pictures=True)
    assert measured is not None
    results, pictures = measured
    assert list(results) == ["a/accuracy", "b/accuracy"]
    assert [name for name, _ in pictures] == ["a/predictions"]
    again = evaluation()
    assert again is not None
    assert again[1] == []


def _evaluate(rank: int, world: int) -> float:
    model = make_model()
    model[1].running_mean += 100.0 * rank  # the statistics of rank 0 are measured, because they are saved
    measured = run_evaluation(model, LOADER[rank::world], Correct(), forward_test)
    assert measured is not None
    return measured["accuracy"]


def _interrupted(rank: int) -> bool:
    return run_evaluation(make_model(), LOADER, Correct(), forward_test, should_stop=lambda: rank == 1) is None


def _on_rank_0_only(rank: int) -> str:
    """What rank 0 hears when only it evaluates."""
    if rank != 0:
        time.sleep(2.0)  # busy elsewhere
        return ""
    comm.meet.__defaults__ = (0.5,)
    try:
        run_evaluation(make_model(), LOADER, Correct(), forward_test)
    except RuntimeError as error:
        return str(error)
    return "nothing was said"


def _all_on_two_ranks(rank: int) -> tuple[float, bool, str]:
    return _evaluate(rank, 2), _interrupted(rank), _on_rank_0_only(rank)


@pytest.fixture(scope="module")
def of_two_ranks() -> list[tuple[float, bool, str]]:
    return run_ranks(2, _all_on_two_ranks)


@pytest.mark.distributed
def test_every_rank_gets_the_result_of_the_whole_data_set(of_two_ranks):
    alone = _evaluate(0, 1)
    assert [accuracy for accuracy, _, _ in of_two_ranks] == [alone, alone]


@pytest.mark.distributed
def test_a_stop_on_one_rank_interrupts_all(of_two_ranks):
    assert [interrupted for _, interrupted, _ in of_two_ranks] == [True, True]


@pytest.mark.distributed
def test_an_evaluation_on_some_ranks_only_is_an_error_that_names_the_others(of_two_ranks):
    text = of_two_ranks[0][2]
    assert text.startswith("run_evaluation needs every rank, but not all of them came in time")
    assert "Ranks 1" in text


class Slow(DatasetEvaluator):
    """Takes its time on rank 0, as the metrics of a large data set do."""

    def collect(self, inputs: ToyBatch, outputs: torch.Tensor) -> dict[str, Any]:
        return {}

    def compute(self) -> dict[str, float]:
        time.sleep(3.0)
        return {self.name: 1.0}


class SlowPair:
    """Two of them, one after the other."""

    def __init__(self) -> None:
        self.parts = [Slow("first", range(2)), Slow("second", range(2))]

    def reset(self) -> None:
        for part in self.parts:
            part.reset()

    def process(self, inputs: Any, outputs: torch.Tensor) -> None:
        for part in self.parts:
            part.process(inputs, outputs)

    def evaluate(self) -> dict[str, float]:
        return {name: value for part in self.parts for name, value in part.evaluate().items()}


def _longer_than_the_limit(rank: int, folder: str) -> dict[str, float] | None:
    dist.destroy_process_group()
    limit = {"init_method": f"file://{folder}/store", "timeout": timedelta(seconds=1.5)}
    dist.init_process_group("gloo", rank=rank, world_size=2, **limit)
    batch = make_batch(0)
    batch.ids = torch.tensor([rank])
    return run_evaluation(make_model(), [batch], SlowPair(), forward_test)


@pytest.mark.distributed
def test_metrics_may_take_longer_on_rank_0_than_the_ranks_wait_for_one_another(tmp_path):
    assert run_ranks(2, _longer_than_the_limit, str(tmp_path)) == [{"first": 1.0, "second": 1.0}] * 2
