"""One function for every index, on several processes."""

from __future__ import annotations

import os

import pytest

from pet.data.parallel import map_indices


def square(state: int, index: int) -> int:
    return state + index * index


def die_at_nine(state: int, index: int) -> int:
    if index == 9:
        os._exit(1)
    return index


@pytest.mark.parametrize("processes", [1, 2])
def test_results_come_in_order(processes):
    assert list(map_indices(square, 3, 30, processes)) == [3 + i * i for i in range(30)]


def test_a_process_that_dies_is_an_error_and_not_a_wait_for_ever():
    with pytest.raises(RuntimeError, match="--nproc"):
        list(map_indices(die_at_nine, 0, 40, 2))


def test_a_consumer_that_stops_leaves_no_process():
    assert next(map_indices(square, 0, 1000, 2)) == 0
