"""Pictures of the vision domain: what the model sees in training, what it predicts, and how the run went."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pet.config import CfgNode
from pet.data.build import first_samples
from pet.data.datasets.base import VisionDataset
from pet.utils import comm
from pet.utils.images import write_png
from pet.vision.dataset import build_train_transforms, train_collate
from pet.visualization import DetectionPictures, training_mosaic
from pet.visualization.curves import write_curves

__all__ = ["build_visualizer", "write_curves", "write_training_samples"]


def write_training_samples(cfg: CfgNode, dataset: VisionDataset) -> None:
    """``<CKPT>/vis/train_samples.png``: the first images of the run after all transforms, with their annotations."""
    if not (cfg.VIS.ENABLED and comm.is_main_process()):
        return
    count = min(cfg.VIS.NUM_IMAGES, cfg.TRAIN.BATCH_SIZE)
    batch = first_samples(cfg, dataset, build_train_transforms(cfg, dataset), count, train_collate(cfg))
    known: Any = dataset
    picture = training_mosaic(
        batch,
        dataset.class_names,
        f"{dataset.name}: training samples as the model sees them",
        show=_shown(cfg),
        skeleton=getattr(known, "skeleton", ()),
        semseg_names=getattr(known, "semseg_names", ()),
    )
    write_png(Path(cfg.MISC.CKPT) / "vis" / "train_samples.png", picture)


def build_visualizer(cfg: CfgNode, dataset: VisionDataset, evaluator: Any = None) -> DetectionPictures:
    """Pictures of ``VIS.NUM_IMAGES`` images spread over the data set: truth on the left, predictions on the right."""
    known: Any = dataset
    return DetectionPictures(known, cfg.VIS.NUM_IMAGES, threshold=cfg.VIS.SCORE_THRESH, show=_shown(cfg))


def _shown(cfg: CfgNode) -> set[str]:
    """What VIS asks for and the heads predict: truth that nothing is compared with would only hide the picture."""
    model = cfg.MODEL
    made = {
        "BOX": model.GLOBAL_HEAD.DET.TYPE,
        "CLASS": True,
        "MASK": model.ROI_HEAD.MASK.TYPE,
        "KEYPOINT": model.ROI_HEAD.KEYPOINT.TYPE,
        "SEMSEG": model.GLOBAL_HEAD.SEMSEG.TYPE,
        "PANOSEG": model.GLOBAL_HEAD.PANOSEG.TYPE,
    }
    return {name.lower() for name, there in made.items() if there and cfg.VIS[name].ENABLED}
