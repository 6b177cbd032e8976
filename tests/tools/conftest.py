"""A run that takes seconds: LeNet-5 on a few small drawn pictures."""

from __future__ import annotations

from pathlib import Path

import pytest

_YAML = """
MODEL: {BACKBONE: lenet5, GLOBAL_HEAD: {CLS: {NUM_CLASSES: 10}}}
DATA:
  CATALOG:
    tiny_train: {TYPE: shapes_dataset, NUM_IMAGES: 32, IMAGE_SIZE: 32}
    tiny_val: {TYPE: shapes_dataset, NUM_IMAGES: 8, IMAGE_SIZE: 32}
  LOADER_THREADS: 0
TRAIN: {DATASETS: [tiny_train], BATCH_SIZE: 8}
TEST: {DATASETS: [tiny_val], IMS_PER_GPU: 8}
SOLVER: {OPTIMIZER: {BASE_LR: 0.01}, SCHEDULER: {POLICY: CONSTANT, TOTAL_ITERS: 4}}
MISC: {DISPLAY_ITER: 1}
ANALYSER: {ENABLED: False}
"""


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A YAML under ``cfgs/tasks/cls/`` of a temporary folder; run it with ``--work-dir``."""
    path = tmp_path / "cfgs" / "tasks" / "cls" / "tiny.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(_YAML)
    return path
