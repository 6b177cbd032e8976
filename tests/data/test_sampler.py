"""Order of the data: the global batches depend on the seed and the update alone."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest

from pet.data.sampler import EvalSampler, TrainSampler


def updates(count: int, **options) -> list[list[tuple[int, int]]]:
    """The positions of ``count`` updates of one rank, micro-batches joined."""
    sampler = TrainSampler(**options)
    micro = list(itertools.islice(sampler, count * sampler.accumulate))
    return [sum(micro[i : i + sampler.accumulate], []) for i in range(0, len(micro), sampler.accumulate)]


BASE = {"num_samples": 103, "batch_size": 24, "seed": 5}


@pytest.mark.parametrize(("world_size", "accumulate"), [(1, 1), (1, 3), (2, 1), (2, 2), (4, 3)])
def test_global_batches_do_not_depend_on_processes_or_accumulation(world_size, accumulate):
    reference = updates(11, **BASE)
    ranks = [updates(11, **BASE, world_size=world_size, rank=r, accumulate=accumulate) for r in range(world_size)]
    assert [sum(parts, []) for parts in zip(*ranks, strict=True)] == reference


@pytest.mark.parametrize("start", [1, 2, 4, 5, 6, 11, 29])
def test_starting_anywhere_continues_the_same_stream(start):
    assert updates(40, **BASE)[start - 1 :] == updates(41 - start, **BASE, start_iter=start)


def test_an_epoch_is_a_permutation_without_its_incomplete_batch():
    stream = updates(8, **BASE)
    for epoch in (0, 1):
        positions = sum(stream[4 * epoch : 4 * epoch + 4], [])
        assert {e for e, _ in positions} == {epoch}
        assert len({i for _, i in positions}) == 96
    assert [i for _, i in stream[0]] != [i for _, i in stream[4]]


def test_update_ten_million_costs_nothing():
    started = time.perf_counter()
    batch = next(iter(TrainSampler(60_000, 128, start_iter=10_000_000)))
    assert time.perf_counter() - started < 0.2
    assert batch[0][0] == (10_000_000 - 1) // (60_000 // 128)


def test_fewer_samples_than_a_batch_repeat_the_permutation():
    batch = updates(2, num_samples=5, batch_size=12)
    first = [i for _, i in batch[0]]
    assert sorted(first[:5]) == list(range(5))
    assert first == list(np.resize(first[:5], 12))
    assert [e for e, _ in batch[1]] == [1] * 12


def test_sequential_order_is_the_order_of_the_data_set():
    assert [i for _, i in sum(updates(2, num_samples=9, batch_size=4, shuffle=False), [])] == list(range(8))


def test_another_seed_gives_another_order():
    assert updates(1, **BASE) != updates(1, **{**BASE, "seed": 6})


def test_a_batch_that_does_not_split_names_the_nearest_sizes():
    with pytest.raises(
        ValueError,
        match=r"BATCH_SIZE is 50, which does not split into 6 equal parts \(2 processes x SOLVER.ACCUMULATE 3\); use 48 or 54",
    ):
        TrainSampler(1000, 50, world_size=2, accumulate=3)
    with pytest.raises(ValueError, match="use 8$"):
        TrainSampler(1000, 3, world_size=8)


def test_an_empty_data_set_is_refused():
    with pytest.raises(ValueError, match="empty"):
        TrainSampler(0, 4)


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
@pytest.mark.parametrize("num_samples", [0, 1, 10, 21, 64])
def test_evaluation_shows_every_sample_once_in_the_same_batches(num_samples, world_size):
    ranks = [list(EvalSampler(num_samples, 5, world_size=world_size, rank=r)) for r in range(world_size)]
    assert [len(EvalSampler(num_samples, 5, world_size=world_size, rank=r)) for r in range(world_size)] == [len(r) for r in ranks]
    batches = sorted(sum(ranks, []))
    assert batches == list(EvalSampler(num_samples, 5))
    assert [i for batch in batches for _, i in batch] == list(range(num_samples))
