"""Cityscapes to COCO JSON files of instances."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pet.data.convert.coco_file import CocoFile
from pet.data.datasets.cityscapes import CityscapesInstances
from pet.data.datasets.class_lists import CITYSCAPES, CITYSCAPES_INSTANCE_IDS
from pet.data.datasets.image_folder import find_images
from pet.data.datasets.label_maps import picture_size
from pet.data.parallel import map_indices

_SPLITS = ("train", "val", "test")
_CATEGORIES = [(label, CITYSCAPES[label][1]) for label in CITYSCAPES_INSTANCE_IDS]


def convert_cityscapes(
    root: Path, out: Path | None = None, images: str = "leftImg8bit", truth: str = "gtFine", processes: int = 1
) -> list[str]:
    """Write ``instancesonly_filtered_gtFine_<split>.json`` for each split that is there.

    Values of 1000 and more in an ``_instanceIds`` picture are single objects (label id x 1000 + number); smaller ones stand for
    a group, which becomes a crowd. Written are the 8 classes that are evaluated, with their label ids as category ids and masks
    as run lengths. Paths of pictures start at ``<images>/<split>``. A split without label pictures becomes a test set.

    Args:
        root: folder of Cityscapes.
        out: folder of the files; default: ``annotations`` in ``root``.
        images, truth: folders in ``root``.
        processes: how many convert; the files do not depend on it.

    Returns:
        A line of text about each file.

    Raises:
        FileNotFoundError: there are no pictures.
    """
    splits = [split for split in _SPLITS if (root / images / split).is_dir()]
    if not splits:
        raise FileNotFoundError(
            f"{root.absolute()} holds none of {', '.join(f'{images}/{split}' for split in _SPLITS)}. Expected is the folder of "
            f"Cityscapes with {images}/<split>/<city>/*_leftImg8bit.png and {truth}/<split>/<city>/*_instanceIds.png"
        )
    lines = []
    for split in splits:
        file, notes = _convert_split(root / images / split, root / truth / split, processes)
        target = (out or root / "annotations") / f"instancesonly_filtered_{truth}_{split}.json"
        lines += [file.write(target), *notes]
    return lines


def _convert_split(images: Path, truth: Path, processes: int) -> tuple[CocoFile, list[str]]:
    if not truth.is_dir():
        file = CocoFile(_CATEGORIES, labelled=False)
        for name in find_images(images):
            file.add_image(name, picture_size(images / name))
        return file, [f"  {truth} does not exist: a test set without truth"]
    dataset = CityscapesInstances(images.name, images, truth, is_train=False)
    file = CocoFile(_CATEGORIES)
    for name, size, instances in map_indices(_convert_picture, dataset, len(dataset), processes):
        number = file.add_image(name, size)
        for fields in instances:
            file.add_instance(number, fields)
    missing = dataset.faults["missing_annotation_file"]
    example = dataset.fault_examples.get("missing_annotation_file", "")
    return file, [f"  {missing} pictures left out, which have no label picture, e.g. {example}"] if missing else []


Converted = tuple[str, tuple[int, int], list[dict[str, Any]]]  # path, (height, width), instances


def _convert_picture(dataset: CityscapesInstances, index: int) -> Converted:
    truth = dataset.annotations(index)
    rles = truth.masks.to_rles() if truth.masks is not None else []
    instances = []
    for row, rle in enumerate(rles):
        x1, y1, x2, y2 = (float(value) for value in truth.boxes[row])
        fields = {
            "category_id": dataset.category_ids[int(truth.labels[row])],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": int(truth.areas[row]),
            "iscrowd": int(truth.crowd[row]),
            "segmentation": rle,
        }
        instances.append(fields)
    return os.path.relpath(truth.file, dataset.source), (truth.height, truth.width), instances
