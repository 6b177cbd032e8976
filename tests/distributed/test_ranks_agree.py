"""Two processes with half the batch each: the same run as one process, and every decision is made together."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from pet.engine import parallel
from pet.engine.checkpointer import CheckPointer
from pet.engine.events import EventStorage
from pet.engine.hooks.base import Hook
from pet.engine.step import TrainStep
from pet.utils import comm
from tests.engine.toys import CountingScheduler, make_batch, make_model, make_sgd
from tests.engine.toys import forward_train as toy_forward_train
from tests.faults.compare import rows, run_differences
from tests.faults.toy import UPDATES, ForwardTrain, Recorder, TermAt, ToyModel, toy_cfg, train
from tests.helpers import run_ranks

pytestmark = pytest.mark.distributed

SIGTERM_STATUS = 128 + signal.SIGTERM
EXCHANGES = ("all_reduce", "all_gather", "all_gather_object", "gather_object", "broadcast", "broadcast_object_list", "barrier")


class Place(Hook):
    """Knows the running update."""

    update = 0

    def before_step(self, storage: EventStorage) -> None:
        self.update = storage.iteration


# ------------------------------------------------------------------------------------- what the two ranks do


def train_recorded(folder: Path, stop: int | None = None) -> dict[int, list[int]]:
    """A run without BatchNorm and dropout; the ids of this rank's samples by update."""
    recorder = Recorder()
    train(folder, [recorder, *([TermAt(stop)] if stop else [])], MISC__STOP_CHECK_ITER=1, MISC__DISPLAY_ITER=1, plain=True)
    return recorder.ids


def stop_and_resume(folder: Path) -> list[tuple[int, int]]:
    """An uninterrupted run, and one that is stopped on both ranks, then on each rank alone; how each part ended."""
    options = {"SOLVER__ACCUMULATE": 2, "MISC__STOP_CHECK_ITER": 1}
    train(folder / "uninterrupted", **options)
    plan = [(0, [TermAt(3)]), (1, [TermAt(4, rank=0)]), (0, [TermAt(7, rank=1)]), (0, [TermAt(8)]), (0, [])]
    parts = [train(folder / "stopped", hooks, DATA__LOADER_THREADS=workers, **options) for workers, hooks in plan]
    return [(part.status, part.updates) for part in parts]


def meet_nan(folder: Path) -> list[str]:
    """Train with a picture that is NaN: policy raise, and skip with a limit of one; the errors."""
    errors = []
    for name, policy in (("raise", {}), ("limit", {"SOLVER__NON_FINITE__POLICY": "skip", "SOLVER__NON_FINITE__MAX_SKIPS": 1})):
        try:
            train(folder / name, forward_train=ForwardTrain(poison=(20,)), **policy)
        except FloatingPointError as error:
            errors.append(str(error))
    return errors


def forget_a_layer(folder: Path) -> str:
    """Train a model with a layer that gets no gradient; the error."""
    try:
        train(folder, unused=True)
    except RuntimeError as error:
        return str(error)
    return "nothing was said"


def state_after_training(folder: Path, **options: Any) -> dict[str, torch.Tensor]:
    return comm.unwrap(train(folder, **options).model).state_dict()


