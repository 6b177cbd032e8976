"""Built-in names find the layouts of the public sets, and explain what is missing."""

from __future__ import annotations

import pytest

from pet.data.catalog import BUILT_IN, build_dataset


@pytest.fixture
def coco(shared_data, tmp_path):
    """The layout of COCO 2017 made of the small sets; the folders are links, as users make them."""
    mini, folder = shared_data / "detection/coco_mini", tmp_path / "coco"
    (folder / "annotations").mkdir(parents=True)
    for file in (mini / "annotations").iterdir():
        (folder / "annotations" / file.name).symlink_to(file)
    for split in ("train2017", "val2017"):
        (folder / split).symlink_to(mini / split)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "kind"), [("coco_2017_train", "masks"), ("coco_2017_val", "masks"), ("coco_2017_keypoints_train", "keypoints")]
)
def test_coco_is_found_through_links(coco, name, kind):
    dataset = build_dataset([name], name.endswith("train"), root=coco)
    assert kind in dataset.kinds
    assert dataset.read(0).image.ndim == 3


def test_the_environment_variable_is_the_data_root(coco, monkeypatch):
    monkeypatch.setenv("PET_DATA", str(coco))
    assert len(build_dataset(["coco_2017_val"], False)) == 22


def test_panoptic_coco_is_found(shared_data, tmp_path):
    source, folder = shared_data / "segmentation/coco128_panoptic", tmp_path / "coco"
    folder.mkdir()
    (folder / "annotations").symlink_to(source / "annotations")
    (folder / "train2017").symlink_to(source / "images/train2017")
    dataset = build_dataset(["coco_2017_panoptic_train"], True, root=tmp_path)
    assert (len(dataset), len(dataset.semseg_names), dataset.semseg_names[-1]) == (30, 54, "things")


def test_a_missing_folder_is_explained_by_what_was_expected_and_what_is_there(coco):
    (coco / "coco/train2017").unlink()
    with pytest.raises(FileNotFoundError) as caught:
        build_dataset(["coco_2017_train"], True, root=coco)
    text = str(caught.value)
    expected = f"""\
the data set 'coco_2017_train' is not there. Expected:
  {coco / "coco"}/
    annotations/
      instances_train2017.json
    train2017/   <- missing
"""
    assert text.startswith(expected)
    assert f"Found in {coco / 'coco'}:\n  annotations/\n" in text
    assert "\n    instances_val2017.json\n" in text
    assert "\n  val2017/\n" in text


def test_nested_layouts_are_shown_as_a_tree(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        build_dataset(["voc_2007_test"], False, root=tmp_path)
    expected = f"""
  {tmp_path / "VOCdevkit/VOC2007"}/
    Annotations/   <- missing
    ImageSets/
      Main/
        test.txt   <- missing
    JPEGImages/   <- missing
"""
    assert expected in str(caught.value)
    with pytest.raises(
        FileNotFoundError, match="gtFine/\n      train/  or  annotations/instancesonly_filtered_gtFine_train.json"
    ):
        build_dataset(["cityscapes_fine_instance_train"], True, root=tmp_path)


def test_names_follow_one_pattern():
    for name in (
        *("coco_2017_train", "coco_2017_keypoints_val", "coco_2017_panoptic_val", "coco_2017_stuff_train"),
        *("lvis_v1_train", "lvis_v05_val", "voc_2007_test", "voc_2012_trainval", "ade20k_train"),
        *("cityscapes_fine_instance_val", "cityscapes_fine_semantic_train", "shapes_det_train", "shapes_panoptic_val"),
    ):
        assert name in BUILT_IN
        assert BUILT_IN[name].is_train == name.endswith(("train", "trainval"))


def test_drawn_detection_sets_have_every_kind_of_label():
    train, panoptic = (build_dataset([n], True) for n in ("shapes_det_train", "shapes_panoptic_train"))
    assert train.kinds == {"label", "boxes", "masks", "keypoints", "semseg", "panoptic"}
    assert train.read(0).image.shape == (128, 128, 3)
    assert (len(train.class_names), len(train.semseg_names), len(panoptic.semseg_names)) == (10, 11, 2)
