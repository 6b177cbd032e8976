from __future__ import annotations

import random

import numpy as np
import torch

from pet.utils.rng import get_rng_state, keyed_generator, sample_generator, seed_everything, set_rng_state


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_a_sample_has_the_same_numbers_wherever_it_is_drawn():
    assert sample_generator(1, 2, 3).random() == sample_generator(1, 2, 3).random()


def test_seed_epoch_and_index_each_change_the_numbers():
    values = {sample_generator(*key).random() for key in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]}
    assert len(values) == 4


def test_streams_are_apart():
    assert keyed_generator(0, 0, 5).random() != keyed_generator(0, 1, 5).random()


def test_a_sample_generator_leaves_the_global_ones_alone():
    seed_everything(5)
    expected = draw()
    seed_everything(5)
    sample_generator(0, 0, 0).random(100)
    assert draw() == expected


def test_ranks_have_different_streams_and_the_same_rank_the_same():
    def drawn(seed: int, rank: int) -> tuple[float, float, float]:
        seed_everything(seed, rank)
        return draw()

    assert drawn(1, 0) == drawn(1, 0)
    assert drawn(1, 0) != drawn(1, 1)


def test_the_state_survives_a_file_that_holds_plain_values_only(tmp_path):
    seed_everything(3)
    random.gauss(0, 1)
    np.random.randn()
    torch.save(get_rng_state(), tmp_path / "rng.pth")
    expected = [draw() for _ in range(3)]
    set_rng_state(torch.load(tmp_path / "rng.pth", weights_only=True))
    assert [draw() for _ in range(3)] == expected
