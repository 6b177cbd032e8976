"""Every annotation fault is counted under its name, shown with an example, and kept away from training."""

from __future__ import annotations

import copy
import json

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from pet.data.datasets import CocoDataset, CocoPanopticDataset, VocDataset
from pet.data.datasets.annotation_faults import FAULTS, unpack_counts
from pet.data.report import data_report
from pet.data.structures import BadImageError
from tests.data.test_voc import write_devkit

HEIGHT, WIDTH = 30, 40
SQUARE = [5, 5, 15, 5, 15, 15, 5, 15]


def content():
    """Two pictures with one good instance each."""
    good = {"bbox": [5, 5, 10, 10], "category_id": 7, "area": 100, "iscrowd": 0, "segmentation": [SQUARE]}
    points = {"keypoints": [6, 6, 2, 8, 8, 1], "num_keypoints": 2}
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "height": HEIGHT, "width": WIDTH} for i in (1, 2)],
        "categories": [{"id": 7, "name": "thing", "keypoints": ["left_end", "right_end"], "skeleton": [[1, 2]]}],
        "annotations": [{**copy.deepcopy(good), **points, "id": i, "image_id": i} for i in (1, 2)],
    }


@pytest.fixture
def folder(tmp_path):
    for name in ("1.png", "2.png"):
        cv2.imwrite(str(tmp_path / name), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    return tmp_path


def build(folder, data, is_train=True, **options):
    path = folder / "annotations.json"
    path.write_text(json.dumps(data))
    return CocoDataset("faulty", folder, path, is_train, **options)


ANNOTATION_FAULTS = {
    "zero_size_box": {"bbox": [5, 5, 0, 10]},
    "negative_size_box": {"bbox": [5, 5, -3, 10]},
    "nan_box": {"bbox": [5, float("nan"), 3, 10]},
    "box_outside_image": {"bbox": [100, 5, 3, 10]},
    "unknown_category": {"category_id": 8},
    "duplicate_annotation_id": {"id": 1},
    "unknown_image": {"image_id": 99},
    "empty_polygon": {"segmentation": [[1, 1, 2, 2]]},
    "missing_mask": {"segmentation": []},
    "nan_polygon": {"segmentation": [[1, 1, 2, 2, 3, float("nan")]]},
    "bad_rle": {"segmentation": {"size": [HEIGHT, WIDTH], "counts": [10, 20]}},
    "nan_keypoint": {"keypoints": [1, 1, 2, float("nan"), 8, 2]},
    "wrong_keypoint_count": {"keypoints": [1, 1, 2]},
    "missing_field": {"bbox": [5, 5, None, 10]},
}


@pytest.mark.parametrize("is_train", [True, False], ids=["train", "test"])
@pytest.mark.parametrize("fault", ANNOTATION_FAULTS)
def test_a_faulty_annotation_is_counted_shown_and_left_out(folder, fault, is_train):
    data = content()
    data["annotations"].append({**copy.deepcopy(data["annotations"][0]), "id": 3, **ANNOTATION_FAULTS[fault]})
    dataset = build(folder, data, is_train)
    assert dict(dataset.faults) == {fault: 1}
    assert "annotations.json, annotation" in dataset.fault_examples[fault]
    assert [len(dataset.annotations(i)) for i in range(2)] == [1, 1]
    report = "\n".join(data_report(dataset, 1))
    assert "warning: 1 annotation faults" in report
    assert f"{fault}: 1 (" in report
    assert dataset.fault_examples[fault] in report


def test_several_polygons_survive_a_bad_one_among_them(folder):
    data = content()
    data["annotations"][0]["segmentation"] = [[1, 1], SQUARE, [1, 2, 3, 4, 5, 6, 7]]
    dataset = build(folder, data)
    assert dict(dataset.faults) == {"empty_polygon": 2}
    assert dataset.annotations(0).masks.areas().tolist() == [100]


def test_a_box_beyond_the_picture_is_cut_for_training_and_kept_for_evaluation(folder):
    data = content()
    data["annotations"][0]["bbox"] = [-4, 20, 20, 30]
    dataset = build(folder, data)
    assert dict(dataset.faults) == {"box_partly_outside": 1}
    assert dataset.read(0).target["boxes"].tolist() == [[0, 20, 16, 30]]
    assert dataset.annotations(0).boxes.tolist() == [[-4, 20, 16, 50]]


def test_faults_of_kinds_that_are_not_read_do_not_matter(folder):
    data = content()
    data["annotations"][0] |= {"segmentation": [], "keypoints": [1]}
    assert not build(folder, data, kinds=["boxes"]).faults


def test_a_picture_without_a_file_is_left_out_of_training(folder):
    data = content()
    (folder / "2.png").unlink()
    dataset = build(folder, data)
    assert dict(dataset.faults) == {"missing_image_file": 1}
    assert dataset.fault_examples["missing_image_file"] == str(folder / "2.png")
    assert len(dataset) == 1
    tested = build(folder, data, False)
    assert len(tested) == 2
    assert "missing_image_file: 1 (" in "\n".join(data_report(tested, 1, "full"))
    (folder / "1.png").unlink()
    with pytest.raises(FileNotFoundError, match="none of the 2 pictures .* e.g. '1.png'; IMAGES must be"):
        build(folder, data)


def test_a_picture_of_another_size_is_refused_with_both_sizes(folder):
    cv2.imwrite(str(folder / "2.png"), np.zeros((20, 25, 3), np.uint8))
    dataset = build(folder, content())
    with pytest.raises(BadImageError, match=r"2.png: it is 20x25 pixels .* annotations are for 30x40"):
        dataset.read(1)
    assert not dataset.faults
    report = "\n".join(data_report(dataset, 1, "full"))
    assert "image_size_mismatch: 1 (" in report
    assert "1 of 2 images can be read" in report


def test_images_with_missing_fields_or_repeated_ids_are_left_out(folder):
    data = content()
    data["images"] += [{"id": 3, "height": 5, "width": 5}, {**data["images"][0]}, "5.png"]
    dataset = build(folder, data)
    assert dict(dataset.faults) == {"missing_field": 2, "duplicate_image_id": 1}
    assert len(dataset) == 2


def test_a_size_that_is_not_given_comes_from_the_file(folder):
    data = content()
    for image in data["images"]:
        del image["height"]
    dataset = build(folder, data)
    assert dataset.sizes().tolist() == [[HEIGHT, WIDTH]] * 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"categories": []}, "has annotations but no categories"),
        ({"categories": [{"id": "x"}]}, "a category needs a whole-number 'id' and a 'name'"),
        ({"images": None}, "is not a COCO annotation file"),
        ({"annotations": []}, "none of 2 pictures has an instance to train on"),
    ],
    ids=["no_categories", "bad_category", "no_images", "no_annotations"],
)
def test_a_file_that_cannot_be_used_is_refused(folder, change, message):
    with pytest.raises(ValueError, match=message):
        build(folder, {**content(), **change})


