"""Pascal VOC XML: the convention of its pixels, its layouts, and a real faulty file."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import cv2
import numpy as np
import pytest

from pet.data.catalog import build_dataset
from pet.data.datasets import ConcatDataset, VocDataset
from pet.data.datasets.class_lists import VOC

XML = """<annotation><filename>{name}.jpg</filename><size><width>40</width><height>30</height><depth>3</depth></size>{objects}</annotation>"""
OBJECT = """<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin>
<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"""


def write_devkit(folder, pictures, year="VOC2007"):
    """``pictures``: stem to (name, difficult, x1, y1, x2, y2) of each object."""
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / year / name).mkdir(parents=True, exist_ok=True)
    for stem, objects in pictures.items():
        cv2.imwrite(str(folder / year / "JPEGImages" / f"{stem}.jpg"), np.zeros((30, 40, 3), np.uint8))
        keys = ("name", "difficult", "x1", "y1", "x2", "y2")
        text = "".join(OBJECT.format(**dict(zip(keys, o, strict=True))) for o in objects)
        (folder / year / "Annotations" / f"{stem}.xml").write_text(XML.format(name=stem, objects=text))
    return folder / year


@pytest.fixture
def devkit(tmp_path):
    folder = write_devkit(
        tmp_path / "VOCdevkit",
        {"000001": [("dog", 0, 1, 1, 40, 30), ("cat", 1, 5, 6, 10, 12)], "000002": [("cat", 1, 3, 3, 9, 9)], "000003": []},
    )
    (folder / "ImageSets/Main/trainval.txt").write_text("000001\n000002\n000003\n")
    (folder / "ImageSets/Main/test.txt").write_text("000002\n")
    return folder


def test_pixels_counted_from_one_become_boxes_with_exclusive_ends(devkit):
    truth = VocDataset("v", devkit, is_train=False, image_set="trainval").annotations(0)
    assert truth.boxes.tolist() == [[0, 0, 40, 30], [4, 5, 10, 12]]
    assert truth.areas.tolist() == [1200, 42]
    assert truth.difficult.tolist() == [False, True]
    assert truth.image_id == "000001"
    assert [VOC[label] for label in truth.labels] == ["dog", "cat"]


def test_difficult_objects_are_truth_but_not_trained_on_unless_kept(devkit):
    plain, kept = (VocDataset("v", devkit, image_set="trainval", keep_difficult=k) for k in (False, True))
    assert (len(plain), len(kept)) == (1, 2)
    assert [len(d.read(0).target["labels"]) for d in (plain, kept)] == [1, 2]
    assert len(VocDataset("v", devkit, is_train=False, image_set="trainval")) == 3
    assert len(VocDataset("v", devkit, image_set="trainval", filter_empty=False)) == 3


def test_both_years_together_have_the_sum_of_their_lengths(devkit, tmp_path):
    other = write_devkit(tmp_path / "VOCdevkit", {"2008_000001": [("person", 0, 2, 2, 20, 20)]}, "VOC2012")
    (other / "ImageSets/Main/trainval.txt").write_text("2008_000001\n")
    parts = [build_dataset([n], True, root=tmp_path) for n in ("voc_2007_trainval", "voc_2012_trainval")]
    both = build_dataset(["voc_2007_trainval", "voc_2012_trainval"], True, root=tmp_path)
    assert isinstance(both, ConcatDataset)
    assert len(both) == sum(map(len, parts)) == 2
    assert len(build_dataset(["voc_2007_test"], False, root=tmp_path)) == 1
    assert both.annotations(1).image_id == "2008_000001"
    ids = [i for index in range(2) for i in both.annotations(index).ids.tolist()]
    assert len(set(ids)) == len(ids) == 3


def test_an_image_set_that_does_not_exist_is_named_with_those_that_do(devkit):
    with pytest.raises(FileNotFoundError, match="IMAGE_SET is 'trainvla'.*Did you mean 'trainval'.*test, trainval"):
        VocDataset("v", devkit, image_set="trainvla")
    with pytest.raises(FileNotFoundError, match="IMAGES must be one of its folders VOC2007"):
        VocDataset("v", devkit.parent)


def test_bccd_has_one_real_box_without_extent_that_is_counted_and_left_out(shared_data):
    dataset = VocDataset("bccd", shared_data / "detection/bccd_voc", is_train=True)
    assert dataset.class_names == ["Platelets", "RBC", "WBC"]
    assert dict(dataset.faults) == {"zero_size_box": 1}
    assert "BloodImage_00343.xml, object 4 (RBC" in dataset.fault_examples["zero_size_box"]
    files = [dataset.path(i) for i in range(len(dataset))]
    index = next(i for i, f in enumerate(files) if "00343" in f)
    xml = ET.parse(shared_data / "detection/bccd_voc/Annotations/BloodImage_00343.xml").getroot()
    assert len(dataset.read(index).target["boxes"]) == len(xml.findall("object")) - 1
    for i in range(len(dataset)):
        boxes = dataset.annotations(i).boxes
        assert ((boxes[:, 2:] - boxes[:, :2]) > 0).all()


@pytest.mark.parametrize(("image_set", "count"), [("train", 205), ("val", 60), ("trainval", 265)])
def test_lists_choose_the_pictures_of_bccd_and_all_splits_have_the_same_classes(shared_data, image_set, count):
    entry = {"TYPE": "voc_dataset", "IMAGES": "detection/bccd_voc", "IMAGE_SET": image_set}
    dataset = build_dataset(["b"], True, catalog={"b": entry}, root=shared_data)
    assert (len(dataset), dataset.class_names) == (count, ["Platelets", "RBC", "WBC"])


def test_boxes_of_real_files_equal_their_xml(shared_data):
    dataset = VocDataset("v", shared_data / "detection/voc2012_sample", is_train=False)
    assert dataset.class_names == VOC
    for index in range(len(dataset)):
        truth = dataset.annotations(index)
        root = ET.parse(dataset.path(index).replace("JPEGImages", "Annotations").replace(".jpg", ".xml")).getroot()
        corners = [
            [float(o.find("bndbox").findtext(k)) for k in ("xmin", "ymin", "xmax", "ymax")] for o in root.findall("object")
        ]
        assert np.array_equal(truth.boxes, np.array(corners, np.float32) - np.float32([1, 1, 0, 0]))
        assert [VOC[c] for c in truth.labels] == [o.findtext("name") for o in root.findall("object")]
        assert dataset.read(index).image.shape[:2] == (truth.height, truth.width)


def test_xml_files_may_lie_in_a_folder_of_their_own(shared_data):
    entry = {"TYPE": "voc_dataset", "IMAGES": "raccoon_voc/images", "ANNOTATIONS": "raccoon_voc/annotations"}
    dataset = build_dataset(["r"], True, catalog={"r": entry}, root=shared_data / "detection")
    assert (len(dataset), dataset.class_names) == (60, ["raccoon"])
    assert all(len(dataset.read(i).target["boxes"]) for i in range(0, 60, 7))
