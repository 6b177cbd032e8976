"""Tiny models with random weights as a user has them: a YAML and a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

from pet.config import domain_header
from pet.data.names import names_for_checkpoint
from pet.engine.checkpoint_file import write_checkpoint
from pet.engine.command import open_config
from tests.user_sets import KEYPOINT, MASK, NO_DET, SEMSEG, TINY, classes

_CLS = """
MODEL: {BACKBONE: lenet5, GLOBAL_HEAD: {CLS: {NUM_CLASSES: 10}}}
DATA:
  CATALOG: {tiny_val: {TYPE: shapes_dataset, NUM_IMAGES: 8, IMAGE_SIZE: 32}}
TEST: {DATASETS: [tiny_val], IMS_PER_GPU: 8, TRANSFORMS: [resize], RESIZE: {SCALE: [32, 32]}}
SOLVER: {SCHEDULER: {TOTAL_ITERS: 1}}
"""
_MERGE = "MODEL.GLOBAL_HEAD.PANOSEG.MERGE"
_PANOPTIC = [
    *(f"DATA.CATALOG.drawn_{part}.SEMANTIC=stuff" for part in ("train", "val")),
    *("MODEL.GLOBAL_HEAD.PANOSEG.TYPE=merge", f"{_MERGE}.SCORE_THRESH=0.05", f"{_MERGE}.STUFF_AREA=0"),
]
WORDS = {
    "boxes": [],
    "masks": MASK,
    "keypoints": [*KEYPOINT, *classes(keypoints=5)],
    "proposals": ["MODEL.ROI_HEAD.TYPE=''", "EVAL.METRICS=[proposal]"],
    "semseg": [*NO_DET, *SEMSEG, *classes(semseg=11), "EVAL.METRICS=[mIoU]"],
    "panoptic": [*MASK, *SEMSEG, *classes(semseg=2), *_PANOPTIC],
    "classes": [],
}


class Saved(NamedTuple):
    """A YAML and a checkpoint."""

    config: Path
    checkpoint: Path


def save_model(kind: str, folder: Path, seed: int = 0) -> Saved:
    """A model of one of the kinds of ``WORDS``, below ``folder``."""
    domain = "tasks/cls" if kind == "classes" else "vision"
    config = folder / "cfgs" / domain / f"{kind}.yaml"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(_CLS if kind == "classes" else TINY)
    opened = open_config(config, WORDS[kind])
    config.write_text(opened.cfg.dump_resolved(domain_header(domain, config)))
    torch.manual_seed(seed)
    model = opened.domain_module.GeneralizedCNN(opened.cfg, is_train=False)
    dataset = opened.domain_module.build_dataset(opened.cfg, is_train=False)
    checkpoint = folder / f"{kind}.pth"
    write_checkpoint({"model": model.state_dict(), "meta": names_for_checkpoint(dataset)}, checkpoint)
    return Saved(config, checkpoint)
