from __future__ import annotations

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pet.engine.events import EventStorage, get_event_storage, write_metrics
from tests.engine.toys import run


class CountTransfers(TorchDispatchMode):
    """Counts reads of a tensor's value by the host: the synchronisations that cost time on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.item.default):
            self.count += 1
        return func(*args, **(kwargs or {}))


def test_the_helper_used_outside_a_storage_explains_what_to_open():
    with pytest.raises(RuntimeError, match="with EventStorage"):
        get_event_storage()


def test_the_innermost_open_storage_is_returned():
    with EventStorage() as outer:
        with EventStorage() as inner:
            assert get_event_storage() is inner
        assert get_event_storage() is outer


def test_values_stay_tensors_until_the_flush():
    storage = EventStorage(log_period=4, max_iter=8)
    with CountTransfers() as transfers:
        for k in range(3):
            write_metrics({"loss_a": torch.tensor(float(k)), "data_time": 0.1}, storage)
            storage.step()
    assert transfers.count == 0
    storage.flush()
    assert storage.history("loss_a").values() == [(0.0, 1), (1.0, 2), (2.0, 3)]


def test_nothing_is_read_from_the_device_between_log_steps():
    with CountTransfers() as transfers:
        run([], updates=3)
    assert transfers.count == 0


def test_memory_is_bounded_by_the_window():
    storage = EventStorage(log_period=5, max_iter=1000)
    for k in range(200):
        storage.put_scalar("x", float(k))
        storage.flush()
        storage.step()
    assert len(storage.history("x")) == 5


def test_smoothing_is_the_median_of_the_window_and_only_where_asked_for():
    storage = EventStorage(log_period=3)
    for value in (1.0, 100.0, 3.0):
        storage.put_scalar("loss", value)
        storage.put_scalar("lr", value, smoothing_hint=False)
        storage.step()
    storage.flush()
    assert storage.latest_with_smoothing_hint() == {"loss": 3.0, "lr": 3.0}
    assert storage.history("loss").avg(2) == 51.5
    assert storage.latest()["loss"] == 3.0


def test_an_unknown_history_lists_the_known_ones():
    storage = EventStorage()
    storage.put_scalar("loss", 1.0)
    storage.flush()
    with pytest.raises(KeyError, match="there are loss"):
        storage.history("los")


def test_name_scope_is_restored_after_an_error():
    storage = EventStorage()
    with pytest.raises(ValueError, match="x"), storage.name_scope("head"):
        storage.put_scalar("loss", 1.0)
        raise ValueError("x")
    storage.put_scalar("loss", 2.0)
    storage.flush()
    assert storage.latest() == {"head/loss": 1.0, "loss": 2.0}


def test_first_last_and_every_period_are_log_steps():
    storage = EventStorage(log_period=4, max_iter=10)
    steps = []
    for _ in range(10):
        if storage.is_log_step:
            steps.append(storage.iteration)
        storage.step()
    assert steps == [1, 4, 8, 10]


@pytest.mark.parametrize(("period", "due"), [(4, [4, 8, 10]), (0, [10]), (100, [10])])
def test_what_has_a_period_is_also_done_at_the_end(period, due):
    storages = [EventStorage(start_iter=k, max_iter=10) for k in range(1, 11)]
    assert [storage.iteration for storage in storages if storage.is_due(period)] == due


def test_epoch_is_derived_from_the_update():
    storage = EventStorage(start_iter=4, iter_per_epoch=4)
    assert (storage.epoch, storage.epoch_progress, storage.ends_epoch) == (1, 1.0, True)
    storage.step()
    assert (storage.epoch, storage.epoch_progress, storage.starts_epoch) == (2, 1.25, True)


def test_a_non_finite_loss_is_noted_with_update_and_rank():
    storage = EventStorage(start_iter=7)
    write_metrics({"loss_a": torch.tensor(1.0), "loss_b": torch.tensor(math.nan)}, storage)
    storage.flush()
    assert storage.non_finite == [(7, 0, ("loss_b",))]


def test_the_first_reason_to_stop_counts_and_is_settled_at_the_boundary():
    storage = EventStorage()
    storage.request_stop("a", 3)
    storage.request_stop("b", 4)
    assert storage.stop is None
    assert storage.stop_requested
    storage.settle_stop()
    assert storage.stop is not None
    assert (storage.stop.reason, storage.stop.status) == ("a", 3)


def test_what_all_ranks_ask_for_counts_before_what_one_rank_was_asked():
    storage = EventStorage()
    storage.request_stop("a signal that reached this rank only", 143)
    storage.request_stop("no improvement", by_all_ranks=True)
    assert storage.stop is not None
    assert (storage.stop.reason, storage.stop.status) == ("no improvement", 0)


def test_state_survives_a_round_trip():
    storage = EventStorage(log_period=3)
    storage.put_scalar("loss", 1.5)
    storage.put_scalar("lr", 0.1, smoothing_hint=False)
    storage.flush()
    other = EventStorage(log_period=3)
    other.load_state_dict(storage.state_dict())
    assert other.latest_with_smoothing_hint() == storage.latest_with_smoothing_hint()
    assert other.state_dict() == storage.state_dict()


@pytest.mark.parametrize(("start", "period"), [(0, 20), (1, 0)])
def test_counters_begin_at_one(start, period):
    with pytest.raises(ValueError, match="counted from 1"):
        EventStorage(start, period)
