"""The experiments that are killed: everything that carries state takes part, and they last seconds."""

from __future__ import annotations

import re
from pathlib import Path

from tests.helpers import Start, cold_start, run_cli

UPDATES, PER_EPOCH = 80, 10
LIMIT_S = 300.0

_CLS = """
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


# Every augmentation of instances, grouped and repeated samples, boxes, masks and keypoints.
_VISION = """
MISC: {DEVICE: cpu, DISPLAY_ITER: 4, SEED: 3}
ANALYSER: {ENABLED: False}
VIS: {NUM_IMAGES: 4}
DATA:
  SAMPLER: {TYPE: repeat_factor, RFTSAMPLER: {REPEAT_THRESHOLD: 0.15}, ASPECT_RATIO_GROUPING: [1.0]}
  CATALOG:
    faults_train: {TYPE: shapes_dataset, LABELS: all, NUM_IMAGES: 70, IMAGE_SIZE: 40}
    faults_val: {TYPE: shapes_dataset, LABELS: all, NUM_IMAGES: 10, IMAGE_SIZE: 40}
TRAIN:
  DATASETS: [faults_train]
  BATCH_SIZE: 8
  TRANSFORMS: [copy_paste, mosaic, det_mixup, photometric_distort, color_jitter, ssd_crop_and_expand, random_resized_crop,
    efficient_det_resize_crop, resize, random_crop, random_horizontal_flip, random_vertical_flip, normalize, random_erasing]
  MOSAIC: {SIZE: [32, 32], PROB: 0.5}
  DET_MIXUP: {PROB: 0.5}
  RANDOM_RESIZED_CROP: {SIZE: [64, 64], SCALE: [0.3, 1.0]}
  EFFICIENT_DET_RESIZE_CROP: {SIZE: [56, 56], SCALE: [0.5, 1.5]}
  RESIZE: {SCALES: [40, 56], SCALES_SAMPLING: range, MAX_SIZE: 64}
  RANDOM_CROP: {CROP_SCALES: [[40, 40], [40, 48]]}
TEST: {DATASETS: [faults_val], IMS_PER_GPU: 4, TRANSFORMS: [normalize]}
EVAL: {METRICS: [bbox, segm], BEST: {METRIC: bbox_AR100}, PERIOD_EPOCHS: 2}
SOLVER:
  ACCUMULATE: 2
  SNAPSHOT_EPOCHS: null
  SNAPSHOT_ITER: 3
  OPTIMIZER: {BASE_LR: 0.01}
  EMA: {ENABLED: True, DECAY: 0.95}
  SCHEDULER: {TOTAL_ITERS: 20, POLICY: POLY, WARM_UP_ITERS: 5}
MODEL:
  BACKBONE: cifar_resnet8
  BACKBONE_OPTIONS: {width: 8}
  FEATURES: [layer1, layer2, layer3]
  NECK: fpn
  NECK_OPTIONS: {out_channels: 16}
  NUM_CLASSES: 10
  GLOBAL_HEAD:
    DET: {TYPE: rpn, RPN: {ANCHOR_SIZES: [[8], [16], [32], [48]], POST_NMS_TOP_N_TRAIN: 30, POST_NMS_TOP_N_TEST: 30}}
  ROI_HEAD:
    TYPE: cascade
    CASCADE: {FC_DIM: 32, BATCH_SIZE_PER_IMAGE: 16}
    MASK: {TYPE: mask_rcnn, CHANNELS: [16], DIM_REDUCED: 16}
    KEYPOINT: {TYPE: keypoint_rcnn, CHANNELS: [16], NUM_KEYPOINTS: 5}
"""

_YAML = {"tasks/cls": _CLS, "vision": _VISION}


def write_experiment(folder: Path, domain: str = "tasks/cls") -> Path:
    """Write the YAML where the launcher finds its domain (``tasks/cls`` or ``vision``); returns its path."""
    path = folder / "cfgs" / domain / "shapes" / "faults.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(_YAML[domain], encoding="utf-8")
    return path


def command(cfg: Path, folder: Path, nproc: int, workers: int, *options: str) -> list[str]:
    """The launcher as a user types it: config, folder of the run, processes, loader workers of each, ``KEY VALUE`` words."""
    words = ["--cfg", str(cfg), "--work-dir", str(folder), "DATA.LOADER_THREADS", str(workers), *options]
    return ["tools/train_net_all.py", "--gpu_id", "cpu", "--nproc", str(nproc), *words]


def without_launcher(command: list[str]) -> list[str]:
    """The words of a ``command`` for the script itself."""
    return command[command.index("--cfg") :]


def reference(cfg: Path, folder: Path, nproc: int, *options: str, start: Start = cold_start) -> float:
    """An uninterrupted run; returns the seconds its training took."""
    done = run_cli(command(cfg, folder, nproc, 0, *options), timeout=LIMIT_S, start=start)
    if done.returncode != 0:
        raise RuntimeError(f"the uninterrupted run failed with status {done.returncode}\n{done.stdout}\n{done.stderr}")
    seconds = re.search(r"Finished update \d+ in ([\d.]+) s", done.stdout)
    assert seconds is not None, "the log does not say how long the training took"
    return float(seconds[1])


def ranks_of(launcher: int) -> list[int]:
    """The processes that a launcher started."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children")
    return [int(pid) for pid in children.read_text().split()] if children.exists() else []