def test_a_file_that_is_no_json_is_refused(folder):
    (folder / "a.json").write_text("{")
    with pytest.raises(ValueError, match="a.json is not JSON"):
        CocoDataset("a", folder, folder / "a.json")


# ---------------------------------------------------------------------------------------------------- run lengths


def random_mask(rng):
    return np.asfortranarray((rng.random((HEIGHT, WIDTH)) < rng.uniform(0, 1)).astype(np.uint8))


def test_run_lengths_are_read_as_pycocotools_writes_them():
    rng = np.random.default_rng(0)
    for _ in range(50):
        mask = random_mask(rng)
        runs = unpack_counts(coco_mask.encode(mask)["counts"])
        flat = np.repeat(np.arange(len(runs)) % 2, runs)
        assert np.array_equal(flat, mask.ravel(order="F"))
    wide = np.zeros((3000, 3000), np.uint8, order="F")
    wide[:, 1500:] = 1
    assert unpack_counts(coco_mask.encode(wide)["counts"]).tolist() == [4_500_000, 4_500_000]


@pytest.mark.parametrize(
    "segmentation",
    [
        {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH, 1]},
        {"size": [HEIGHT, WIDTH], "counts": [-1, HEIGHT * WIDTH + 1]},
        {"size": [WIDTH, HEIGHT], "counts": [HEIGHT * WIDTH]},
        {"size": [HEIGHT, WIDTH], "counts": "not run lengths at all"},
        {"size": [HEIGHT, WIDTH], "counts": ""},
        {"size": [HEIGHT, WIDTH], "counts": "PPPPPPPPPPPPPPPPPPP0"},
        {"size": [HEIGHT, WIDTH], "counts": "äöü"},
        {"size": [HEIGHT, WIDTH], "counts": 5},
        {"counts": [HEIGHT * WIDTH]},
        {},
    ],
    ids=["too_long", "negative", "other_size", "text", "empty", "endless", "not_ascii", "number", "no_size", "nothing"],
)
def test_damaged_run_lengths_never_reach_a_decoder(folder, segmentation):
    data = content()
    data["annotations"].append({**data["annotations"][0], "id": 3, "segmentation": segmentation})
    dataset = build(folder, data)
    assert dict(dataset.faults) == {"bad_rle": 1}
    assert len(dataset.annotations(0)) == 1


def test_good_run_lengths_of_either_form_become_masks(folder):
    mask = random_mask(np.random.default_rng(1))
    compressed = coco_mask.encode(mask)
    text = {"size": [HEIGHT, WIDTH], "counts": compressed["counts"].decode()}
    plain = {"size": [HEIGHT, WIDTH], "counts": unpack_counts(compressed["counts"]).tolist()}
    data = content()
    for number, segmentation in ((3, text), (4, plain)):
        data["annotations"].append({**data["annotations"][0], "id": number, "segmentation": segmentation})
    dataset = build(folder, data)
    assert not dataset.faults
    bitmaps = dataset.annotations(0).masks.to_bitmaps()
    assert np.array_equal(bitmaps[1], mask)
    assert np.array_equal(bitmaps[2], mask)


