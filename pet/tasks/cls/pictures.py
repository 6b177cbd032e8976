"""Pictures of a training run: what the model sees, and how the run went."""

from __future__ import annotations

import torch

from pet.config import CfgNode
from pet.data.build import first_batches
from pet.data.datasets.base import VisionDataset
from pet.data.structures import Batch
from pet.tasks.cls.dataset import build_train_transforms
from pet.utils import comm
from pet.vision.pictures import FIRST_BATCHES, report_run, write_start_pictures
from pet.visualization import sample_mosaic

__all__ = ["report_run", "write_training_samples"]

_SHARE_WORTH_NAMING = 0.05


def write_training_samples(cfg: CfgNode, dataset: VisionDataset) -> None:
    """Draw the first batches of the run after all transforms, with their labels, and what the data set holds.

    Files as in the vision domain.
    """
    if not (cfg.VIS.ENABLED and comm.is_main_process()):
        return
    title = f"{dataset.name}: training samples as the model sees them"
    batches = first_batches(cfg, dataset, build_train_transforms(cfg), FIRST_BATCHES, cfg.VIS.NUM_IMAGES)
    mosaics = (
        sample_mosaic(list(batch.images.permute(0, 2, 3, 1).numpy()), _captions(batch, dataset.class_names), title)
        for batch in batches
    )
    write_start_pictures(cfg, dataset, mosaics)


def _captions(batch: Batch, names: list[str]) -> list[str]:
    """The class of each image, or the classes with their shares."""
    if "label" in batch.targets:
        return [names[label] if label >= 0 else "no label" for label in torch.as_tensor(batch.targets["label"]).tolist()]
    captions = []
    for scores in torch.as_tensor(batch.targets["scores"]):
        shares = [(share, names[i]) for i, share in enumerate(scores.tolist()) if share >= _SHARE_WORTH_NAMING]
        captions.append(", ".join(name if share == 1 else f"{share:.2f} {name}" for share, name in sorted(shares, reverse=True)))
    return captions
