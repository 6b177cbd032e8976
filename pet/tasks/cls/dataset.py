"""Data of the classification domain: configuration to data sets and loaders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pet.config import CfgNode
from pet.data import build
from pet.data.datasets import VisionDataset
from pet.data.loader import EvalLoader, TrainLoader
from pet.data.names import names_for_checkpoint as names_for_checkpoint
from pet.data.report import data_report
from pet.data.transforms import build_transforms


def build_dataset(cfg: CfgNode, is_train: bool = True, names: Sequence[str] | None = None) -> VisionDataset:
    """The training data (all of TRAIN.DATASETS as one), or the test data; see ``pet.data.build.dataset_from_cfg``.

    Raises:
        ValueError: labels that the loss cannot be trained on.
    """
    dataset = build.dataset_from_cfg(cfg, is_train, names)
    labels, loss = dataset.labels(), cfg.MODEL.GLOBAL_HEAD.CLS.LOSS
    if is_train and labels.ndim == 2 and loss == "cross_entropy":
        raise ValueError(
            f"{dataset.name} has several labels for each image, which {loss} would treat as shares of one label; set "
            "MODEL.GLOBAL_HEAD.CLS.LOSS bce"
        )
    if is_train and labels.ndim == 1 and (labels < 0).any():
        unknown = int((labels < 0).sum())
        raise ValueError(f"{dataset.name} has {unknown} images without a label; it can be predicted, not trained on")
    return dataset


def build_train_transforms(cfg: CfgNode, dataset: VisionDataset | None = None) -> list[Any]:
    """TRAIN.TRANSFORMS with the options of the sections of TRAIN; none needs to know the data set."""
    classes = {"num_classes": cfg.MODEL.GLOBAL_HEAD.CLS.NUM_CLASSES}
    return build_transforms(cfg.TRAIN.TRANSFORMS, build.train_options(cfg, mixup=classes, cutmix=classes))


def make_train_data_loader(cfg: CfgNode, dataset: VisionDataset, start_iter: int = 1) -> TrainLoader:
    """The endless training loader of this process, starting with update ``start_iter``."""
    return build.train_loader(cfg, dataset, build_train_transforms(cfg), start_iter)


def make_test_data_loader(cfg: CfgNode, dataset: VisionDataset) -> EvalLoader:
    """A loader that shows every test sample once, to one process."""
    return build.eval_loader(cfg, dataset)


def report_dataset(cfg: CfgNode, dataset: VisionDataset) -> str:
    """The data report of DATA.CHECK as text; labels that do not fit the head are a ``ValueError``."""
    return "\n".join(data_report(dataset, cfg.MODEL.GLOBAL_HEAD.CLS.NUM_CLASSES, cfg.DATA.CHECK))
