"""``train_net_all.py`` and ``test_net_all.py`` on real runs in place.

On two processes and under torchrun: ``tests/docs/test_commands.py``; stopped: ``tests/faults/preemption.py``.
"""

from __future__ import annotations

import json
from pathlib import Path

from tests.helpers import fork_start, run_cli

TRAIN, TEST = "tools/train_net_all.py", "tools/test_net_all.py"


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
    summary = run_cli(["tools/summary.py", folder], start=fork_start)
    assert summary.returncode == 0, summary.stderr
    assert "tiny_val/top1" in summary.stdout
    # The resolved config of a run routes by its first line, wherever it lies.
    tested = run_cli([TEST, "--cfg", folder / "config.yaml", "--out", tmp_path / "found.json"], timeout=120, start=fork_start)
    assert tested.returncode == 0, tested.stderr
    assert (tmp_path / "found.json").is_file()


def test_wrong_options_of_a_script_end_with_2(tiny: Path) -> None:
    assert run_cli([TRAIN, "--cfg", tiny, "--no-such-flag"], start=fork_start).returncode == 2
    assert run_cli([TRAIN, "--cfg", tiny, "TRAIN.BATCH_SIZE"], start=fork_start).returncode == 2
    assert run_cli(["tools/summary.py", tiny.parent], start=fork_start).returncode == 2