def updates_with_exchanges(folder: Path) -> list[int]:
    """Train with a line of the log every five updates; the updates in which the ranks exchanged more than gradients."""
    place, found = Place(), set()

    def watched(exchange: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            found.add(place.update)
            return exchange(*arguments, **options)

        return call

    only_at_the_end = {"EVAL__PERIOD_EPOCHS": None, "EVAL__PERIOD_ITERS": 0, "SOLVER__SNAPSHOT_ITER": 0}
    with pytest.MonkeyPatch.context() as patch:
        for name in EXCHANGES:
            patch.setattr(torch.distributed, name, watched(getattr(torch.distributed, name)))
        train(folder, [place], MISC__DISPLAY_ITER=5, **only_at_the_end)
    return sorted(found - {0})


def gradient_exchanges(window: int) -> int:
    """How often two updates of ``window`` micro-batches exchange gradients."""
    model = torch.nn.parallel.DistributedDataParallel(make_model())
    exchanges = []

    def exchange(state, bucket):  # type: ignore[no-untyped-def]
        exchanges.append(bucket.index())
        return allreduce_hook(state, bucket)

    model.register_comm_hook(None, exchange)
    step = TrainStep(model, make_sgd(model), toy_forward_train)
    for _ in range(2):
        step([make_batch(number) for number in range(window)], lambda storage: None, EventStorage())
    return len(exchanges)


def file_keys(folder: Path) -> dict[str, list[str]]:
    """Names of the tensors in a checkpoint, by what the model is wrapped in."""
    cpu = torch.device("cpu")
    models = {
        "bare": ToyModel(),
        "compiled": torch.compile(ToyModel()),
        "ddp": parallel.distribute(ToyModel(), toy_cfg(folder), cpu),
        "both": parallel.distribute(ToyModel(), toy_cfg(folder, MISC__COMPILE=True), cpu),
    }
    keys = {}
    for name, model in models.items():
        path = CheckPointer(folder / name).save(model, torch.optim.SGD(model.parameters()), CountingScheduler())
        keys[name] = list(torch.load(path, weights_only=True)["model"])
        CheckPointer(folder / name).load_model(model)
    return keys


def do_everything(rank: int, folder: Path) -> dict[str, Any]:
    """All runs of this module on one rank: starting two processes takes longer than the runs."""
    return {
        "ids": train_recorded(folder / "two"),
        "changing": train_recorded(folder / "changing", stop=9),
        "stops": stop_and_resume(folder),
        "nan": meet_nan(folder),
        "skip": state_after_training(
            folder / "skip", forward_train=ForwardTrain(poison=(20,)), SOLVER__NON_FINITE__POLICY="skip"
        ),
        "unused": forget_a_layer(folder / "unused"),
        "state": state_after_training(folder / "state"),
        "exchanges": updates_with_exchanges(folder / "exchanges"),
        "gradients": [gradient_exchanges(window) for window in (1, 3)],
        "keys": file_keys(folder / "keys"),
    }


@dataclass(frozen=True)
class Outcome:
    """What the two ranks returned, and the folder with their runs."""

    ranks: list[dict[str, Any]]
    folder: Path
    before: dict[int, list[int]]

    def batches(self, name: str) -> dict[int, list[int]]:
        """Global batches by update: the parts of the ranks one after the other."""
        first, second = (rank[name] for rank in self.ranks)
        return {update: first[update] + second[update] for update in first}


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    folder = tmp_path_factory.mktemp("ranks")
    before = train_recorded(folder / "changing", stop=5)  # one process, continued by two
    return Outcome(run_ranks(2, do_everything, folder, timeout=180), folder, before)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[int, list[int]], Path]:
    """The same run on one process: ids and folder."""
    folder = tmp_path_factory.mktemp("alone")
    return train_recorded(folder), folder


def assert_same_rows(one: Path, other: Path) -> None:
    for ours, theirs in zip(rows(one), rows(other), strict=True):
        assert (ours["iteration"], ours.get("lr")) == (theirs["iteration"], theirs.get("lr"))
        assert "lr" not in ours or abs(ours["total_loss"] - theirs["total_loss"]) < 1e-5


# ------------------------------------------------------------------------------------------------------- the promises


def test_two_processes_see_the_batches_the_rates_and_the_losses_of_one(
    outcome: Outcome, alone: tuple[dict[int, list[int]], Path]
) -> None:
    ids, folder = alone
    assert list(ids) == list(range(1, UPDATES + 1))
    assert outcome.batches("ids") == ids
    assert_same_rows(folder, outcome.folder / "two")


def test_number_of_processes_may_change_at_a_resume(
    outcome: Outcome, alone: tuple[dict[int, list[int]], Path], caplog: pytest.LogCaptureFixture
) -> None:
    ids, folder = alone
    with caplog.at_level("INFO", "pet"):
        after = train_recorded(outcome.folder / "changing")
    assert "The run had 2 processes, now 1: " in caplog.text, "what continues exactly and what does not is said"
    assert outcome.before | outcome.batches("changing") | after == ids
    assert [len(part) for part in (outcome.before, outcome.batches("changing"), after)] == [5, 4, 3]
    assert_same_rows(folder, outcome.folder / "changing")


