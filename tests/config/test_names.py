"""The nearest key over full paths."""

from __future__ import annotations

import pytest

from pet.config import get_base_cfg


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("SOLVER.OPTIMISER.BASE_LR", "SOLVER.OPTIMIZER.BASE_LR"),
        ("SOLVER.BASE_LR", "SOLVER.OPTIMIZER.BASE_LR"),
        ("SOLVER.BASE_LRR", "SOLVER.OPTIMIZER.BASE_LR"),
        ("BASE_LR", "SOLVER.OPTIMIZER.BASE_LR"),
        ("solver.optimizer.base_lr", "SOLVER.OPTIMIZER.BASE_LR"),
        ("SOLVER.TOTAL_EPOCHS", "SOLVER.SCHEDULER.TOTAL_EPOCHS"),
        ("SOLVER.SCHEDULER.TOTAL_EPOCH", "SOLVER.SCHEDULER.TOTAL_EPOCHS"),
        ("SOLVER.AMP.ENABLE", "SOLVER.AMP.ENABLED"),
        ("TRAIN.DATASET", "TRAIN.DATASETS"),
        ("TRAIN.BATCHSIZE", "TRAIN.BATCH_SIZE"),
        ("OPTIMIZER", "SOLVER.OPTIMIZER"),
        ("SOLVERS", "SOLVER"),
        ("DATA.IMAGE", "DATA.FORMAT.IMAGE"),
    ],
)
def test_the_nearest_key_is_named(wrong, right):
    assert f"Did you mean '{right}'?" in get_base_cfg().suggest(wrong)


def test_keys_of_the_same_name_elsewhere_are_named_too():
    assert get_base_cfg().suggest("CENTER_CROP.CROP_SCALES").count("CROP_SCALES") == 3


def test_nothing_is_suggested_for_a_name_unlike_all_others():
    assert get_base_cfg().suggest("QQQQ.ZZZZ") == ""
