"""Data of the classification domain: configuration to data sets and loaders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from pet.config import CfgNode
from pet.data.catalog import build_dataset as build_from_catalog
from pet.data.datasets import VisionDataset
from pet.data.loader import EvalLoader, TrainLoader
from pet.data.report import data_report
from pet.data.transforms import build_transforms
from pet.utils.comm import get_rank, get_world_size


def build_dataset(cfg: CfgNode, is_train: bool = True, names: Sequence[str] | None = None) -> VisionDataset:
    """The training data (all of TRAIN.DATASETS as one), or the test data.

    Args:
        cfg: the configuration.
        is_train: take the names from TRAIN.DATASETS, otherwise from TEST.DATASETS.
        names: these data sets instead, e.g. one of TEST.DATASETS to evaluate it by itself.
    """
    if names is None:
        names = cfg.TRAIN.DATASETS if is_train else cfg.TEST.DATASETS
    dataset = build_from_catalog(
        names,
        is_train,
        catalog=cfg.DATA.CATALOG,
        root=cfg.DATA.ROOT,
        dataset_type=cfg.DATA.DATASET_TYPE,
        download=cfg.DATA.DOWNLOAD,
    )
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


def pixel_statistics_rgb255(cfg: CfgNode) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """DATA.PIXEL_MEAN and DATA.PIXEL_STD in RGB order and the range 0 to 255, whatever DATA.FORMAT.IMAGE is."""
    layout = cfg.DATA.FORMAT.IMAGE
    factor = 1.0 if layout.endswith("255") else 255.0
    step = -1 if layout.startswith("bgr") else 1
    mean, std = tuple(cfg.DATA.PIXEL_MEAN)[::step], tuple(cfg.DATA.PIXEL_STD)[::step]
    return tuple(v * factor for v in mean), tuple(v * factor for v in std)


def _keywords(section: CfgNode) -> dict[str, Any]:
    return {key.lower(): value for key, value in section.items()}


def build_train_transforms(cfg: CfgNode) -> list[Any]:
    """TRAIN.TRANSFORMS with the options of the sections of TRAIN."""
    train, num_classes = cfg.TRAIN, cfg.MODEL.GLOBAL_HEAD.CLS.NUM_CLASSES
    mean, std = pixel_statistics_rgb255(cfg)
    options = {
        "resize": _keywords(train.RESIZE),
        "random_crop": _keywords(train.RANDOM_CROP),
        "center_crop": _keywords(train.CENTER_CROP),
        "random_resized_crop": _keywords(train.RANDOM_RESIZED_CROP),
        "random_horizontal_flip": _keywords(train.FLIP),
        "random_vertical_flip": _keywords(train.FLIP),
        "color_jitter": _keywords(train.COLOR_JITTER),
        "auto_aug": _keywords(train.AUTO_AUG),
        "rand_aug": _keywords(train.RAND_AUG),
        "random_erasing": {**_keywords(train.RANDOM_ERASING), "pixel_mean": mean, "pixel_std": std},
        "mixup": {**_keywords(train.MIXUP), "num_classes": num_classes},
        "cutmix": {**_keywords(train.CUTMIX), "num_classes": num_classes},
    }
    return build_transforms(train.TRANSFORMS, options)


def build_test_transforms(cfg: CfgNode) -> list[Any]:
    """TEST.TRANSFORMS with the options of the sections of TEST."""
    test, scale = cfg.TEST, cfg.TEST.RESIZE.SCALE
    sampling = "choice" if isinstance(scale, int) else "force_size"
    resize = {
        "scales": scale,
        "scales_sampling": sampling,
        "max_size": test.RESIZE.MAX_SIZE,
        "interpolation": test.RESIZE.INTERPOLATION,
    }
    return build_transforms(test.TRANSFORMS, {"resize": resize, "center_crop": _keywords(test.CENTER_CROP)})


def make_train_data_loader(cfg: CfgNode, dataset: VisionDataset, start_iter: int = 1) -> TrainLoader:
    """The endless training loader of this process, starting with update ``start_iter``."""
    return TrainLoader(
        dataset,
        build_train_transforms(cfg),
        cfg.TRAIN.BATCH_SIZE,
        seed=cfg.MISC.SEED,
        shuffle=cfg.DATA.SAMPLER.TYPE == "shuffle",
        accumulate=cfg.SOLVER.ACCUMULATE,
        world_size=get_world_size(),
        rank=get_rank(),
        start_iter=start_iter,
        num_workers=cfg.DATA.LOADER_THREADS,
        prefetch=cfg.DATA.PREFETCH,
        bad_image=cfg.DATA.BAD_IMAGE,
        pin_memory=_pin_memory(cfg),
    )


def make_test_data_loader(cfg: CfgNode, dataset: VisionDataset) -> EvalLoader:
    """A loader that shows every test sample once, to one process."""
    return EvalLoader(
        dataset,
        build_test_transforms(cfg),
        cfg.TEST.IMS_PER_GPU,
        seed=cfg.MISC.SEED,
        world_size=get_world_size(),
        rank=get_rank(),
        num_workers=cfg.DATA.LOADER_THREADS,
        prefetch=cfg.DATA.PREFETCH,
        pin_memory=_pin_memory(cfg),
    )


def _pin_memory(cfg: CfgNode) -> bool:
    return cfg.MISC.DEVICE in ("auto", "cuda") and torch.cuda.is_available()


def report_dataset(cfg: CfgNode, dataset: VisionDataset) -> str:
    """The data report of DATA.CHECK as text; labels that do not fit the head are a ``ValueError``."""
    return "\n".join(data_report(dataset, cfg.MODEL.GLOBAL_HEAD.CLS.NUM_CLASSES, cfg.DATA.CHECK))
