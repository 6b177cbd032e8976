"""Cityscapes folders, written here: instances, groups, the 19 classes."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from pet.data.catalog import build_dataset
from pet.data.datasets.class_lists import CITYSCAPES
from pet.data.masks import InstanceMasks

SIZE = (16, 32)


def write(folder, kind, city, stem, suffix, pixels):
    path = folder / kind / "train" / city / f"{stem}_{suffix}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)


@pytest.fixture(params=["polygons", "pictures_alone"])
def root(request, tmp_path):
    """Two pictures: a car, a rider and a group of persons; and nothing but road."""
    folder = tmp_path / "cityscapes"
    labels = np.full(SIZE, 7, np.uint8)
    labels[:4], labels[4:8, :10], labels[8:12, 5:9], labels[12:, 20:] = 23, 26, 25, 24
    labels[0, 0] = 5  # dynamic: not judged
    instances = labels.astype(np.uint16)
    instances[labels == 26], instances[labels == 25] = 26000, 25003
    names = {
        "a_000000_000001": ("aachen", labels, instances),
        "b_000000_000002": ("bremen", np.full(SIZE, 7, np.uint8), np.full(SIZE, 7, np.uint16)),
    }
    objects = {"a_000000_000001": ["road", "car", "rider", "persongroup"], "b_000000_000002": ["road"]}
    for stem, (city, ids, numbers) in names.items():
        write(folder, "leftImg8bit", city, stem, "leftImg8bit", np.zeros((*SIZE, 3), np.uint8))
        write(folder, "gtFine", city, stem, "gtFine_labelIds", ids)
        write(folder, "gtFine", city, stem, "gtFine_instanceIds", numbers)
        if request.param == "polygons":
            text = json.dumps({"objects": [{"label": name, "polygon": []} for name in objects[stem]]})
            (folder / "gtFine/train" / city / f"{stem}_gtFine_polygons.json").write_text(text)
    return tmp_path


def test_instances_come_from_the_numbers_of_their_pixels_and_groups_are_crowds(root):
    dataset = build_dataset(["cityscapes_fine_instance_train"], True, root=root)
    assert len(dataset) == 1  # the picture without an instance is left out
    assert dataset.class_names == ["person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"]
    assert dataset.category_ids == [24, 25, 26, 27, 28, 31, 32, 33]
    truth = dataset.annotations(0)
    assert [(dataset.class_names[c], bool(crowd)) for c, crowd in zip(truth.labels, truth.crowd, strict=True)] == [
        ("person", True),
        ("rider", False),
        ("car", False),
    ]
    assert truth.boxes.tolist() == [[20, 12, 32, 16], [5, 8, 9, 12], [0, 4, 10, 8]]
    assert truth.areas.tolist() == [48, 16, 40]
    assert truth.image_id == "a_000000_000001"
    target = dataset.read(0).target
    assert target["labels"].tolist() == [1, 2]
    assert target["masks"].to_bitmaps().sum((1, 2)).tolist() == [16, 40]
    assert dataset.labels().tolist() == [[False, True, True] + [False] * 5]
    semantic = build_dataset(["cityscapes_fine_semantic_train"], True, root=root)
    assert dataset.semseg_names == semantic.semseg_names
    assert np.array_equal(target["semseg"], semantic.semseg(0))
    counts = dataset.instance_counts()
    assert (counts["usable"].sum(), counts["crowd"].sum()) == (2, 1)


def test_all_pictures_are_tested(root):
    entry = {"TYPE": "cityscapes_instance_dataset", "IMAGES": "leftImg8bit/train", "ANNOTATIONS": "gtFine/train"}
    dataset = build_dataset(["c"], False, catalog={"c": entry}, root=root / "cityscapes")
    assert [len(dataset.annotations(i)) for i in range(2)] == [3, 0]
    assert len(dataset.read(1).target["labels"]) == 0


def test_a_coco_style_conversion_is_read_as_well(root):
    dataset = build_dataset(["cityscapes_fine_instance_train"], True, root=root)
    truth = dataset.annotations(0)
    entries = [
        {
            "id": n,
            "image_id": 1,
            "category_id": int(c),
            "bbox": [float(b[0]), float(b[1]), float(b[2] - b[0]), float(b[3] - b[1])],
            "iscrowd": int(crowd),
            "segmentation": rle,
        }
        for n, (c, b, crowd, rle) in enumerate(
            zip(truth.labels, truth.boxes, truth.crowd, truth.masks.to_rles(), strict=True), start=1
        )
    ]
    content = {
        "images": [{"id": 1, "file_name": "aachen/a_000000_000001_leftImg8bit.png", "height": SIZE[0], "width": SIZE[1]}],
        "categories": [{"id": i, "name": name} for i, name in enumerate(dataset.class_names)],
        "annotations": entries,
    }
    (root / "a.json").write_text(json.dumps(content))
    entry = {"TYPE": "cityscapes_instance_dataset", "IMAGES": "cityscapes/leftImg8bit/train", "ANNOTATIONS": "a.json"}
    other = build_dataset(["c"], True, catalog={"c": entry}, root=root).annotations(0)
    assert np.array_equal(other.boxes, truth.boxes)
    assert other.areas.tolist() == truth.areas.tolist()
    assert np.array_equal(other.masks.to_bitmaps(), truth.masks.to_bitmaps())
    assert isinstance(other.masks, InstanceMasks)


@pytest.mark.parametrize("prepared", [False, True], ids=["labelIds", "labelTrainIds"])
def test_label_ids_become_the_19_classes_that_are_judged(root, prepared):
    folder = root / "cityscapes/gtFine/train"
    table = np.full(256, 255, np.uint8)
    for label, (train, _) in CITYSCAPES.items():
        table[label] = train
    for path in list(folder.rglob("*_gtFine_labelIds.png")) if prepared else []:
        cv2.imwrite(str(path).replace("labelIds", "labelTrainIds"), table[cv2.imread(str(path), cv2.IMREAD_UNCHANGED)])
        path.unlink()
    dataset = build_dataset(["cityscapes_fine_semantic_train"], True, root=root)
    assert len(dataset.semseg_names) == 19
    assert (dataset.semseg_names[0], dataset.semseg_names[18]) == ("road", "bicycle")
    semseg = dataset.semseg(0)
    assert semseg[0, 0] == 255
    assert semseg[15, 0] == 0
    assert (semseg[5, 5], semseg[9, 6], semseg[14, 25], semseg[1, 1]) == (13, 12, 11, 10)
    assert dataset.read(1).target["semseg"].tolist() == np.zeros(SIZE, int).tolist()


def test_folders_that_do_not_match_are_explained(root):
    entry = {"TYPE": "cityscapes_instance_dataset", "IMAGES": "leftImg8bit/train", "ANNOTATIONS": "leftImg8bit/train"}
    with pytest.raises(
        FileNotFoundError, match="holds 2 pictures <city>/.*_leftImg8bit.png, and .* no <city>/.*_gtFine_instanceIds.png"
    ):
        build_dataset(["c"], True, catalog={"c": entry}, root=root / "cityscapes")
