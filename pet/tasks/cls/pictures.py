"""Pictures of a training run: what the model sees, and how the run went."""

from __future__ import annotations

from pathlib import Path

import torch

from pet.config import CfgNode
from pet.data.build import first_samples
from pet.data.datasets.base import VisionDataset
from pet.data.structures import Batch
from pet.tasks.cls.dataset import build_train_transforms
from pet.utils import comm
from pet.utils.images import write_png
from pet.visualization import sample_mosaic
from pet.visualization.curves import write_curves

__all__ = ["write_curves", "write_training_samples"]

_SHARE_WORTH_NAMING = 0.05


def write_training_samples(cfg: CfgNode, dataset: VisionDataset) -> None:
    """``<CKPT>/vis/train_samples.png``: the first images of the run after all transforms, with their labels."""
    if not (cfg.VIS.ENABLED and comm.is_main_process()):
        return
    count = min(cfg.VIS.NUM_IMAGES, cfg.TRAIN.BATCH_SIZE)
    batch = first_samples(cfg, dataset, build_train_transforms(cfg), count)
    images = list(batch.images.permute(0, 2, 3, 1).numpy())
    picture = sample_mosaic(
        images, _captions(batch, dataset.class_names), f"{dataset.name}: training samples as the model sees them"
    )
    write_png(Path(cfg.MISC.CKPT) / "vis" / "train_samples.png", picture)


def _captions(batch: Batch, names: list[str]) -> list[str]:
    """The class of each image, or the classes with their shares."""
    if "label" in batch.targets:
        return [names[label] if label >= 0 else "no label" for label in torch.as_tensor(batch.targets["label"]).tolist()]
    captions = []
    for scores in torch.as_tensor(batch.targets["scores"]):
        shares = [(share, names[i]) for i, share in enumerate(scores.tolist()) if share >= _SHARE_WORTH_NAMING]
        captions.append(", ".join(name if share == 1 else f"{share:.2f} {name}" for share, name in sorted(shares, reverse=True)))
    return captions
