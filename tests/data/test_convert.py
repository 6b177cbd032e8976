"""Converters to COCO JSON: what they write is what others write and read, and Pet trains on it."""

from __future__ import annotations

import json
import pickle
import re
import shutil
import xml.etree.ElementTree as ET
from contextlib import redirect_stdout
from io import StringIO

import cv2
import numpy as np
import pytest
from PIL import Image

from pet.data.catalog import build_dataset
from pet.data.convert.cityscapes import convert_cityscapes
from pet.data.convert.images import convert_images
from pet.data.convert.pascal_voc import convert_voc

SIZE = (16, 32)


def load(path):
    """The file as pycocotools sees it."""
    from pycocotools.coco import COCO

    with redirect_stdout(StringIO()):
        return COCO(str(path))


def entry(images, annotations, **more):
    return {"TYPE": "coco_dataset", "IMAGES": str(images), "ANNOTATIONS": str(annotations), **more}


# ---------------------------------------------------------------------------------------------------- cityscapes


def write_picture(root, split, stem, values):
    """A picture and its instance values, and the other two files of Cityscapes that must not confuse."""
    city = stem.partition("_")[0]
    for folder, suffix, pixels in (
        ("leftImg8bit", "leftImg8bit", np.zeros((*SIZE, 3), np.uint8)),
        ("gtFine", "gtFine_instanceIds", values.astype(np.uint16)),
        ("gtFine", "gtFine_labelIds", np.where(values >= 1000, values // 1000, values).astype(np.uint8)),
    ):
        path = root / folder / split / city / f"{stem}_{suffix}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), pixels)


@pytest.fixture
def cityscapes(tmp_path):
    """Two training pictures: two cars, a group of persons, a caravan, which is not evaluated; and road alone. One to validate."""
    root = tmp_path / "cityscapes"
    values = np.full(SIZE, 7)
    values[2:6, 3:9], values[8:12, 10:20], values[12:16, 20:30], values[0:2, :] = 26000, 26001, 24, 29000
    values[9, 12] = 25003  # a rider of one pixel in front of the second car
    write_picture(root, "train", "aachen_000000_000019", values)
    write_picture(root, "train", "bochum_000000_000001", np.full(SIZE, 7))
    write_picture(root, "val", "munster_000000_000000", np.where(np.arange(32) < 8, 33002, 7) * np.ones(SIZE, int))
    path = root / "leftImg8bit" / "test" / "berlin" / "berlin_000000_000000_leftImg8bit.png"
    path.parent.mkdir(parents=True)
    assert cv2.imwrite(str(path), np.zeros((*SIZE, 3), np.uint8))
    return root


# pycocotools speaks to NumPy in an older way.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_cityscapes_instances_have_the_boxes_areas_and_masks_of_their_pixels(cityscapes):
    lines = convert_cityscapes(cityscapes)
    assert "2 images, 4 instances, 8 categories" in lines[0]
    coco = load(cityscapes / "annotations" / "instancesonly_filtered_gtFine_train.json")
    assert {c["id"]: c["name"] for c in coco.dataset["categories"]}[26] == "car"
    first = next(i for i in coco.dataset["images"] if i["file_name"] == "aachen/aachen_000000_000019_leftImg8bit.png")
    assert (first["height"], first["width"]) == SIZE
    found = {(a["category_id"], a["iscrowd"], *a["bbox"], a["area"]) for a in coco.loadAnns(coco.getAnnIds([first["id"]]))}
    assert found == {
        (26, 0, 3.0, 2.0, 6.0, 4.0, 24),
        (26, 0, 10.0, 8.0, 10.0, 4.0, 39),
        (24, 1, 20.0, 12.0, 10.0, 4.0, 40),
        (25, 0, 12.0, 9.0, 1.0, 1.0, 1),
    }
    values = cv2.imread(str(next((cityscapes / "gtFine" / "train" / "aachen").glob("*instanceIds.png"))), cv2.IMREAD_UNCHANGED)
    second = next(a for a in coco.dataset["annotations"] if a["area"] == 39)
    assert np.array_equal(coco.annToMask(second), values == 26001)
    assert all(a["id"] > 0 for a in coco.dataset["annotations"])


def test_cityscapes_without_label_pictures_becomes_a_test_set_and_a_lost_label_picture_is_counted(cityscapes):
    lost = next((cityscapes / "gtFine" / "train" / "bochum").glob("*instanceIds.png"))
    lost.unlink()
    lines = convert_cityscapes(cityscapes, cityscapes / "out")
    assert any("1 pictures left out, which have no label picture" in line and lost.name in line for line in lines)
    content = json.loads((cityscapes / "out" / "instancesonly_filtered_gtFine_test.json").read_text())
    assert "annotations" not in content
    assert content["images"][0]["file_name"] == "berlin/berlin_000000_000000_leftImg8bit.png"


def test_cityscapes_on_several_processes_gives_the_same_file(cityscapes, tmp_path):
    convert_cityscapes(cityscapes, tmp_path / "1")
    convert_cityscapes(cityscapes, tmp_path / "2", processes=2)
    files = sorted(path.name for path in (tmp_path / "1").iterdir())
    assert files == [f"instancesonly_filtered_gtFine_{split}.json" for split in ("test", "train", "val")]
    assert all((tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes() for name in files)


def test_converted_cityscapes_is_read_by_its_built_in_name_like_the_label_pictures(cityscapes, tmp_path):
    convert_cityscapes(cityscapes)
    direct = build_dataset(["cityscapes_fine_instance_train"], True, root=tmp_path)
    ours = direct.read(0).target
    shutil.rmtree(cityscapes / "gtFine")  # of which the label pictures would win
    converted = build_dataset(["cityscapes_fine_instance_train"], True, root=tmp_path)
    assert (len(converted), converted.class_names) == (1, direct.class_names) == (len(direct), converted.class_names)
    theirs = converted.read(0).target
    order = [np.lexsort(t["boxes"].T) for t in (ours, theirs)]
    assert np.array_equal(ours["boxes"][order[0]], theirs["boxes"][order[1]])
    assert np.array_equal(ours["labels"][order[0]], theirs["labels"][order[1]])
    masks = [t["masks"].to_bitmaps()[o] for t, o in zip((ours, theirs), order, strict=True)]
    assert np.array_equal(*masks)


def test_a_folder_that_is_not_cityscapes_is_refused_with_what_is_expected(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds none of leftImg8bit/train, .*<city>/\*_instanceIds.png"):
        convert_cityscapes(tmp_path)


# -------------------------------------------------------------------------------------------------- images2coco


@pytest.fixture
def pictures(shared_data, tmp_path):
    """Photographs of the mmpretrain demo, one turned by EXIF, with a text file and a broken picture among them."""
    folder = tmp_path / "data" / "images"
    shutil.copytree(shared_data / "classification" / "mmpretrain_demo", folder)
    (folder / "more" / "deep").mkdir(parents=True)
    turned = Image.new("RGB", (30, 20))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(folder / "more" / "deep" / "turned.jpg", exif=exif)
    turned.save(folder / "small.PNG")
    (folder / "notes.txt").write_text("no picture")
    (folder / "broken.png").write_text("no picture either")
    (tmp_path / "classes.txt").write_text("cat\n\nbird \n")
    return folder


def test_pictures_are_listed_with_paths_from_their_folder_and_sizes_as_they_are_read(pictures, tmp_path):
    lines = convert_images(pictures, tmp_path / "classes.txt", "out.json")
    path = tmp_path / "data" / "annotations" / "out.json"
    assert str(path) in lines[0]
    assert "  left out: 1 file of other kinds" in lines
    assert [line.startswith("  left out: cannot read image") for line in lines if "broken.png" in line] == [True]
    assert len(lines) == 3
    coco = load(path)
    assert [(c["id"], c["name"]) for c in coco.dataset["categories"]] == [(1, "cat"), (2, "bird")]
    dataset = build_dataset(["t"], False, catalog={"t": entry(pictures, path)}, root=tmp_path)
    assert len(dataset) == len(coco.dataset["images"]) == 7
    for index, image in enumerate(coco.dataset["images"]):
        assert dataset.read(index).image.shape == (image["height"], image["width"], 3)
    turned = next(i for i in coco.dataset["images"] if i["file_name"] == "more/deep/turned.jpg")
    assert (turned["height"], turned["width"]) == (30, 20)


@pytest.mark.parametrize("exclude", [["png", "JPEG"], [".PNG", ".jpeg"]], ids=["words", "dots"])
def test_several_endings_are_excluded_in_any_spelling(pictures, tmp_path, exclude):
    lines = convert_images(pictures, tmp_path / "classes.txt", "out.json", exclude)
    names = {i["file_name"] for i in load(tmp_path / "data" / "annotations" / "out.json").dataset["images"]}
    assert names
    assert all(name.endswith(".jpg") for name in names)
    assert any("pictures ending in" in line for line in lines)


def test_wrong_arguments_of_images2coco_are_named(pictures, tmp_path):
    classes = tmp_path / "classes.txt"
    with pytest.raises(ValueError, match=r"OUT is 'out.jsn'; it must end in .json"):
        convert_images(pictures, classes, "out.jsn")
    with pytest.raises(FileNotFoundError, match="IMG_PATH is .*nowhere, which is not a folder"):
        convert_images(tmp_path / "nowhere", classes, "out.json")
    with pytest.raises(FileNotFoundError, match=r"^CLASSES is .*none\.txt, which is no file; it must be a text file"):
        convert_images(pictures, tmp_path / "none.txt", "out.json")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no picture to list$"):
        convert_images(tmp_path / "empty", classes, "out.json")


# --------------------------------------------------------------------------------------------------- pascal voc


@pytest.fixture
def devkit(shared_data, tmp_path):
    """The 32 real pictures of VOC 2012 in the layout of the devkit, half of them to train on."""
    source, folder = shared_data / "detection" / "voc2012_sample", tmp_path / "VOCdevkit" / "VOC2012"
    for name in ("JPEGImages", "Annotations"):
        shutil.copytree(source / name, folder / name)
    stems = sorted(path.stem for path in (folder / "Annotations").glob("*.xml"))
    lists = folder / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    for split, chosen in (("train", stems[::2]), ("val", stems[1::2]), ("trainval", stems)):
        (lists / f"{split}.txt").write_text("\n".join(chosen))
    return tmp_path / "VOCdevkit"


def objects_by_picture(coco):
    names = {c["id"]: c["name"] for c in coco.dataset["categories"]}
    files = {i["id"]: re.sub(r".*/", "", i["file_name"]) for i in coco.dataset["images"]}
    found = {}
    for a in coco.dataset["annotations"]:
        found.setdefault(files[a["image_id"]], []).append((names[a["category_id"]], *map(float, a["bbox"]), float(a["area"])))
    return {file: sorted(objects) for file, objects in found.items()}


@pytest.mark.parametrize(
    "others", ["coco_format_v1/instances_default.json", "coco_format_v2/instances_v2.json"], ids=["v1", "v2"]
)
def test_voc_boxes_are_those_that_others_write_with_corners_counted_from_0(devkit, shared_data, others):
    """Both files keep the corners of VOC, which counts from 1; widths and areas are the same."""
    convert_voc(devkit)
    ours = objects_by_picture(load(devkit / "voc12_trainval.json"))
    theirs = objects_by_picture(load(shared_data / "evaluation" / "voc_database_formats" / "gts" / others))
    assert len(ours) == 32
    for file, objects in ours.items():
        # v2 holds only some of the objects of a picture.
        moved = [(name, x + 1, y + 1, w, h, area) for name, x, y, w, h, area in objects]
        assert set(theirs[file]) <= set(moved) if "v2" in others else theirs[file] == sorted(moved)


def test_voc_difficult_objects_are_crowds_to_ignore_and_nothing_else_is(devkit):
    convert_voc(devkit)
    coco = load(devkit / "voc12_trainval.json")
    marked = sum(int(o.findtext("difficult")) for p in devkit.rglob("*.xml") for o in ET.parse(p).getroot().findall("object"))
    assert sum(a["iscrowd"] for a in coco.dataset["annotations"]) == marked > 0
    assert all(a["iscrowd"] == a["ignore"] for a in coco.dataset["annotations"])
    assert [c["name"] for c in coco.dataset["categories"]][:3] == ["aeroplane", "bicycle", "bird"]
    assert coco.dataset["images"][0]["file_name"] == "VOC2012/JPEGImages/2007_000027.jpg"


def test_both_years_are_joined_and_train_as_one_set(devkit, tmp_path):
    shutil.copytree(devkit / "VOC2012", devkit / "VOC2007")
    for path in list((devkit / "VOC2007").rglob("2007_*")):
        path.rename(path.with_name(path.name.replace("2007_", "")))
    lists = devkit / "VOC2007" / "ImageSets" / "Main"
    for path in list(lists.iterdir()):
        path.write_text(path.read_text().replace("2007_", ""))
    shutil.copy(lists / "val.txt", lists / "test.txt")
    lines = convert_voc(devkit, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *(f"{short}_{split}.json" for short in ("voc07", "voc12", "voc0712") for split in ("train", "val", "trainval")),
        "voc07_test.json",
    }
    assert any("voc0712_trainval.json: 64 images" in line for line in lines)
    catalog = {"both": entry(devkit, tmp_path / "out" / "voc0712_trainval.json")}
    dataset = build_dataset(["both"], True, catalog=catalog, root=tmp_path)
    parts = build_dataset(["voc_2007_trainval", "voc_2012_trainval"], True, root=tmp_path)
    assert dataset.class_names == parts.class_names
    assert len(dataset) == len(parts)  # pictures with difficult objects alone are left out of both
    assert len(dataset.read(0).target["boxes"]) > 0


def test_pickles_hold_the_lists_of_mmdetection(devkit):
    convert_voc(devkit, kind="pkl")
    content = pickle.loads((devkit / "voc12_trainval.pkl").read_bytes())
    assert content[0]["filename"] == "VOC2012/JPEGImages/2007_000027.jpg"
    assert (content[0]["width"], content[0]["height"]) == (486, 500)
    assert content[0]["ann"]["bboxes"].tolist() == [[173, 100, 348, 350]]
    assert content[0]["ann"]["labels"].tolist() == [14]
    assert sum(len(one["ann"]["bboxes_ignore"]) for one in content) > 0


def test_a_folder_of_ones_own_in_the_layout_of_voc_keeps_its_classes_and_tells_its_faults(shared_data, tmp_path):
    lines = convert_voc(shared_data / "detection" / "bccd_voc", tmp_path)
    coco = load(tmp_path / "voc_trainval.json")
    assert [c["name"] for c in coco.dataset["categories"]] == ["Platelets", "RBC", "WBC"]
    assert any("zero_size_box: 1" in line and "BloodImage_00343.xml" in line for line in lines)
    with pytest.raises(ValueError, match="--out-format is 'json'; allowed are coco, pkl"):
        convert_voc(shared_data, tmp_path, "json")
    with pytest.raises(FileNotFoundError, match="holds neither VOC2007/ImageSets/Main nor"):
        convert_voc(tmp_path)
