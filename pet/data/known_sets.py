"""Built-in names of data sets with boxes, masks, keypoints and label maps, and where their files belong."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pet.data.download import RemoteFile


@dataclass(frozen=True)
class KnownSet:
    """A built-in name.

    Attributes:
        type: name in the registry ``DATASETS``.
        is_train: which split it is.
        folders: places below the data root to look in, the documented one first; none: the pictures are drawn.
        files: what such a folder must hold, folders with a ``/`` at the end; alternatives are separated by ``|``.
        annotations: list file below the data root; used if it exists.
        options: further arguments of the type.
        remote: where to fetch it from.
        images: IMAGES inside the folder; default: the folder itself.
        labels: ANNOTATIONS inside the folder; of alternatives separated by ``|`` the first that exists.
    """

    type: str
    is_train: bool
    folders: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    annotations: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    remote: tuple[RemoteFile, ...] = ()
    images: str = ""
    labels: str = ""


# torchvision's reference trains on pictures with this many labelled points; fewer teach little.
# Source: torchvision, references/detection/coco_utils.py.
_MIN_KEYPOINTS = 10

_COCO = ("coco", "COCO", "coco2017", "mscoco")
_LVIS = ("coco", "lvis_v1", "lvis_v0.5", "lvis", "COCO")


def _inside(
    kind: str, is_train: bool, folders: tuple[str, ...], images: str, labels: str, *more: str, **options: Any
) -> KnownSet:
    """A set whose pictures and annotations have places of their own inside one folder; ``more`` must be there, too."""
    return KnownSet(kind, is_train, folders, (labels, images, *more), options=options, images=images, labels=labels)


def _coco_sets(split: str) -> dict[str, KnownSet]:
    train, year = split == "train", f"{split}2017"
    images, instances = f"{year}/", f"annotations/instances_{year}.json"
    points, panoptic = f"annotations/person_keypoints_{year}.json", f"annotations/panoptic_{year}"
    stuff = f"stuffthingmaps/{year}/"
    return {
        f"coco_2017_{split}": _inside("coco_dataset", train, _COCO, images, instances),
        f"coco_2017_keypoints_{split}": _inside("coco_dataset", train, _COCO, images, points, min_keypoints=_MIN_KEYPOINTS),
        f"coco_2017_panoptic_{split}": _inside("coco_panoptic_dataset", train, _COCO, images, f"{panoptic}.json", f"{panoptic}/"),
        f"coco_2017_stuff_{split}": _inside("coco_dataset", train, _COCO, images, instances, stuff, semseg=stuff),
    }


def _lvis_sets(split: str) -> dict[str, KnownSet]:
    train = split == "train"
    v1, v05 = f"lvis_v1_{split}.json", f"lvis_v0.5_{split}.json"
    # The pictures of v1 val come from both splits of COCO.
    folders = ("train2017/",) if train else ("train2017/", "val2017/")
    return {
        f"lvis_v1_{split}": KnownSet(
            "lvis_dataset", train, _LVIS, (f"annotations/{v1}|{v1}", *folders), labels=f"annotations/{v1}|{v1}"
        ),
        f"lvis_v05_{split}": KnownSet(
            "lvis_dataset", train, _LVIS, (f"annotations/{v05}|{v05}", folders[-1]), labels=f"annotations/{v05}|{v05}"
        ),
    }


def _voc_set(year: int, split: str) -> KnownSet:
    folder = f"VOC{year}"
    folders = (f"VOCdevkit/{folder}", folder, f"VOC/VOCdevkit/{folder}", f"voc/VOCdevkit/{folder}", f"VOC/{folder}")
    files = ("JPEGImages/", "Annotations/", f"ImageSets/Main/{split}.txt")
    return KnownSet("voc_dataset", split != "test", folders, files, options={"image_set": split})


def _cityscapes_sets(split: str) -> dict[str, KnownSet]:
    train, folders = split == "train", ("cityscapes", "Cityscapes")
    images, labels = f"leftImg8bit/{split}/", f"gtFine/{split}/"
    converted = f"annotations/instancesonly_filtered_gtFine_{split}.json"
    return {
        f"cityscapes_fine_instance_{split}": _inside(
            "cityscapes_instance_dataset", train, folders, images, f"{labels}|{converted}"
        ),
        f"cityscapes_fine_semantic_{split}": _inside("cityscapes_semantic_dataset", train, folders, images, labels),
    }


def _ade20k_set(split: str, name: str) -> KnownSet:
    folder = "ADEChallengeData2016"
    folders = (folder, f"ade/{folder}", f"ade20k/{folder}", f"ADE20K/{folder}", "ade20k", "ADE20K")
    return _inside("ade20k_dataset", split == "train", folders, f"images/{name}/", f"annotations/{name}/")


def data_root(root: str | Path = "") -> Path:
    """The folder that relative data paths start from: ``root``, else the environment variable PET_DATA, else ``data``."""
    return Path(root or os.environ.get("PET_DATA", "") or "data").expanduser()


def annotated_sets() -> dict[str, KnownSet]:
    """The built-in names with more than a class for each picture."""
    sets: dict[str, KnownSet] = {}
    for split in ("train", "val"):
        sets |= _coco_sets(split) | _lvis_sets(split) | _cityscapes_sets(split)
        for name, semantic in (("shapes_det", "all"), ("shapes_panoptic", "stuff")):
            options = {"labels": "all", "image_size": 128, "semantic": semantic}
            sets[f"{name}_{split}"] = KnownSet("shapes_dataset", split == "train", options=options)
        sets[f"ade20k_{split}"] = _ade20k_set(split, "training" if split == "train" else "validation")
    for year, split in ((2007, "train"), (2007, "val"), (2007, "trainval"), (2007, "test")):
        sets[f"voc_{year}_{split}"] = _voc_set(year, split)
    for split in ("train", "val", "trainval"):
        sets[f"voc_2012_{split}"] = _voc_set(2012, split)
    return sets
