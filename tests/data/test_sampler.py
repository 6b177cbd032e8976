"""Order of the data: the global batches depend on the seed and the update alone."""

from __future__ import annotations

import itertools
import time
import tracemalloc

import numpy as np
import pytest

from pet.data.sampler import REPETITION, EvalSampler, TrainSampler, aspect_groups, repeat_factors


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


# ----------------------------------------------------------------------------------------------- groups and repeats


GROUPS = np.random.default_rng(1).choice(3, 103, p=(0.6, 0.3, 0.1))
REPEATS = np.random.default_rng(2).choice((1.0, 1.4, 3.0, 2.5), 103)
ORDERS = {
    "groups": {"groups": GROUPS, "group_size": 6},
    "repeats": {"repeats": REPEATS},
    "groups-repeats": {"groups": GROUPS, "group_size": 6, "repeats": REPEATS},
    "groups-uneven": {"groups": GROUPS, "group_size": 5},
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("world_size", "accumulate"), [(1, 1), (1, 2), (2, 1), (2, 2), (4, 1)])
def test_grouped_and_repeated_batches_do_not_depend_on_processes(order, world_size, accumulate):
    reference = updates(25, **BASE, **ORDERS[order])
    for start in (1, 7, 20):
        options = {**BASE, **ORDERS[order], "world_size": world_size, "accumulate": accumulate, "start_iter": start}
        ranks = [updates(26 - start, **options, rank=r) for r in range(world_size)]
        assert [sum(parts, []) for parts in zip(*ranks, strict=True)] == reference[start - 1 :]


@pytest.mark.parametrize("group_size", [1, 4, 5, 8, 24])
def test_a_grouped_epoch_shows_every_sample_at_most_once_and_nearly_all(group_size):
    sampler = TrainSampler(**BASE, groups=GROUPS, group_size=group_size)
    for epoch in range(3):
        assert sorted(sampler.epoch_order(epoch).tolist()) == list(range(103))
    stream = updates(4, **BASE, groups=GROUPS, group_size=group_size)
    assert len({i for _, i in sum(stream, [])}) == 96
    assert not np.array_equal(sampler.epoch_order(0), sampler.epoch_order(1))


def test_micro_batches_are_of_one_group_wherever_possible():
    groups = np.random.default_rng(3).choice(2, 1003, p=(0.7, 0.3))
    options = {"num_samples": 1003, "batch_size": 32, "groups": groups, "group_size": 8, "world_size": 4}
    for rank in range(4):
        parts = list(itertools.islice(TrainSampler(**options, rank=rank), 31))
        mixed = sum(len({int(groups[i]) for _, i in part}) > 1 for part in parts)
        assert mixed <= 1
    plain = list(itertools.islice(TrainSampler(1003, 32, world_size=4), 31))
    assert sum(len({int(groups[i]) for _, i in part}) > 1 for part in plain) > 20


def test_units_appear_in_the_order_in_which_they_become_full():
    groups = np.array([0, 1, 0, 1, 1, 0, 0, 1, 0])
    order = TrainSampler(9, 2, shuffle=False, groups=groups, group_size=2).epoch_order(0)
    assert order.tolist() == [0, 2, 1, 3, 5, 6, 4, 7, 8]


def test_every_group_is_seen_in_the_share_it_has():
    seen = np.bincount(GROUPS[[i for _, i in sum(updates(80, **BASE, groups=GROUPS, group_size=6), [])]], minlength=3)
    assert np.allclose(seen / seen.sum(), np.bincount(GROUPS) / 103, atol=0.03)


def test_an_epoch_repeats_pictures_by_their_factor():
    sampler = TrainSampler(**BASE, repeats=REPEATS)
    assert sampler.iter_per_epoch == int(REPEATS.sum()) // 24
    epochs = 60
    stream = updates(sampler.iter_per_epoch * epochs, **BASE, repeats=REPEATS)
    counts = np.bincount([i for _, i in sum(stream, [])], minlength=103) / epochs
    # The incomplete batch at the end is left out, which takes the same share of all.
    whole = sampler.iter_per_epoch * 24 / REPEATS.sum()
    assert np.allclose(counts, REPEATS * whole, atol=0.3)
    assert np.allclose([counts[r == REPEATS].mean() / r for r in np.unique(REPEATS)], whole, atol=0.05)
    assert counts[REPEATS == 3].min() > counts[REPEATS == 1].max()


