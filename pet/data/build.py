"""Config to data sets and loaders: what the domains share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pet.config import CfgNode, keywords
from pet.data.catalog import build_dataset as build_from_catalog
from pet.data.collate import Collate
from pet.data.collate import collate as stack
from pet.data.datasets import VisionDataset
from pet.data.loader import EvalLoader, TrainLoader
from pet.data.sampler import aspect_groups, repeat_factors
from pet.data.structures import Batch
from pet.data.transforms.build import build_transforms
from pet.utils.comm import get_rank, get_world_size


def dataset_from_cfg(cfg: CfgNode, is_train: bool = True, names: Sequence[str] | None = None) -> VisionDataset:
    """The training data (all of TRAIN.DATASETS as one), or the test data.

    Args:
        cfg: the configuration.
        is_train: take the names from TRAIN.DATASETS, otherwise from TEST.DATASETS.
        names: these data sets instead, e.g. one of TEST.DATASETS to evaluate it by itself.
    """
    if names is None:
        names = cfg.TRAIN.DATASETS if is_train else cfg.TEST.DATASETS
    return build_from_catalog(
        names,
        is_train,
        catalog=cfg.DATA.CATALOG,
        root=cfg.DATA.ROOT,
        dataset_type=cfg.DATA.DATASET_TYPE,
        download=cfg.DATA.DOWNLOAD,
    )


def pixel_statistics_rgb255(cfg: CfgNode) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """DATA.PIXEL_MEAN and DATA.PIXEL_STD in RGB order and the range 0 to 255, whatever DATA.FORMAT.IMAGE is."""
    layout = cfg.DATA.FORMAT.IMAGE
    factor = 1.0 if layout.endswith("255") else 255.0
    step = -1 if layout.startswith("bgr") else 1
    mean, std = tuple(cfg.DATA.PIXEL_MEAN)[::step], tuple(cfg.DATA.PIXEL_STD)[::step]
    return tuple(v * factor for v in mean), tuple(v * factor for v in std)


def train_options(cfg: CfgNode, **more: Any) -> dict[str, dict[str, Any]]:
    """Options of the training transforms that every domain knows, by the name of the transform; ``more`` adds to a transform."""
    train = cfg.TRAIN
    mean, std = pixel_statistics_rgb255(cfg)
    options = {
        "resize": keywords(train.RESIZE),
        "random_crop": keywords(train.RANDOM_CROP),
        "center_crop": keywords(train.CENTER_CROP),
        "random_resized_crop": keywords(train.RANDOM_RESIZED_CROP),
        "random_horizontal_flip": keywords(train.FLIP),
        "random_vertical_flip": keywords(train.FLIP),
        "color_jitter": keywords(train.COLOR_JITTER),
        "auto_aug": keywords(train.AUTO_AUG),
        "rand_aug": keywords(train.RAND_AUG),
        "random_erasing": {**keywords(train.RANDOM_ERASING), "pixel_mean": mean, "pixel_std": std},
        "mixup": keywords(train.MIXUP),
        "cutmix": keywords(train.CUTMIX),
    }
    for name, extra in more.items():
        options[name] = {**options.get(name, {}), **extra}
    return options


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
    return build_transforms(test.TRANSFORMS, {"resize": resize, "center_crop": keywords(test.CENTER_CROP)})


def train_loader(
    cfg: CfgNode, dataset: VisionDataset, transforms: Sequence[Any], start_iter: int = 1, collate: Collate = stack
) -> TrainLoader:
    """The endless training loader of this process, starting with update ``start_iter``."""
    return TrainLoader(
        dataset,
        transforms,
        cfg.TRAIN.BATCH_SIZE,
        seed=cfg.MISC.SEED,
        shuffle=cfg.DATA.SAMPLER.TYPE != "sequential",
        accumulate=cfg.SOLVER.ACCUMULATE,
        world_size=get_world_size(),
        rank=get_rank(),
        start_iter=start_iter,
        num_workers=cfg.DATA.LOADER_THREADS,
        prefetch=cfg.DATA.PREFETCH,
        bad_image=cfg.DATA.BAD_IMAGE,
        pin_memory=_pin_memory(cfg),
        collate=collate,
        groups=_groups(cfg, dataset),
        group_size=cfg.DATA.SAMPLER.GROUP_SIZE,
        repeats=_repeats(cfg, dataset),
    )


def eval_loader(cfg: CfgNode, dataset: VisionDataset, collate: Collate = stack) -> EvalLoader:
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
        collate=collate,
    )


def first_samples(cfg: CfgNode, dataset: VisionDataset, transforms: Sequence[Any], count: int, collate: Collate = stack) -> Batch:
    """The first ``count`` samples of a run after all transforms, read in this process."""
    shuffle = cfg.DATA.SAMPLER.TYPE != "sequential"
    options: dict[str, Any] = {"seed": cfg.MISC.SEED, "shuffle": shuffle, "num_workers": 0, "bad_image": cfg.DATA.BAD_IMAGE}
    return next(iter(TrainLoader(dataset, transforms, count, collate=collate, **options)))[0]


def _groups(cfg: CfgNode, dataset: VisionDataset) -> npt.NDArray[np.int64] | None:
    bounds = cfg.DATA.SAMPLER.ASPECT_RATIO_GROUPING
    if not bounds:
        return None
    sizes = getattr(dataset, "sizes", None)
    if sizes is None:
        raise ValueError(
            "DATA.SAMPLER.ASPECT_RATIO_GROUPING needs a data set that knows the sizes of its images, but "
            f"{dataset.name} does not; set it ()"
        )
    return aspect_groups(sizes(), bounds)


def _repeats(cfg: CfgNode, dataset: VisionDataset) -> npt.NDArray[np.float64] | None:
    if cfg.DATA.SAMPLER.TYPE != "repeat_factor":
        return None
    labels: Any = dataset.labels()
    options = cfg.DATA.SAMPLER.RFTSAMPLER
    presence = labels > 0 if labels.ndim == 2 else labels[:, None] == np.arange(len(dataset.class_names))
    return repeat_factors(
        presence, options.REPEAT_THRESHOLD, options.POW, options.MIN_REPEAT_TIMES, options.MAX_REPEAT_TIMES
    )


def _pin_memory(cfg: CfgNode) -> bool:
    return cfg.MISC.DEVICE in ("auto", "cuda") and torch.cuda.is_available()
