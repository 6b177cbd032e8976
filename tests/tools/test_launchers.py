"""``train_net_all.py`` and ``test_net_all.py`` on real runs: in place, on two processes, under torchrun, stopped."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from tests.helpers import run_cli, start_cli

TRAIN, TEST = "tools/train_net_all.py", "tools/test_net_all.py"
FOREVER = ["SOLVER.SCHEDULER.TOTAL_ITERS", "1000000", "EVAL.ENABLED", "False"]


def iterations(folder: Path) -> list[int]:
    rows = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return [row["iteration"] for row in rows if "total_loss" in row]


def test_one_command_trains_evaluates_and_the_other_tests(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    trained = run_cli([TRAIN, "--cfg", tiny, "--work-dir", folder], timeout=120)
    assert trained.returncode == 0, trained.stderr
    assert iterations(folder) == [1, 2, 3, 4]
    assert (folder / "model_latest.pth").is_file()
    assert (folder / "config.yaml").is_file()
    summary = run_cli(["tools/summary.py", folder])
    assert summary.returncode == 0, summary.stderr
    assert "tiny_val/top1" in summary.stdout
    # The resolved config of a run routes by its first line, wherever it lies.
    tested = run_cli([TEST, "--cfg", folder / "config.yaml", "--out", tmp_path / "found.json"], timeout=120)
    assert tested.returncode == 0, tested.stderr
    assert (tmp_path / "found.json").is_file()


@pytest.mark.distributed
def test_two_processes_end_like_one(tiny: Path, tmp_path: Path) -> None:
    for name, command in {
        "launcher": [TRAIN, "--nproc", "2"],
        "torchrun": ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "tools/tasks/cls/train_net.py"],
    }.items():
        done = run_cli([*command, "--cfg", tiny, "--work-dir", tmp_path / name], timeout=180)
        assert done.returncode == 0, done.stderr
        assert iterations(tmp_path / name) == [1, 2, 3, 4]


@pytest.mark.distributed
@pytest.mark.faults
def test_sigterm_to_the_launcher_of_two_saves_and_the_same_command_goes_on(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    command = [TRAIN, "--cfg", tiny, "--nproc", "2", "--work-dir", folder]
    with start_cli([*command, *FOREVER]) as cli:
        while not (folder / "metrics.json").is_file() or not iterations(folder):
            assert cli.process.poll() is None, cli.stderr()
            time.sleep(0.05)
        cli.process.send_signal(signal.SIGTERM)
        stopped = cli.wait()
        assert cli.gone()
    assert stopped.returncode == 143, stopped.stdout + stopped.stderr
    assert "--nproc 2" in stopped.stdout, "the command that continues the run is not printed"
    saved = iterations(folder)[-1]
    done = run_cli([*command, "SOLVER.SCHEDULER.TOTAL_ITERS", str(saved + 2)], timeout=120)
    assert done.returncode == 0, done.stderr
    assert iterations(folder) == list(range(1, saved + 3))


def test_wrong_options_of_a_script_end_with_2(tiny: Path) -> None:
    assert run_cli([TRAIN, "--cfg", tiny, "--no-such-flag"]).returncode == 2
    assert run_cli([TRAIN, "--cfg", tiny, "TRAIN.BATCH_SIZE"]).returncode == 2
    assert run_cli(["tools/summary.py", tiny.parent]).returncode == 2