def test_stop_on_any_rank_stops_all_at_one_update_and_resumes_bitwise(outcome: Outcome) -> None:
    expected = [(SIGTERM_STATUS, 3), (SIGTERM_STATUS, 1), (SIGTERM_STATUS, 3), (SIGTERM_STATUS, 1), (0, 4)]
    assert [rank["stops"] for rank in outcome.ranks] == [expected, expected]
    assert run_differences(outcome.folder / "uninterrupted", outcome.folder / "stopped", tensorboard=False) == []


def test_nan_on_one_rank_is_reported_by_all(outcome: Outcome) -> None:
    batch = outcome.batches("ids")
    update = next(u for u in batch if 20 in batch[u])
    bad_rank = next(rank for rank in (0, 1) if 20 in outcome.ranks[rank]["ids"][update])
    (raised, limited), (other_raised, other_limited) = (rank["nan"] for rank in outcome.ranks)
    assert raised == other_raised
    assert f"loss_cls is not finite since update {update} on rank {bad_rank};" in raised
    assert str(outcome.ranks[bad_rank]["ids"][update])[1:-1] in raised
    assert "SOLVER.NON_FINITE.POLICY skip" in raised
    assert all("1 updates in a row were not finite" in text for text in (limited, other_limited))
    saved = [int(path.stem.removeprefix("model_iter")) for path in (outcome.folder / "raise").glob("model_iter*.pth")]
    assert all(number < update for number in saved), "nothing is saved after the first bad update"


def test_skipped_update_leaves_weights_and_buffers_finite_and_equal(outcome: Outcome) -> None:
    first, second = (rank["skip"] for rank in outcome.ranks)
    for name in first:
        assert torch.isfinite(first[name]).all(), f"{name} is not finite after a skipped update"
        assert torch.equal(first[name], second[name]), f"{name} differs between the ranks"
    last = [row for row in rows(outcome.folder / "skip") if "skipped_updates" in row][-1]
    batch = outcome.batches("ids")
    assert last["skipped_updates"] == sum(20 in ids for ids in batch.values()) > 0


def test_parameter_without_a_gradient_is_named_on_every_rank(outcome: Outcome) -> None:
    for rank in outcome.ranks:
        assert "2 trainable parameters got no gradient in update 1: forgotten.weight, forgotten.bias" in rank["unused"]
        assert "MISC.FIND_UNUSED_PARAMETERS True" in rank["unused"]


def test_buffers_of_all_ranks_are_the_saved_ones_after_a_save(outcome: Outcome) -> None:
    saved = torch.load(outcome.folder / "state" / "model_latest.pth", weights_only=True)["model"]
    for rank in outcome.ranks:
        assert all(torch.equal(rank["state"][name], saved[name]) for name in saved)


def test_ranks_exchange_only_gradients_between_log_steps(outcome: Outcome) -> None:
    assert [rank["exchanges"] for rank in outcome.ranks] == [[1, 5, 10, UPDATES]] * 2


def test_gradients_are_exchanged_once_for_a_window_of_any_size(outcome: Outcome) -> None:
    for rank in outcome.ranks:
        single, window = rank["gradients"]
        assert single == window > 0


def refusal_of_sync_bn(rank: int) -> str:
    with pytest.raises(ValueError, match="SyncBN") as caught:
        parallel.distribute(torch.nn.SyncBatchNorm(2), toy_cfg(Path()), torch.device("cpu"))
    return str(caught.value)


def test_sync_bn_without_gpus_is_refused_by_its_key() -> None:
    assert all("set MODEL.NORM BN" in message for message in run_ranks(2, refusal_of_sync_bn))


@pytest.mark.parametrize("wrapped", ["compiled", "ddp", "both"])
def test_file_keys_are_those_of_the_bare_module(wrapped: str, outcome: Outcome) -> None:
    for rank in outcome.ranks:
        assert rank["keys"][wrapped] == rank["keys"]["bare"] == list(ToyModel().state_dict())
