"""Config to data sets and loaders: what the domains share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pet.config import CfgNode, keywords
from pet.data.catalog import build_dataset as build_from_catalog
from pet.data.collate import Collate
from pet.data.collate import collate as stack
from pet.data.datasets import Subset, VisionDataset
from pet.data.loader import EvalLoader, TrainLoader
from pet.data.sampler import TrainSampler, aspect_groups, repeat_factors
from pet.data.structures import Batch
from pet.data.transforms.build import build_transforms
from pet.data.views import MakeViews
from pet.utils.comm import get_rank, get_world_size
from pet.utils.logger import logging_rank


def dataset_from_cfg(cfg: CfgNode, is_train: bool = True, names: Sequence[str] | None = None) -> VisionDataset:
    """The training data (all of TRAIN.DATASETS as one), or the test data.

    Args:
        cfg: the configuration.
        is_train: take the names from TRAIN.DATASETS, otherwise from TEST.DATASETS.
        names: these data sets instead, e.g. one of TEST.DATASETS to evaluate it by itself.

    With DATA.OVERFIT_BATCHES the test data are the pictures that are trained on, whatever the names are.
    """
    if cfg.DATA.OVERFIT_BATCHES and not is_train:
        return _pictures_of_first_batches(cfg)
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
    limit = 0 if is_train else cfg.TEST.LIMIT
    if not 0 < limit < len(dataset):
        return dataset
    logging_rank(f"{dataset.name}: the first {limit} of {len(dataset)} images (TEST.LIMIT)")
    return Subset(dataset, range(limit))


def _pictures_of_first_batches(cfg: CfgNode) -> VisionDataset:
    """The training pictures that DATA.OVERFIT_BATCHES leaves, of all processes, in stored order."""
    dataset = dataset_from_cfg(cfg, is_train=True)
    batches = TrainSampler(len(dataset), cfg.TRAIN.BATCH_SIZE, **_order(cfg, dataset))
    chosen = {index for batch in islice(batches, cfg.DATA.OVERFIT_BATCHES) for _, index in batch}
    return Subset(dataset, sorted(chosen))


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


def build_test_transforms(cfg: CfgNode, scale: Any = None, max_size: int | None = None) -> list[Any]:
    """TEST.TRANSFORMS with the options of the sections of TEST.

    Args:
        cfg: the configuration.
        scale, max_size: instead of TEST.RESIZE.SCALE and TEST.RESIZE.MAX_SIZE.
    """
    test = cfg.TEST
    scale = test.RESIZE.SCALE if scale is None else scale
    sampling = "choice" if isinstance(scale, int) else "force_size"
    resize = {
        "scales": scale,
        "scales_sampling": sampling,
        "max_size": test.RESIZE.MAX_SIZE if max_size is None else max_size,
        "interpolation": test.RESIZE.INTERPOLATION,
    }
    return build_transforms(test.TRANSFORMS, {"resize": resize, "center_crop": keywords(test.CENTER_CROP)})


def view_sizes(cfg: CfgNode) -> list[tuple[Any, int]]:
    """TEST.RESIZE.SCALE and .MAX_SIZE of each scale of TEST.TTA; the limit grows and shrinks with the scale."""
    resize, tta = cfg.TEST.RESIZE, cfg.TEST.TTA
    if not tta.SCALES:
        factors = tta.SCALE_FACTORS
        return [(_scaled(resize.SCALE, factor), _scaled(resize.MAX_SIZE, factor)) for factor in factors]
    comparable = isinstance(resize.SCALE, int)
    factors = [scale / resize.SCALE if comparable and isinstance(scale, int) else 1.0 for scale in tta.SCALES]
    return [(scale, _scaled(resize.MAX_SIZE, factor)) for scale, factor in zip(tta.SCALES, factors, strict=True)]


def _scaled(value: Any, factor: float) -> Any:
    """A length, or a pair of them, times ``factor`` in whole pixels; 0, no limit, stays 0."""
    if isinstance(value, tuple):
        return tuple(_scaled(side, factor) for side in value)
    return max(round(value * factor), 1) if value else 0


def eval_reading(
    cfg: CfgNode, collate: Collate = stack, flip_pairs: Sequence[tuple[int, int]] = ()
) -> tuple[list[Any], Callable[..., Any]]:
    """How test pictures become batches: transforms, and what joins their results. With TEST.TTA batches are ``ViewBatch``.

    Args:
        cfg: the configuration.
        collate: joins samples of one view.
        flip_pairs: keypoints that change places in a mirror.
    """
    tta = cfg.TEST.TTA
    if not tta.ENABLED:
        return build_test_transforms(cfg), collate
    views = MakeViews([build_test_transforms(cfg, *size) for size in view_sizes(cfg)], tta.FLIP, flip_pairs)
    return [views], partial(views.collate, collate)


def train_loader(
    cfg: CfgNode, dataset: VisionDataset, transforms: Sequence[Any], start_iter: int = 1, collate: Collate = stack
) -> TrainLoader:
    """The endless training loader of this process, starting with update ``start_iter``."""
    return TrainLoader(
        dataset,
        transforms,
        cfg.TRAIN.BATCH_SIZE,
        accumulate=cfg.SOLVER.ACCUMULATE,
        world_size=get_world_size(),
        rank=get_rank(),
        start_iter=start_iter,
        num_workers=cfg.DATA.LOADER_THREADS,
        prefetch=cfg.DATA.PREFETCH,
        bad_image=cfg.DATA.BAD_IMAGE,
        pin_memory=_pin_memory(cfg),
        restart_workers=cfg.DATA.RESTART_WORKERS,
        collate=collate,
        only_first=cfg.DATA.OVERFIT_BATCHES,
        **_order(cfg, dataset),
    )


def eval_loader(
    cfg: CfgNode, dataset: VisionDataset, collate: Collate = stack, flip_pairs: Sequence[tuple[int, int]] = ()
) -> EvalLoader:
    """A loader that shows every test sample once, to one process; see ``eval_reading``."""
    transforms, collate = eval_reading(cfg, collate, flip_pairs)
    return EvalLoader(
        dataset,
        transforms,
        cfg.TEST.IMS_PER_GPU,
        seed=cfg.MISC.SEED,
        world_size=get_world_size(),
        rank=get_rank(),
        num_workers=cfg.DATA.LOADER_THREADS,
        prefetch=cfg.DATA.PREFETCH,
        pin_memory=_pin_memory(cfg),
        restart_workers=cfg.DATA.RESTART_WORKERS,
        collate=collate,
    )


def first_batches(
    cfg: CfgNode, dataset: VisionDataset, transforms: Sequence[Any], batches: int, most: int, collate: Collate = stack
) -> Iterator[Batch]:
    """The beginning of the first batches of a run after all transforms, read in this process.

    Args:
        cfg: the configuration.
        dataset: training data.
        transforms: of the run.
        batches: how many.
        most: samples of a batch at most; of larger ones the samples of the first one are shown in several parts.
        collate: joins samples.
    """
    options: dict[str, Any] = {"num_workers": 0, "bad_image": cfg.DATA.BAD_IMAGE, "only_first": cfg.DATA.OVERFIT_BATCHES}
    count = min(most, cfg.TRAIN.BATCH_SIZE)
    loader = TrainLoader(dataset, transforms, count, collate=collate, **options, **_order(cfg, dataset))
    return (window[0] for window in islice(iter(loader), batches))


def _order(cfg: CfgNode, dataset: VisionDataset) -> dict[str, Any]:
    """What decides on the order of the training samples, as arguments of ``TrainSampler`` and ``TrainLoader``."""
    return {
        "seed": cfg.MISC.SEED,
        "shuffle": cfg.DATA.SAMPLER.TYPE != "sequential",
        "groups": _groups(cfg, dataset),
        "group_size": cfg.DATA.SAMPLER.GROUP_SIZE,
        "repeats": _repeats(cfg, dataset),
    }


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
