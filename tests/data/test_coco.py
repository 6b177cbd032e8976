"""COCO, COCO panoptic and LVIS files: the same truth as pycocotools reads, and clean samples for training."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from pet.data.catalog import build_dataset
from pet.data.datasets import CocoDataset, CocoPanopticDataset, LvisDataset
from pet.data.datasets.class_lists import COCO_KEYPOINTS, COCO_SIGMAS
from pet.data.masks import InstanceMasks

MINI = "detection/coco_mini"


def mini(shared_data, split, what="instances", is_train=False, **options):
    folder = shared_data / MINI
    return CocoDataset("mini", folder / f"{split}2017", folder / f"annotations/{what}_{split}2017.json", is_train, **options)


@pytest.fixture
def quiet_coco(shared_data, capsys):
    def load(path):
        coco = COCO(shared_data / path)
        capsys.readouterr()
        return coco

    return load


@pytest.mark.parametrize("split", ["train", "val"])
def test_truth_equals_what_pycocotools_reads(shared_data, quiet_coco, split):
    coco, dataset = quiet_coco(f"{MINI}/annotations/instances_{split}2017.json"), mini(shared_data, split)
    assert len(dataset) == len(coco.imgs)
    assert dataset.kinds == {"boxes", "masks"}
    assert not dataset.faults
    categories = sorted(coco.cats.values(), key=lambda c: c["id"])
    assert dataset.class_names == [c["name"] for c in categories]
    assert dataset.category_ids == [c["id"] for c in categories]
    for index in range(len(dataset)):
        truth = dataset.annotations(index)
        entries = coco.loadAnns(coco.getAnnIds(truth.image_id))
        assert truth.ids.tolist() == [e["id"] for e in entries]
        assert [dataset.category_ids[label] for label in truth.labels] == [e["category_id"] for e in entries]
        assert truth.crowd.tolist() == [bool(e["iscrowd"]) for e in entries]
        assert truth.areas.tolist() == [e["area"] for e in entries]
        xywh = np.array([e["bbox"] for e in entries]).reshape(-1, 4)
        assert np.allclose(truth.boxes[:, :2], xywh[:, :2], atol=1e-4)
        assert np.allclose(truth.boxes[:, 2:] - truth.boxes[:, :2], xywh[:, 2:], atol=1e-4)
        assert truth.masks.to_rles() == [text_rle(coco.annToRLE(e)) for e in entries]


def text_rle(rle):
    return {"size": list(rle["size"]), "counts": rle["counts"].decode()}


def test_training_reads_clean_instances_and_testing_the_picture_alone(shared_data):
    dataset = mini(shared_data, "train", is_train=True)
    crowded = 0
    for index in range(len(dataset)):
        truth, target = dataset.annotations(index), dataset.read(index).target
        crowded += int(truth.crowd.sum())
        assert target.keys() == {"boxes", "labels", "masks", "original_size"}
        assert len(target["labels"]) == len(target["masks"]) == (~truth.crowd).sum() > 0
        height, width = target["original_size"]
        assert (target["boxes"] >= 0).all()
        assert (target["boxes"][:, 2:] <= (width, height)).all()
        assert target["boxes"].dtype == np.float32
    assert crowded > 0
    dataset.want(())
    assert dataset.read(0).target.keys() == {"original_size"}


def test_pictures_without_an_instance_are_left_out_of_training_only(shared_data, tmp_path):
    content = json.loads((shared_data / MINI / "annotations/instances_val2017.json").read_text())
    empty, crowded = (image["id"] for image in content["images"][:2])
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != empty]
    for entry in content["annotations"]:
        entry["iscrowd"] = entry["iscrowd"] or int(entry["image_id"] == crowded)
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    folder = shared_data / MINI / "val2017"
    assert len(CocoDataset("a", folder, path, True)) == 20
    assert len(CocoDataset("a", folder, path, True, filter_empty=False)) == 22
    assert len(CocoDataset("a", folder, path, False)) == 22
    assert CocoDataset("a", folder, path, True).left_out == 2


def test_sizes_and_labels_are_known_without_reading_pictures(shared_data):
    dataset = mini(shared_data, "train", is_train=True)
    present, sizes = dataset.labels(), dataset.sizes()
    assert present.shape == (len(dataset), 80)
    for index in (0, 5, 11):
        sample = dataset.read(index)
        assert tuple(sizes[index]) == sample.image.shape[:2]
        assert set(np.flatnonzero(present[index])) == set(sample.target["labels"].tolist())
    assert dataset.instance_counts()["usable"].sum() == sum(len(dataset.read(i).target["labels"]) for i in range(len(dataset)))


def test_keypoints_come_with_names_mirror_pairs_skeleton_and_tolerances(shared_data, quiet_coco):
    coco = quiet_coco(f"{MINI}/annotations/person_keypoints_val2017.json")
    dataset = mini(shared_data, "val", "person_keypoints")
    assert dataset.kinds == {"boxes", "masks", "keypoints"}
    assert dataset.keypoint_names == COCO_KEYPOINTS
    assert dataset.flip_pairs == [(i, i + 1) for i in range(1, 17, 2)]
    assert dataset.sigmas == list(COCO_SIGMAS)
    assert (15, 13) in dataset.skeleton
    for index in range(len(dataset)):
        truth = dataset.annotations(index)
        entries = coco.loadAnns(coco.getAnnIds(truth.image_id))
        expected = np.array([e["keypoints"] for e in entries], np.float32).reshape(-1, 17, 3)
        assert np.array_equal(truth.keypoints, expected)


def test_few_keypoints_can_be_a_reason_to_leave_a_picture_out(shared_data):
    loose, strict = (mini(shared_data, "train", "person_keypoints", True, min_keypoints=n) for n in (0, 10))
    assert 0 < len(strict) < len(loose)
    for index in range(len(strict)):
        assert (strict.read(index).target["keypoints"][..., 2] > 0).sum() >= 10


def test_classes_select_and_reorder_categories(shared_data):
    dataset = mini(shared_data, "val", classes=["dog", "person"])
    everything = mini(shared_data, "val")
    assert (dataset.class_names, dataset.category_ids) == (["dog", "person"], [18, 1])
    assert not dataset.faults
    assert dataset.instance_counts()["total"].tolist() == [everything.instance_counts()["total"][i] for i in (16, 0)]
    with pytest.raises(ValueError, match="has no category 'persn', which CLASSES names. Did you mean 'person'"):
        mini(shared_data, "val", classes=["persn"])


def test_kinds_can_be_chosen_and_wrong_ones_are_named(shared_data):
    dataset = mini(shared_data, "val", kinds=["boxes"])
    assert dataset.kinds == {"boxes"}
    assert dataset.annotations(0).masks is None
    with pytest.raises(ValueError, match="KINDS names 'keypoints', but the annotations hold boxes, masks"):
        mini(shared_data, "val", kinds=["keypoints"])
    with pytest.raises(ValueError, match="mini has no semseg, which this model is trained on; it has boxes, masks"):
        mini(shared_data, "val").want({"semseg"})


def test_a_file_without_annotations_is_a_test_set_without_truth(shared_data, tmp_path):
    content = json.loads((shared_data / MINI / "annotations/instances_val2017.json").read_text())
    del content["annotations"]
    path = tmp_path / "info.json"
    path.write_text(json.dumps(content))
    dataset = CocoDataset("a", shared_data / MINI / "val2017", path, False)
    assert (len(dataset), len(dataset.class_names), dataset.kinds) == (22, 80, frozenset())
    assert len(dataset.annotations(0)) == 0
    assert dataset.read(0).target == {"original_size": dataset.read(0).image.shape[:2]}


def test_boxes_of_other_writers_are_read(shared_data):
    folder = shared_data / "evaluation/voc_database_formats/gts"
    one = CocoDataset("v1", None, folder / "coco_format_v1/instances_default.json", False)
    assert len(one) == 100
    assert len(one.class_names) == 20
    assert sum(len(one.annotations(i)) for i in range(len(one))) == one.instance_counts()["total"].sum() > 100
    with pytest.raises(FileNotFoundError, match="coco_dataset needs IMAGES"):
        CocoDataset("v1", None, folder / "coco_format_v1/instances_default.json", True)


def test_stuff_maps_are_read_beside_instances(shared_data, tmp_path):
    content = json.loads((shared_data / MINI / "annotations/instances_val2017.json").read_text())
    for image in content["images"]:
        stuff = np.full((image["height"], image["width"]), 255, np.uint8)
        stuff[: image["height"] // 2] = 156
        cv2.imwrite(str(tmp_path / image["file_name"].replace(".jpg", ".png")), stuff)
    dataset = mini(shared_data, "val", is_train=True, semseg=str(tmp_path))
    assert dataset.kinds == {"boxes", "masks", "semseg"}
    assert len(dataset.semseg_names) == 182
    assert dataset.semseg_names[156] == "sky-other"
    sample = dataset.read(0)
    assert sample.target["semseg"].shape == sample.image.shape[:2]
    assert set(np.unique(sample.target["semseg"])) == {156, 255}
    with pytest.raises(FileNotFoundError, match="SEMSEG is .*nowhere, which holds no label map"):
        mini(shared_data, "val", semseg=str(tmp_path / "nowhere"))


# ------------------------------------------------------------------------------------------------------ panoptic


def panoptic(shared_data, **options):
    folder = shared_data / "segmentation/coco128_panoptic"
    return CocoPanopticDataset("p", folder / "images/val2017", folder / "annotations/panoptic_val2017.json", **options)


def test_panoptic_segments_fill_the_semantic_maps_others_made_of_them(shared_data):
    folder, dataset = shared_data / "segmentation/coco128_panoptic", panoptic(shared_data, semantic="all")
    ids = np.array([*dataset.category_ids, *dataset.stuff_ids])
    assert (len(dataset.class_names), len(dataset.stuff_names), len(dataset.semseg_names)) == (80, 53, 133)
    for index in range(len(dataset)):
        name = dataset.path(index).rsplit("/", 1)[1].replace(".jpg", ".png")
        expected = cv2.imread(str(folder / "semantic_masks/val2017" / name), cv2.IMREAD_UNCHANGED)
        semseg = dataset.semseg(index)
        assert np.array_equal(np.where(semseg == 255, 0, ids[semseg.clip(max=132)]), expected)
        found, segments = dataset.panoptic(index)
        assert {s["id"]: s["area"] for s in segments} == {s["id"]: int((found == s["id"]).sum()) for s in segments}


def test_panoptic_things_have_the_boxes_and_masks_of_their_segments(shared_data):
    dataset = panoptic(shared_data)
    for index in range(len(dataset)):
        truth, (ids, segments) = dataset.annotations(index), dataset.panoptic(index)
        things = [s for s in segments if dataset.is_thing[s["label"]]]
        assert truth.labels.tolist() == [s["label"] for s in things]
        assert truth.crowd.tolist() == [s["crowd"] for s in things]
        for mask, segment in zip(truth.masks.to_bitmaps(), things, strict=True):
            assert np.array_equal(mask.astype(bool), ids == segment["id"])
        assert np.abs(truth.boxes - truth.masks.boxes()).max(initial=0) <= 1
        semseg = dataset.semseg(index)
        assert (semseg[np.isin(ids, [s["id"] for s in things])] == 53).all()


def test_panoptic_things_equal_the_published_conversion_to_detection(shared_data):
    folder = shared_data / "segmentation/coco_panoptic_sample"
    dataset = CocoPanopticDataset(
        "p", folder / "input_images", folder / "panoptic_examples.json", False, segments=str(folder / "panoptic_examples")
    )
    converted = json.loads((folder / "panoptic_coco_detection_format.json").read_text())["annotations"]
    for index in range(len(dataset)):
        truth = dataset.annotations(index)
        expected = [a for a in converted if a["image_id"] == truth.image_id and a["category_id"] in dataset.category_ids]
        bitmaps = truth.masks.to_bitmaps()
        assert len(bitmaps) == len(expected) > 0
        for mask, box, entry in zip(bitmaps, truth.boxes, expected, strict=True):
            assert np.array_equal(mask, InstanceMasks.from_rles([entry["segmentation"]], mask.shape).to_bitmaps()[0])
            x, y, width, height = entry["bbox"]
            assert box.tolist() == [x, y, x + width, y + height]


@pytest.mark.parametrize("semantic", ["stuff", "all"])
def test_panoptic_sets_name_things_stuff_and_the_classes_of_the_map(shared_data, semantic):
    dataset = panoptic(shared_data, semantic=semantic)
    names = dataset.class_names + dataset.stuff_names
    assert dataset.is_thing == [True] * 80 + [False] * 53
    assert len(dataset.category_ids) == 80
    assert len(set(dataset.category_ids + dataset.stuff_ids)) == 133
    assert len(dataset.semseg_names) == len(dataset.semseg_labels) == len(set(dataset.semseg_ids))
    for name, label in zip(dataset.semseg_names, dataset.semseg_labels, strict=True):
        assert name == ("things" if label < 0 else names[label])


# ---------------------------------------------------------------------------------------------------------- LVIS


def test_lvis_v05_has_frequencies_and_federated_lists(shared_data):
    path = shared_data / "detection/lvis_val_100/lvis_val_100.json"
    content, dataset = json.loads(path.read_text()), LvisDataset("l", None, path, False)
    assert (len(dataset), len(dataset.class_names)) == (100, 1230)
    assert dataset.frequency == [c["frequency"] for c in sorted(content["categories"], key=lambda c: c["id"])]
    assert dataset.instance_counts()["total"].sum() == 977
    for index, image in enumerate(content["images"]):
        truth = dataset.annotations(index)
        assert truth.file == f"val2017/{image['id']:012d}.jpg"
        assert [dataset.category_ids[c] for c in truth.negative] == image["neg_category_ids"]
        assert [dataset.category_ids[c] for c in truth.not_exhaustive] == image["not_exhaustive_category_ids"]
        assert not set(truth.negative) & set(truth.labels.tolist())


def test_lvis_v1_finds_pictures_of_both_coco_splits(tmp_path):
    images = []
    for number, split in ((9, "train2017"), (25, "val2017")):
        path = tmp_path / split / f"{number:012d}.jpg"
        path.parent.mkdir()
        cv2.imwrite(str(path), np.zeros((20, 30, 3), np.uint8))
        url = f"http://images.cocodataset.org/{split}/{path.name}"
        images.append(
            {"id": number, "coco_url": url, "height": 20, "width": 30, "neg_category_ids": [2], "not_exhaustive_category_ids": []}
        )
    box = {"bbox": [1, 2, 10, 10], "segmentation": [[1, 2, 11, 2, 11, 12, 1, 12]], "area": 100, "category_id": 1}
    content = {
        "images": images,
        "categories": [{"id": i, "name": f"c{i}", "frequency": "rcf"[i % 3]} for i in (1, 2)],
        "annotations": [{**box, "id": i, "image_id": number} for i, number in enumerate((9, 25), start=1)],
    }
    path = tmp_path / "lvis.json"
    path.write_text(json.dumps(content))
    catalog = {"l": {"TYPE": "lvis_dataset", "IMAGES": ".", "ANNOTATIONS": "lvis.json"}}
    dataset = build_dataset(["l"], True, catalog=catalog, root=tmp_path)
    assert len(dataset) == 2
    assert [dataset.read(i).image.shape for i in range(2)] == [(20, 30, 3)] * 2
    flat = LvisDataset("flat", tmp_path / "val2017", path, False)
    assert flat.read(1).image.shape == (20, 30, 3)
    assert flat.annotations(1).negative == (1,)
