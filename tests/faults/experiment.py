"""The experiment that is killed: everything that carries state takes part, and it lasts a few seconds."""

from __future__ import annotations

from pathlib import Path

UPDATES, PER_EPOCH = 80, 10

_YAML = """
MISC: {DEVICE: cpu, DISPLAY_ITER: 4, SEED: 3}
ANALYSER: {ENABLED: False}
VIS: {NUM_IMAGES: 4}
DATA:
  CATALOG:
    faults_train: {TYPE: shapes_dataset, NUM_IMAGES: 165, IMAGE_SIZE: 24}
    faults_val: {TYPE: shapes_dataset, NUM_IMAGES: 160, IMAGE_SIZE: 20}
TRAIN:
  DATASETS: [faults_train]
  BATCH_SIZE: 16
  TRANSFORMS: [random_crop, random_horizontal_flip, color_jitter, mixup]
  RANDOM_CROP: {CROP_SCALES: [[20, 20]], PADDING: 2}
TEST: {DATASETS: [faults_val], IMS_PER_GPU: 16, TRANSFORMS: [center_crop], CENTER_CROP: {CROP_SCALES: [20, 20]}}
EVAL: {BEST: {METRIC: top1}, PERIOD_EPOCHS: 1}
SOLVER:
  ACCUMULATE: 2
  SNAPSHOT_EPOCHS: null
  SNAPSHOT_ITER: 3
  OPTIMIZER: {BASE_LR: 0.1, WEIGHT_DECAY: 5.0e-4}
  EMA: {ENABLED: True, DECAY: 0.95}
  SCHEDULER: {TOTAL_EPOCHS: 8, POLICY: COSINE, WARM_UP_EPOCHS: 0.7}
MODEL:
  BACKBONE: tests.faults.small_net.SmallNet
  GLOBAL_HEAD: {CLS: {NUM_CLASSES: 10, DROPOUT: 0.2}}
"""


def write_experiment(folder: Path) -> Path:
    """Write the YAML where the launcher finds its domain; returns its path."""
    path = folder / "cfgs" / "tasks" / "cls" / "shapes" / "faults.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(_YAML, encoding="utf-8")
    return path