# ------------------------------------------------------------------------------------------------ XML and panoptic


def test_faulty_xml_is_counted_shown_and_left_out(tmp_path):
    good = ("dog", 0, 5, 5, 20, 20)
    folder = write_devkit(
        tmp_path,
        {
            "a": [good, ("dog", 0, 7, 7, 7, 9), ("dog", 0, 9, 9, 5, 12), ("dog", 0, 60, 5, 70, 9), ("dog", 0, "nan", 1, 5, 5)],
            "b": [good, ("dgo", 0, 5, 5, 9, 9), ("dog", 0, "five", 1, 9, 9), ("dog", 0, 30, 20, 50, 40)],
            "c": [good],
        },
    )
    (folder / "Annotations/c.xml").write_text("<annotation><object>")
    (folder / "ImageSets/Main/all.txt").write_text("a\nb\nc\nd\n")
    dataset = VocDataset("v", folder, image_set="all", classes=["dog"])
    assert dict(dataset.faults) == {
        **dict.fromkeys(("zero_size_box", "negative_size_box", "box_outside_image", "nan_box", "unknown_category"), 1),
        **dict.fromkeys(("missing_field", "malformed_xml", "missing_annotation_file", "box_partly_outside"), 1),
    }
    assert "a.xml, object 3 (dog" in dataset.fault_examples["negative_size_box"]
    assert "b.xml, object 2 (dgo" in dataset.fault_examples["unknown_category"]
    assert "c.xml" in dataset.fault_examples["malformed_xml"]
    assert [dataset.image_id(i) for i in range(len(dataset))] == ["a", "b"]
    assert [len(dataset.annotations(i)) for i in range(2)] == [1, 2]


def test_faulty_panoptic_segments_are_counted_and_left_out(tmp_path):
    segments = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    segments[:10, :, 2], segments[10:, :, 1] = 1, 1  # OpenCV writes BGR: ids 1 and 256
    (tmp_path / "maps").mkdir()
    cv2.imwrite(str(tmp_path / "maps/1.png"), segments)
    cv2.imwrite(str(tmp_path / "1.png"), segments)
    good = {"id": 1, "category_id": 1, "bbox": [0, 0, WIDTH, 10], "area": 400, "iscrowd": 0}
    infos = [
        good,
        {**good, "id": 256, "category_id": 2},
        {**good, "id": 3, "category_id": 9},
        {**good},
        {**good, "id": 4, "bbox": [0, 0, 0, 0]},
    ]
    data = {
        "images": [{"id": 1, "file_name": "1.png", "height": HEIGHT, "width": WIDTH}],
        "categories": [{"id": 1, "name": "cat", "isthing": 1}, {"id": 2, "name": "sky", "isthing": 0}],
        "annotations": [
            {"image_id": 1, "file_name": "1.png", "segments_info": infos},
            {"image_id": 5, "file_name": "1.png", "segments_info": []},
        ],
    }
    (tmp_path / "p.json").write_text(json.dumps(data))
    dataset = CocoPanopticDataset("p", tmp_path, tmp_path / "p.json", segments=str(tmp_path / "maps"))
    assert dict(dataset.faults) == {
        **dict.fromkeys(("unknown_category", "duplicate_annotation_id", "zero_size_box", "unknown_image"), 1)
    }
    assert len(dataset.read(0).target["labels"]) == 1
    assert np.bincount(dataset.semseg(0).ravel()).tolist() == [20 * WIDTH, 10 * WIDTH]


def test_a_segment_without_a_pixel_is_counted_by_a_full_check_and_not_trained_on(tmp_path):
    (tmp_path / "maps").mkdir()
    segments = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    segments[:10, :, 2] = 1
    cv2.imwrite(str(tmp_path / "maps/1.png"), segments)
    cv2.imwrite(str(tmp_path / "1.png"), segments)
    there = {"id": 1, "category_id": 1, "bbox": [0, 0, WIDTH, 10], "area": 400, "iscrowd": 0}
    entry = {"image_id": 1, "file_name": "1.png", "segments_info": [there, {**there, "id": 7}]}
    data = {
        "images": [{"id": 1, "file_name": "1.png", "height": HEIGHT, "width": WIDTH}],
        "categories": [{"id": 1, "name": "cat", "isthing": 1}],
        "annotations": [entry],
    }
    (tmp_path / "p.json").write_text(json.dumps(data))
    dataset = CocoPanopticDataset("p", tmp_path, tmp_path / "p.json", segments=str(tmp_path / "maps"))
    target = dataset.read(0).target
    assert [len(target[name]) for name in ("boxes", "labels", "masks")] == [1, 1, 1]
    assert any("missing_segment: 1" in line and "segment 7" in line for line in data_report(dataset, 1, "full"))


def test_every_fault_says_what_it_means():
    names = set(ANNOTATION_FAULTS) | {"box_partly_outside", "missing_image_file", "image_size_mismatch", "malformed_xml"}
    assert names <= FAULTS.keys()
    assert len(names) >= 14
