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
