"""Real images through the whole cycle: train, evaluate, test, predictions, pictures; nothing but a YAML."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.helpers import fork_start, run_cli

pytestmark = pytest.mark.slow


def run_ok(arguments: list[str], data: Path) -> None:
    done = run_cli(arguments, env={"PET_DATA": str(data)}, timeout=600, start=fork_start)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def last_result(folder: Path, name: str) -> float:
    rows = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return float([row["eval"][name] for row in rows if "eval" in row][-1])


def test_lenet5_reaches_98_5_percent_on_mnist_in_two_epochs(shared_data, tmp_path):
    cfg = "cfgs/tasks/cls/MNIST/lenet5.yaml"
    run_ok(["tools/train_net_all.py", "--cfg", cfg, "--work-dir", str(tmp_path)], shared_data / "classification")
    assert last_result(tmp_path, "mnist_test/top1") >= 98.5


@pytest.mark.parametrize(
    ("name", "data_set", "size", "shorter"),
    [
        ("cifar10_jpg", "cifar10_jpg_test", 300, ["SOLVER.SCHEDULER.TOTAL_EPOCHS", "2"]),
        ("hymenoptera_resnet18", "hymenoptera_val", 77, ["SOLVER.SCHEDULER.TOTAL_EPOCHS", "1"]),
    ],
)
def test_folders_of_photographs_need_nothing_but_a_yaml(name, data_set, size, shorter, shared_data, tmp_path):
    common = ["--cfg", f"cfgs/tasks/cls/custom/{name}.yaml", "--work-dir", str(tmp_path)]
    run_ok(["tools/train_net_all.py", *common, *shorter], shared_data)
    run_ok(["tools/test_net_all.py", *common, "--out", str(tmp_path / "predictions.json")], shared_data)
    predictions = json.loads((tmp_path / "predictions.json").read_text())
    tested = json.loads((tmp_path / "test" / "metrics.json").read_text())["eval"][f"{data_set}/top1"]
    right = sum(a == b for a, b in zip(predictions["pred_label"], predictions["label"], strict=True))
    assert len(predictions["id"]) == size
    assert tested == pytest.approx(100 * right / size)
    assert tested == pytest.approx(last_result(tmp_path, f"{data_set}/top1"))
    assert {path.name for path in (tmp_path / "vis").iterdir()} >= {"curves.png", "train_samples.png", f"{data_set}_predictions.png"}
