"""A few runs of ``kill_and_resume.py``; the promised counts are run with the script itself (docs/reliability.md)."""

from __future__ import annotations

import pytest

from tests.faults.kill_and_resume import campaign, summary

pytestmark = [pytest.mark.faults, pytest.mark.slow]


def test_killed_runs_end_bitwise_equal_to_the_uninterrupted_run() -> None:
    outcomes = campaign(runs=2, seed=11, kills=(1, 2))
    assert not [difference for outcome in outcomes for difference in outcome.differences], summary(outcomes)


@pytest.mark.distributed
def test_killed_runs_on_two_processes_end_bitwise_equal() -> None:
    outcomes = campaign(runs=1, nproc=2, seed=12, kills=(1, 2))
    assert not [difference for outcome in outcomes for difference in outcome.differences], summary(outcomes)


@pytest.mark.parametrize("nproc", [1, pytest.param(2, marks=pytest.mark.distributed)])
def test_killed_detection_with_every_augmentation_ends_bitwise_equal(nproc: int) -> None:
    outcomes = campaign(runs=1, nproc=nproc, seed=13, kills=(1, 1), domain="vision")
    assert not [difference for outcome in outcomes for difference in outcome.differences], summary(outcomes)
