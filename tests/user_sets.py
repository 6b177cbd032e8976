"""Small data sets of a user's own, cut from the real ones, and the experiment that trains on them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Two updates of a Faster R-CNN that sees pictures of about 50 pixels.
TINY = """
MISC: {DEVICE: cpu, CUDNN: False, DISPLAY_ITER: 1}
ANALYSER: {ENABLED: False}
VIS: {ENABLED: False}
DATA:
  LOADER_THREADS: 0
  CATALOG:
    drawn_train: {TYPE: shapes_dataset, LABELS: all, NUM_IMAGES: 8, IMAGE_SIZE: 40}
    drawn_val: {TYPE: shapes_dataset, LABELS: all, NUM_IMAGES: 4, IMAGE_SIZE: 40}
TRAIN:
  DATASETS: [drawn_train]
  BATCH_SIZE: 2
  TRANSFORMS: [resize, random_horizontal_flip, normalize]
  RESIZE: {SCALES: [48], MAX_SIZE: 64}
TEST:
  DATASETS: [drawn_val]
  IMS_PER_GPU: 2
  TRANSFORMS: [resize, normalize]
  RESIZE: {SCALE: 48, MAX_SIZE: 64}
EVAL: {PERIOD_EPOCHS: null}
SOLVER:
  OPTIMIZER: {BASE_LR: 0.005}
  SCHEDULER: {TOTAL_ITERS: 2, POLICY: CONSTANT}
MODEL:
  BACKBONE: cifar_resnet8
  BACKBONE_OPTIONS: {width: 8}
  FEATURES: [layer1, layer2, layer3]
  NECK: fpn
  NECK_OPTIONS: {out_channels: 16}
  NUM_CLASSES: 10
  GLOBAL_HEAD:
    DET: {TYPE: rpn, RPN: {ANCHOR_SIZES: [[8], [16], [32], [48]], POST_NMS_TOP_N_TRAIN: 30, POST_NMS_TOP_N_TEST: 30}}
  ROI_HEAD:
    TYPE: faster
    FASTER: {FC_DIM: 32, BATCH_SIZE_PER_IMAGE: 16, SCORE_THRESH: 0.0}
