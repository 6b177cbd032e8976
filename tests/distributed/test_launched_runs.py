"""Runs on two processes as a user starts them: signals, a failing rank, a killed launcher."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.compare import run_differences
from tests.faults.experiment import write_experiment
from tests.faults.kill_and_resume import command, ranks_of, reference
from tests.helpers import Cli, run_cli, start_cli

pytestmark = [pytest.mark.distributed, pytest.mark.faults, pytest.mark.slow]

SIGTERM_STATUS = 128 + signal.SIGTERM
LIMIT_S = 120.0


@pytest.fixture(scope="module")
def cfg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_experiment(tmp_path_factory.mktemp("launched"))


def to_launcher(cli: Cli) -> None:
    os.kill(cli.process.pid, signal.SIGTERM)


def to_one_rank(cli: Cli) -> None:
    os.kill(ranks_of(cli.process.pid)[1], signal.SIGTERM)


def to_the_group(cli: Cli) -> None:
    """As a scheduler does: launcher, ranks and loader workers at once; the launcher passes its own on besides."""
    for pid in cli.living():
        os.kill(pid, signal.SIGTERM)


def stop(cfg: Path, folder: Path, send: Callable[[Cli], None], moment: str, workers: int) -> tuple[int, str]:
    """Start or resume, send SIGTERM when the log says ``moment``; the update that was saved, and the log."""
    with start_cli([*command(cfg, folder, 2, workers), "MISC.STOP_CHECK_ITER", "1"]) as cli:
        cli.wait_for(moment, LIMIT_S)
        send(cli)
        done = cli.wait(LIMIT_S)
        assert cli.gone(), "processes are left"
    assert done.returncode == SIGTERM_STATUS, done.stdout + done.stderr
    assert "Not finished: stopped by SIGTERM" in done.stdout
    saved = done.stdout.rpartition("Saved update ")[2].split(".")[0]
    assert (folder / "model_latest.pth").resolve().name == f"model_iter{saved}.pth"
    assert "Continue with: python" in done.stdout
    return int(saved), done.stdout


def test_sigterm_to_launcher_rank_and_group_saves_and_resumes_bitwise(cfg: Path, tmp_path: Path) -> None:
    expected, folder = tmp_path / "reference", tmp_path / "stopped"
    reference(cfg, expected, nproc=2)
    first, _ = stop(cfg, folder, to_launcher, " iter 4/", workers=1)
    second, log = stop(cfg, folder, to_one_rank, f" iter {(first // 4 + 2) * 4}/", workers=0)
    assert f"(update {first})" in log
    third, log = stop(cfg, folder, to_the_group, f" iter {(second // 4 + 2) * 4}/", workers=2)
    assert f"(update {second})" in log
    assert first < second < third
    assert run_cli(command(cfg, folder, 2, workers=0), timeout=LIMIT_S).returncode == 0
    assert run_differences(expected, folder) == []


def test_exception_on_the_last_rank_ends_all_within_10_s_with_its_traceback_last(cfg: Path, tmp_path: Path) -> None:
    hooks = 'MISC.HOOKS=[{"TYPE": "tests.faults.hooks.RaiseOnLastRank", "UPDATE": 5}]'
    with start_cli([*command(cfg, tmp_path, 2, workers=1), hooks]) as cli:
        cli.wait_for("the last rank fails in update 5", LIMIT_S)
        start = time.monotonic()
        done = cli.wait(LIMIT_S)
        assert time.monotonic() - start < 10.0
        assert cli.gone()
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith("ArithmeticError: the last rank fails in update 5")
    assert "rank 1 failed with exit status 1" in done.stderr
    assert 'hooks.py", line' in done.stderr.rpartition("rank 1 failed")[2]


def test_killed_launcher_leaves_no_process(cfg: Path, tmp_path: Path) -> None:
    with start_cli(command(cfg, tmp_path, 2, workers=2)) as cli:
        cli.wait_for(" iter 4/", LIMIT_S)
        assert len(cli.living()) >= 7, "launcher, two ranks, four loader workers"
        os.kill(cli.process.pid, signal.SIGKILL)
        assert cli.gone(10.0), "processes outlived their launcher"
