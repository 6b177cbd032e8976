"""What a second command on a folder does, and does not do."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers import fork_start, run_cli

YAML = """
MISC: {{CKPT: {folder}, DEVICE: cpu}}
ANALYSER: {{ENABLED: False}}
VIS: {{ENABLED: False}}
DATA:
  LOADER_THREADS: 0
  CATALOG: {{tiny: {{TYPE: shapes_dataset, NUM_IMAGES: 16, IMAGE_SIZE: 32}}}}
TRAIN: {{DATASETS: [tiny], BATCH_SIZE: 8, TRANSFORMS: [normalize]}}
TEST: {{DATASETS: [tiny], TRANSFORMS: [normalize]}}
SOLVER: {{SCHEDULER: {{TOTAL_EPOCHS: 1}}}}
MODEL: {{BACKBONE: lenet5, GLOBAL_HEAD: {{CLS: {{NUM_CLASSES: 10}}}}}}
"""


@pytest.fixture
def yaml(tmp_path: Path) -> Path:
    path = tmp_path / "cfgs" / "tasks" / "cls" / "tiny.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(YAML.format(folder=tmp_path / "run"))
    return path


def test_a_finished_run_started_again_changes_no_file_but_the_log(yaml: Path, tmp_path: Path) -> None:
    command = ["tools/train_net_all.py", "--cfg", str(yaml)]
    assert run_cli(command, start=fork_start).returncode == 0
    before = {path: path.read_bytes() for path in (tmp_path / "run").glob("*") if path.is_file()}
    again = run_cli([*command, "--auto-resume", "--options", "SOLVER.OPTIMIZER.BASE_LR=3"], start=fork_start)
    assert again.returncode == 0
    assert "This run is finished" in again.stdout
    assert {path: path.read_bytes() for path in (tmp_path / "run").glob("*") if path.is_file()} == before


def test_a_test_writes_predictions_without_being_asked(yaml: Path, tmp_path: Path) -> None:
    assert run_cli(["tools/train_net_all.py", "--cfg", str(yaml)], start=fork_start).returncode == 0
    assert run_cli(["tools/test_net_all.py", "--cfg", str(yaml)], start=fork_start).returncode == 0
    assert {path.name for path in (tmp_path / "run" / "test").iterdir()} == {"metrics.json", "predictions.json"}


def test_a_test_of_a_folder_that_does_not_exist_makes_none(yaml: Path, tmp_path: Path) -> None:
    done = run_cli(["tools/test_net_all.py", "--cfg", str(yaml), "--work-dir", str(tmp_path / "typo")], start=fork_start)
    assert done.returncode == 2
    assert "nothing to test" in done.stderr
    assert not (tmp_path / "typo").exists()
