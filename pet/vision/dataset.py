"""Data of the vision domain: configuration to data sets and loaders."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from pet.config import CfgNode, keywords
from pet.data import build
from pet.data.collate import Collate, collate_padded
from pet.data.datasets import VisionDataset
from pet.data.datasets.instances import FileDataset
from pet.data.loader import EvalLoader, TrainLoader
from pet.data.names import names_for_checkpoint as names_for_checkpoint
from pet.data.report import data_report
from pet.data.transforms import build_transforms
from pet.utils.comm import get_world_size
from pet.vision.config import annotation_kinds

# What a head learns from, and the keys that switch such heads on.
_HEADS = {
    "boxes": "MODEL.GLOBAL_HEAD.DET.TYPE",
    "masks": "MODEL.ROI_HEAD.MASK.TYPE (or the transform copy_paste)",
    "keypoints": "MODEL.ROI_HEAD.KEYPOINT.TYPE",
    "semseg": "MODEL.GLOBAL_HEAD.SEMSEG.TYPE",
    "label": "MODEL.GLOBAL_HEAD.CLS.TYPE",
}
# What else can make the numbers agree.
_CHOICE = {"boxes": ". If the data sets of this run differ in their classes, name the same for all with CLASSES in DATA.CATALOG"}


def build_dataset(cfg: CfgNode, is_train: bool = True, names: Sequence[str] | None = None) -> VisionDataset:
    """The training data (all of TRAIN.DATASETS as one), or the test data; see ``pet.data.build.dataset_from_cfg``.

    Training samples carry what the heads learn from. Test samples are the picture, and its class where that is evaluated; for all
    other truth evaluators ask the data set.

    Raises:
        ValueError: the data set lacks what a head learns from, or has another number of classes than the head.
        FileNotFoundError: a picture to test on is not there.
    """
    dataset: Any = build.dataset_from_cfg(cfg, is_train, names)
    has, needed = getattr(dataset, "kinds", frozenset({"label"})), annotation_kinds(cfg)
    if is_train:
        _check_kinds(dataset, has, needed)
        _check_batch(cfg)
    else:
        _check_pictures(dataset)
    check_classes(cfg, dataset, has & needed)
    if hasattr(dataset, "want"):
        dataset.want(needed & has if is_train else needed & has & {"label"})
    return dataset


def _check_kinds(dataset: Any, has: frozenset[str], needed: frozenset[str]) -> None:
    if needed - has:
        lacking = "; ".join(f"{kind}, which {_HEADS[kind]} learns from" for kind in sorted(needed - has))
        there = f"has {', '.join(sorted(has))}, but no" if has else "has no annotations; there are no"
        raise ValueError(f"{dataset.name} {there} {lacking}")


def _check_batch(cfg: CfgNode) -> None:
    """A head that averages the whole map has one value a channel and image, of which one image gives no variance."""
    semseg = cfg.MODEL.GLOBAL_HEAD.SEMSEG
    pooling = [name for name in (semseg.TYPE, semseg.AUX.TYPE) if name in ("deeplabv3", "pspnet")]
    processes = get_world_size()
    images = cfg.TRAIN.BATCH_SIZE // (processes * cfg.SOLVER.ACCUMULATE)
    if pooling and images == 1 and (semseg.NORM == "BN" or (semseg.NORM == "SyncBN" and processes == 1)):
        raise ValueError(
            f"{pooling[0]} cannot be trained on one image at a time: batch normalisation of its average over the whole picture "
            f"needs two. TRAIN.BATCH_SIZE is {cfg.TRAIN.BATCH_SIZE}, on {processes} processes in {cfg.SOLVER.ACCUMULATE} parts; "
            "raise it, or set MODEL.GLOBAL_HEAD.SEMSEG.NORM GN (SyncBN on several GPUs)"
        )


def _check_pictures(dataset: Any) -> None:
    """A test set is tested whole, so a picture that is missing is told now and not in the middle."""
    for part in getattr(dataset, "datasets", [dataset]):
        if isinstance(part, FileDataset) and part.source is None:
            raise FileNotFoundError(f"{part.name}: a test needs pictures; set IMAGES, their folder, in its entry of DATA.CATALOG")
    missing = getattr(dataset, "faults", {}).get("missing_image_file", 0)
    if missing:
        raise FileNotFoundError(
            f"{dataset.name}: {missing} of {len(dataset)} pictures are not there, e.g. "
            f"{dataset.fault_examples['missing_image_file']}. A test set must be complete: add them, or take them out of its "
            "annotations"
        )


def check_classes(cfg: CfgNode, dataset: Any, kinds: frozenset[str]) -> None:
    """Refuse a head that has another number of outputs than the data set has classes or keypoints.

    Raises:
        ValueError: names both numbers, and the key to change.
    """
    model = cfg.MODEL
    if "semseg" in kinds:
        _check_semantic(model.GLOBAL_HEAD.PANOSEG.TYPE, dataset)
    semseg, image = model.GLOBAL_HEAD.SEMSEG, model.GLOBAL_HEAD.CLS
    checks = {
        "boxes": (dataset.class_names, model.NUM_CLASSES, "MODEL.NUM_CLASSES"),
        "keypoints": (
            getattr(dataset, "keypoint_names", []),
            model.ROI_HEAD.KEYPOINT.NUM_KEYPOINTS,
            "MODEL.ROI_HEAD.KEYPOINT.NUM_KEYPOINTS",
        ),
        "semseg": (getattr(dataset, "semseg_names", []), semseg.NUM_CLASSES, "MODEL.GLOBAL_HEAD.SEMSEG.NUM_CLASSES"),
        "label": (dataset.class_names, image.NUM_CLASSES, "MODEL.GLOBAL_HEAD.CLS.NUM_CLASSES"),
    }
    for kind, (names, outputs, key) in checks.items():
        if kind in kinds and len(names) != outputs:
            shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
            what = "keypoints" if kind == "keypoints" else f"classes of {kind}"
            raise ValueError(
                f"{dataset.name} has {len(names)} {what} ({shown}), but the head has {outputs} outputs "
                f"({cfg.origin(key)}); set {key} {len(names)}{_CHOICE.get(kind, '')}"
            )


def _check_semantic(panoptic: str, dataset: Any) -> None:
    """The usual merge takes every class of the semantic map but the last, all things, for stuff."""
    labels = getattr(dataset, "semseg_labels", [])
    if panoptic == "merge" and labels and -1 not in labels:
        raise ValueError(
            f"{dataset.name} has a semantic map of things and stuff, {len(labels)} classes, but MODEL.GLOBAL_HEAD.PANOSEG.TYPE "
            "merge needs the stuff classes and one for all things; set SEMANTIC stuff in its entry of DATA.CATALOG, and "
            f"MODEL.GLOBAL_HEAD.SEMSEG.NUM_CLASSES {len(dataset.stuff_names) + 1}"
        )


def build_train_transforms(cfg: CfgNode, dataset: Any) -> list[Any]:
    """TRAIN.TRANSFORMS with the options of the sections of TRAIN and what they need to know of the data set."""
    train, classes = cfg.TRAIN, {"num_classes": cfg.MODEL.GLOBAL_HEAD.CLS.NUM_CLASSES}
    mean = tuple(round(value) for value in build.pixel_statistics_rgb255(cfg)[0])
    pairs = {"flip_pairs": tuple(getattr(dataset, "flip_pairs", ()))}
    options = build.train_options(
        cfg,
        random_horizontal_flip=pairs,
        random_vertical_flip=pairs,
        random_crop={"ignore_label": cfg.MODEL.GLOBAL_HEAD.SEMSEG.IGNORE_LABEL},
        ssd_crop_and_expand={**keywords(train.CROP_AND_EXPAND), "fill": mean},
        photometric_distort=keywords(train.PHOTOMETRIC_DISTORT),
        copy_paste=keywords(train.COPY_PASTE),
        mosaic=keywords(train.MOSAIC),
        det_mixup=keywords(train.DET_MIXUP),
        efficient_det_resize_crop=keywords(train.EFFICIENT_DET_RESIZE_CROP),
        mixup=classes,
        cutmix=classes,
    )
    return build_transforms(train.TRANSFORMS, options)


def train_collate(cfg: CfgNode) -> Collate:
    """Joins training samples to a batch."""
    return partial(collate_padded, size_divisibility=cfg.TRAIN.SIZE_DIVISIBILITY)


def make_train_data_loader(cfg: CfgNode, dataset: VisionDataset, start_iter: int = 1) -> TrainLoader:
    """The endless training loader of this process, starting with update ``start_iter``."""
    return build.train_loader(cfg, dataset, build_train_transforms(cfg, dataset), start_iter, train_collate(cfg))


def make_test_data_loader(cfg: CfgNode, dataset: VisionDataset) -> EvalLoader:
    """A loader that shows every test sample once, to one process."""
    swapped = cfg.TEST.TTA.SWAP_KEYPOINTS
    pairs = tuple(getattr(dataset, "flip_pairs", ())) if swapped else ()
    return build.eval_loader(cfg, dataset, eval_collate(cfg), pairs)


def eval_collate(cfg: CfgNode) -> Collate:
    """Joins test samples to a batch."""
    return partial(collate_padded, size_divisibility=cfg.TEST.SIZE_DIVISIBILITY)


def report_dataset(cfg: CfgNode, dataset: VisionDataset) -> str:
    """The data report of DATA.CHECK as text."""
    return "\n".join(data_report(dataset, len(dataset.class_names), cfg.DATA.CHECK))