"""

# Keys that switch heads of TINY on; words of a command line.
MASK = ["MODEL.ROI_HEAD.MASK.TYPE=mask_rcnn", "MODEL.ROI_HEAD.MASK.CHANNELS=[16]", "MODEL.ROI_HEAD.MASK.DIM_REDUCED=16"]
KEYPOINT = ["MODEL.ROI_HEAD.KEYPOINT.TYPE=keypoint_rcnn", "MODEL.ROI_HEAD.KEYPOINT.CHANNELS=[16]"]
NO_DET = ["MODEL.GLOBAL_HEAD.DET.TYPE=''", "MODEL.ROI_HEAD.TYPE=''"]
SEMSEG = [
    "MODEL.GLOBAL_HEAD.SEMSEG.TYPE=semseg_fpn",
    "MODEL.GLOBAL_HEAD.SEMSEG.SEMSEG_FPN.CHANNELS=16",
    "MODEL.GLOBAL_HEAD.SEMSEG.SEMSEG_FPN.GROUPS=4",
]

FIVE_POINTS = ["head", "left_hand", "right_hand", "left_foot", "right_foot"]
_OF_COCO = (0, 9, 10, 15, 16)  # nose, wrists, ankles


def use(**sets: dict[str, Any]) -> list[str]:
    """Words that put data sets of these names into the catalog; ``train`` is trained on and ``val`` tested on."""
    words = [f"DATA.CATALOG={json.dumps(sets)}"]
    return words + [f"{split.upper()}.DATASETS=[{name}]" for split, name in (("train", "train"), ("test", "val")) if name in sets]


def classes(boxes: int = 0, semseg: int = 0, keypoints: int = 0, image: int = 0) -> list[str]:
    """Words that set the number of outputs of heads."""
    keys = {
        "MODEL.NUM_CLASSES": boxes,
        "MODEL.GLOBAL_HEAD.SEMSEG.NUM_CLASSES": semseg,
        "MODEL.ROI_HEAD.KEYPOINT.NUM_KEYPOINTS": keypoints,
        "MODEL.GLOBAL_HEAD.CLS.NUM_CLASSES": image,
    }
    return [f"{key}={count}" for key, count in keys.items() if count]


@dataclass
class UserSets:
    """Entries of the catalog by split, "train" and "val".

    Attributes:
        coco: boxes and polygons of "my person" and "my car".
        people: people with the keypoints ``FIVE_POINTS``.
        cells: VOC, boxes of "RBC" and "WBC".
        rooms: COCO panoptic, 18 things and 17 stuff classes.
    """

    coco: dict[str, dict[str, Any]]
    people: dict[str, dict[str, Any]]
    cells: dict[str, dict[str, Any]]
    rooms: dict[str, dict[str, Any]]


def make_sets(shared: Path, folder: Path) -> UserSets:
    """Sets of a few pictures each, below ``folder``."""
    both = ("train", "val")
    stems = {"train": [f"BloodImage_0000{i}" for i in range(3)], "val": [f"BloodImage_0000{i}" for i in (4, 5)]}
    named = {"CLASSES": ["RBC", "WBC"]}
    return UserSets(
        {split: coco_set(shared, folder / "coco", split, names=("person", "car")) for split in both},
        {split: coco_set(shared, folder / "people", split, points=True) for split in both},
        {split: {**voc_set(shared, folder / "cells", stems[split], split), **named} for split in both},
        {split: panoptic_set(shared, folder / "rooms", split) for split in both},
    )


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    os.symlink(source.absolute(), target)


def coco_set(
    shared: Path, folder: Path, split: str, count: int = 4, names: Sequence[str] = ("person",), points: bool = False
) -> dict[str, Any]:
    """``<folder>/<split>.json`` and ``<folder>/<split>/`` with the first pictures that show one of the categories.

    Args:
        shared: the real data.
        folder: where to.
        split: train or val.
        count: pictures.
        names: categories, renumbered from 3 in steps of 4.
        points: people with the five keypoints ``FIVE_POINTS``.

    Returns:
        The entry of the catalog.
    """
    source = shared / "detection" / "coco_mini"
    kind = "person_keypoints" if points else "instances"
    content = json.loads((source / "annotations" / f"{kind}_{split}2017.json").read_text())
    chosen = [c for name in names for c in content["categories"] if c["name"] == name]
    number = {c["id"]: 3 + 4 * i for i, c in enumerate(chosen)}
    annotations = [{**a, "category_id": number[a["category_id"]]} for a in content["annotations"] if a["category_id"] in number]
    categories: list[dict[str, Any]] = [{"id": number[c["id"]], "name": f"my {c['name']}"} for c in chosen]
    if points:
        for entry in annotations:
            entry["keypoints"] = [v for i in _OF_COCO for v in entry["keypoints"][3 * i : 3 * i + 3]]
            entry["num_keypoints"] = sum(v > 0 for v in entry["keypoints"][2::3])
        annotations = [a for a in annotations if a["num_keypoints"]]
        categories[0] |= {"keypoints": FIVE_POINTS, "skeleton": [[1, 2], [1, 3], [1, 4], [1, 5]]}
    there = {a["image_id"] for a in annotations}
    images = sorted((i for i in content["images"] if i["id"] in there), key=lambda i: i["id"])[:count]
    kept = {i["id"] for i in images}
    for image in images:
        _link(source / f"{split}2017" / image["file_name"], folder / split / image["file_name"])
    file = folder / f"{split}.json"
    annotations = [a for a in annotations if a["image_id"] in kept]
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    entry = {"TYPE": "coco_dataset", "IMAGES": str(folder / split), "ANNOTATIONS": str(file)}
    return entry if split == "train" else {**entry, "SPLIT": "test"}


def edited(entry: dict[str, Any], folder: Path, change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    """The entry with a changed copy of its JSON file, in ``folder``."""
    content = json.loads(Path(entry["ANNOTATIONS"]).read_text())
    change(content)
    file = folder / Path(entry["ANNOTATIONS"]).name
    file.write_text(json.dumps(content))
    return {**entry, "ANNOTATIONS": str(file)}


def voc_set(shared: Path, folder: Path, stems: Sequence[str], split: str = "train") -> dict[str, Any]:
    """Blood cells in the layout of VOC below ``folder``, with a list ``<split>.txt``."""
    source = shared / "detection" / "bccd_voc"
    for stem in stems:
        _link(source / "JPEGImages" / f"{stem}.jpg", folder / "JPEGImages" / f"{stem}.jpg")
        _link(source / "Annotations" / f"{stem}.xml", folder / "Annotations" / f"{stem}.xml")
    lists = folder / "ImageSets" / "Main"
    lists.mkdir(parents=True, exist_ok=True)
    (lists / f"{split}.txt").write_text("\n".join(stems))
    entry = {"TYPE": "voc_dataset", "IMAGES": str(folder), "IMAGE_SET": split}
    return entry if split == "train" else {**entry, "SPLIT": "test"}


def panoptic_set(shared: Path, folder: Path, split: str, count: int = 4) -> dict[str, Any]:
    """COCO panoptic: ``<folder>/<split>.json``, its PNGs and pictures, and the categories that occur in them.

    The categories are those of both splits together, so that train and val agree.
    """
    source = shared / "segmentation" / "coco128_panoptic"
    contents = {s: json.loads((source / "annotations" / f"panoptic_{s}2017.json").read_text()) for s in ("train", "val")}
    seen: set[int] = set()
    for content in contents.values():
        content["images"] = sorted(content["images"], key=lambda image: image["id"])[:count]
        kept = {image["id"] for image in content["images"]}
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] in kept]
        seen |= {segment["category_id"] for a in content["annotations"] for segment in a["segments_info"]}
    content = contents[split]
    content["categories"] = [c for c in content["categories"] if c["id"] in seen]
    for image in content["images"]:
        _link(source / "images" / f"{split}2017" / image["file_name"], folder / split / image["file_name"])
    for entry in content["annotations"]:
        _link(source / "annotations" / f"panoptic_{split}2017" / entry["file_name"], folder / f"png_{split}" / entry["file_name"])
    file = folder / f"{split}.json"
    file.write_text(json.dumps(content))
    entry = {
        "TYPE": "coco_panoptic_dataset",
        "IMAGES": str(folder / split),
        "ANNOTATIONS": str(file),
        "SEGMENTS": str(folder / f"png_{split}"),
    }
    return entry if split == "train" else {**entry, "SPLIT": "test"}
