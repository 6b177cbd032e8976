"""Pascal VOC to COCO JSON files, or to pickles in the list format that mmdetection 2 reads."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pet.data.convert.coco_file import CocoFile
from pet.data.datasets.annotation_faults import AnnotationFaults
from pet.data.datasets.class_lists import VOC
from pet.data.datasets.voc import VocDataset
from pet.utils.files import atomic_write
from pet.utils.suggest import did_you_mean

_YEARS = {"VOC2007": "voc07", "VOC2012": "voc12"}
_SPLITS = ("train", "val", "trainval", "test")
_LISTS = Path("ImageSets") / "Main"


def convert_voc(devkit: Path, out: Path | None = None, kind: str = "coco") -> list[str]:
    """Write ``voc07_<split>``, ``voc12_<split>`` and, of both together, ``voc0712_<split>``.

    Boxes become (xmin - 1, ymin - 1, xmax - xmin, ymax - ymin), as mmdetection writes them; ``voc_dataset`` counts the last
    pixel as well and reads boxes that are one pixel wider and higher. Difficult objects get ``iscrowd`` and ``ignore`` 1.

    Args:
        devkit: folder with VOC2007, VOC2012 or both; or one folder in their layout, whose files are called ``voc_<split>``.
        out: folder of the files; default: ``devkit``.
        kind: ``coco`` or ``pkl``.

    Returns:
        Lines of text about each file.

    Raises:
        ValueError: no such kind. FileNotFoundError: there is no list of pictures.
    """
    if kind not in _WRITERS:
        raise ValueError(f"--out-format is '{kind}'; allowed are {', '.join(_WRITERS)}.{did_you_mean(kind, _WRITERS)}")
    parts = {short: devkit / year for year, short in _YEARS.items() if (devkit / year / _LISTS).is_dir()}
    parts = parts or ({"voc": devkit} if (devkit / _LISTS).is_dir() else {})
    if not parts:
        raise FileNotFoundError(
            f"{devkit.absolute()} holds neither VOC2007/{_LISTS} nor VOC2012/{_LISTS}; DEVKIT is VOCdevkit of the archives"
        )
    lines = []
    for split in _SPLITS:
        chosen = {short: folder for short, folder in parts.items() if (folder / _LISTS / f"{split}.txt").is_file()}
        groups = {short: [folder] for short, folder in chosen.items()}
        if len(chosen) > 1:
            groups["voc0712"] = list(chosen.values())
        for short, folders in groups.items():
            sets = _read(folders, split)
            lines.append(_WRITERS[kind](sets, devkit, (out or devkit) / f"{short}_{split}"))
            lines += _fault_lines(sets)
    return lines


def _read(folders: Sequence[Path], split: str) -> list[VocDataset]:
    """The pictures of a split, with the same classes in all folders."""
    sets = [VocDataset(folder.name, folder, None, False, image_set=split) for folder in folders]
    names = sorted({name for one in sets for name in one.class_names})
    classes = list(VOC) if set(names) <= set(VOC) else names
    if all(one.class_names == classes for one in sets):
        return sets
    return [VocDataset(folder.name, folder, None, False, image_set=split, classes=classes) for folder in folders]


def _fault_lines(sets: Sequence[VocDataset]) -> list[str]:
    faults = AnnotationFaults()
    for one in sets:
        faults.update(one.faults, one.fault_places)
    return faults.lines()


def _write_coco(sets: Sequence[VocDataset], devkit: Path, path: Path) -> str:
    file = CocoFile(enumerate(sets[0].class_names, start=1))
    for dataset, index in ((one, index) for one in sets for index in range(len(one))):
        truth = dataset.annotations(index)
        number = file.add_image(os.path.relpath(truth.file, devkit), (truth.height, truth.width))
        for box, label, difficult in zip(_corners(truth.boxes).tolist(), truth.labels, truth.difficult, strict=True):
            x, y, width, height = box[0], box[1], box[2] - box[0], box[3] - box[1]
            flag = int(difficult)
            file.add_instance(
                number,
                {
                    "category_id": int(label) + 1,
                    "bbox": [x, y, width, height],
                    "area": width * height,
                    "iscrowd": flag,
                    "ignore": flag,
                },
            )
    return file.write(path.with_suffix(".json"))


def _write_pickle(sets: Sequence[VocDataset], devkit: Path, path: Path) -> str:
    content: list[dict[str, Any]] = []
    for dataset, index in ((one, index) for one in sets for index in range(len(one))):
        truth = dataset.annotations(index)
        boxes, good = _corners(truth.boxes), ~truth.difficult
        labels = {
            "bboxes": boxes[good],
            "labels": truth.labels[good],
            "bboxes_ignore": boxes[~good],
            "labels_ignore": truth.labels[~good],
        }
        name = os.path.relpath(truth.file, devkit)
        content.append({"filename": name, "width": truth.width, "height": truth.height, "ann": labels})
    path = path.with_suffix(".pkl")
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as handle:
        pickle.dump(content, handle)
    return f"{path}: {len(content)} images"


def _corners(boxes: Any) -> Any:
    """x1, y1, x2, y2 of the file minus 1, from boxes (K, 4) whose ends lie behind the last pixel."""
    return boxes - np.array([0, 0, 1, 1], np.float32)


_WRITERS: dict[str, Callable[[Sequence[VocDataset], Path, Path], str]] = {"coco": _write_coco, "pkl": _write_pickle}