def test_repetitions_of_a_picture_in_an_epoch_are_different_positions():
    stream = updates(1, num_samples=4, batch_size=8, repeats=np.array([1.0, 5.0, 1.0, 1.0]))[0]
    assert len(set(stream)) == 8
    assert sorted(e // REPETITION for e, i in stream if i == 1) == [0, 1, 2, 3, 4]
    assert {e % REPETITION for e, _ in stream} == {0}
    assert {e % REPETITION for e, _ in updates(2, num_samples=4, batch_size=8, repeats=np.full(4, 2.0))[1]} == {1}


def test_short_epochs_are_filled_up_and_long_ones_cut():
    few = TrainSampler(10, 4, repeats=np.full(10, 1.25))
    assert few.iter_per_epoch == 3
    for epoch in range(30):
        order = few.epoch_order(epoch)
        assert len(order) == 12
        assert len(set(order.tolist())) >= 8
    for wrong in ({"groups": np.zeros(5, int)}, {"repeats": np.ones(11)}):
        with pytest.raises(ValueError, match="one entry for each of the 10 samples"):
            TrainSampler(10, 4, **wrong)


def test_repeat_factors_are_those_of_lvis():
    presence = np.zeros((1000, 3), bool)
    presence[:, 0], presence[:100, 1], presence[:10, 2] = True, True, True
    presence[-1] = False
    factors = repeat_factors(presence, 0.25)
    assert factors[0] == pytest.approx(np.sqrt(0.25 / 0.01))
    assert factors[50] == pytest.approx(np.sqrt(0.25 / 0.1))
    assert factors[500] == factors[-1] == 1.0
    assert repeat_factors(presence, 0.25, max_times=3.0).max() == 3.0
    assert repeat_factors(presence, 0.25, power=1.0)[0] == pytest.approx(25)
    assert repeat_factors(presence, 0.25, min_times=2.0).min() == 2.0
    with pytest.raises(ValueError, match="limits of the factor"):
        repeat_factors(presence, 0.1, min_times=3, max_times=2)


def test_repeat_factors_of_lvis_need_no_table_of_numbers():
    presence = np.zeros((20_000, 1203), bool)
    presence[np.arange(20_000), np.arange(20_000) % 1203] = True
    tracemalloc.start()
    try:
        factors = repeat_factors(presence, 0.001)
        assert tracemalloc.get_traced_memory()[1] < presence.nbytes
    finally:
        tracemalloc.stop()
    assert factors[0] == pytest.approx(np.sqrt(0.001 * 20_000 / 17))


def test_aspect_groups_part_upright_from_wide():
    sizes = np.array([[480, 640], [640, 480], [500, 500], [100, 300]])
    assert aspect_groups(sizes).tolist() == [1, 0, 1, 1]
    assert aspect_groups(sizes, (0.8, 1.1, 2.0)).tolist() == [2, 0, 1, 3]


def test_grouping_a_large_set_costs_little():
    started = time.perf_counter()
    TrainSampler(120_000, 16, groups=np.arange(120_000) % 2, group_size=2, repeats=np.full(120_000, 1.3)).epoch_order(0)
    assert time.perf_counter() - started < 1.0


@pytest.mark.parametrize(("world_size", "accumulate"), [(1, 1), (2, 3)])
@pytest.mark.parametrize("start", [1, 5])
def test_the_first_updates_are_repeated_on_any_number_of_processes_from_any_start(world_size, accumulate, start):
    first = updates(3, **BASE)
    options = {**BASE, "world_size": world_size, "accumulate": accumulate, "start_iter": start, "only_first": 3}
    ranks = [updates(8, **options, rank=r) for r in range(world_size)]
    assert [sum(parts, []) for parts in zip(*ranks, strict=True)] == [first[(start - 1 + k) % 3] for k in range(8)]
