"""What all annotated sets share: packed storage, joining, the report."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest

from pet.data.datasets import CocoDataset, ConcatDataset, ShapesDataset, VocDataset, is_annotated
from pet.data.datasets.packed import PackedRecords
from pet.data.report import data_report


@pytest.fixture
def coco(shared_data):
    def build(split, is_train=True):
        folder = shared_data / "detection/coco_mini"
        return CocoDataset(split, folder / f"{split}2017", folder / f"annotations/instances_{split}2017.json", is_train)

    return build


def test_packed_records_survive_and_are_one_buffer():
    records = [None, b"run lengths", [b"a", b"bc"], (1, 2.5, "text", True), {"k": [1, (2,)]}, []]
    packed = PackedRecords(records)
    assert [packed[i] for i in range(len(packed))] == records
    chosen = packed.select(np.array([4, 0, 3]))
    assert [chosen[i] for i in range(3)] == [records[4], records[0], records[3]]
    assert len(PackedRecords([]).select(np.zeros(0, np.int64))) == 0
    with pytest.raises(IndexError, match="outside 0 to 5"):
        packed[6]
    whole = packed._bytes
    assert whole.dtype == np.uint8
    assert whole.ndim == 1


def python_objects(value, seen):
    """Python objects reachable from ``value``; what is inside arrays is not."""
    if id(value) in seen or isinstance(value, (type, str, int, float, bool, bytes)):
        return
    seen.add(id(value))
    inside = (
        list(value.values())
        if isinstance(value, dict)
        else list(value)
        if isinstance(value, (list, tuple, set, frozenset))
        else []
    )
    for part in [*inside, *vars(value).values()] if hasattr(value, "__dict__") else inside:
        python_objects(part, seen)
    for name in getattr(type(value), "__slots__", ()):
        python_objects(getattr(value, name), seen)


def test_annotations_of_all_pictures_are_few_objects_so_that_workers_share_them(coco):
    dataset = coco("train")
    seen: set[int] = set()
    python_objects(dataset, seen)
    assert len(seen) < 60
    assert dataset.instance_counts()["total"].sum() > 300


def test_a_forked_worker_reads_what_its_parent_loaded(coco):
    dataset = coco("val")
    expected = [dataset.annotations(i) for i in range(len(dataset))]
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        found = [(t.boxes, t.masks.to_rles()) for t in map(dataset.annotations, range(len(dataset)))]
        os.write(writer, str(hash(pickle.dumps(found)) and len(found)).encode())
        os._exit(0 if all(np.array_equal(a[0], b.boxes) for a, b in zip(found, expected, strict=True)) else 1)
    os.close(writer)
    assert os.waitpid(child, 0)[1] == 0
    assert os.read(reader, 100) == str(len(dataset)).encode()
    os.close(reader)


def test_joined_sets_forward_everything(coco):
    one, two = coco("train"), coco("val")
    both = ConcatDataset([one, two])
    assert is_annotated(both)
    assert len(both) == len(one) + len(two)
    assert both.kinds == one.kinds
    assert both.category_ids == one.category_ids
    assert both.sizes().shape == (len(both), 2)
    assert both.labels().shape == (len(both), 80)
    assert both.instance_counts()["total"].sum() == sum(d.instance_counts()["total"].sum() for d in (one, two))
    last = len(both) - 1
    assert both.annotations(last).file == two.annotations(len(two) - 1).file == both.describe(last) == both.path(last)
    sample = both.read(last)
    assert sample.id == last
    assert np.array_equal(sample.target["boxes"], two.read(len(two) - 1).target["boxes"])
    both.want({"boxes"})
    assert one.wanted == two.wanted == both.wanted == {"boxes"}
    assert both.read(0).target.keys() == {"boxes", "labels", "original_size"}


def test_ids_stay_unique_when_a_set_is_joined_with_itself(coco):
    dataset = coco("val")
    twice = ConcatDataset([dataset, coco("val")])
    truths = [twice.annotations(i) for i in range(len(twice))]
    assert len({t.image_id for t in truths}) == len(twice)
    ids = np.concatenate([t.ids for t in truths])
    assert len(np.unique(ids)) == len(ids)
    once = ConcatDataset([dataset, coco("train")])
    assert [once.image_id(i) for i in range(len(dataset))] == [dataset.image_id(i) for i in range(len(dataset))]


def test_faults_of_joined_sets_are_added(shared_data):
    folder = shared_data / "detection/bccd_voc"
    both = ConcatDataset([VocDataset("a", folder, image_set="train"), VocDataset("b", folder, image_set="trainval")])
    assert dict(both.faults) == {"zero_size_box": 2}
    assert "BloodImage_00343" in both.fault_examples["zero_size_box"]


def test_sets_whose_semantic_classes_differ_are_not_joined():
    sets = [ShapesDataset(s, labels="all", num_images=4, semantic=s) for s in ("all", "stuff")]
    with pytest.raises(ValueError, match="must have the same semseg_names, but all has .* and stuff has .*11 and 2"):
        ConcatDataset(sets)


def test_classification_sets_are_joined_as_before():
    both = ConcatDataset([ShapesDataset("a", num_images=4), ShapesDataset("b", num_images=6)])
    assert not is_annotated(both)
    assert both.labels().tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 4, 5]
    assert both.read(5).target == {"label": 1}


def test_the_report_counts_instances_classes_and_empty_pictures(coco):
    report = "\n".join(data_report(coco("val", is_train=False), 80, "full"))
    assert "val: 22 images in " in report
    assert "boxes, masks" in report
    assert "80 classes: person, bicycle" in report
    assert "195 instances, " in report
    assert "classes have no instance" in report
    assert "no annotation faults" in report
    assert "22 of 22 images can be read and fit their annotations" in report
    assert len(data_report(coco("val"), 80, "off")) == 2
    unseen = "  not looked for: unreadable_image, image_size_mismatch; DATA.CHECK full opens every picture"
    assert data_report(coco("val"), 80, "fast")[-1] == unseen
    assert "not looked for" not in report


def test_the_report_of_bccd_shows_its_fault(shared_data):
    report = "\n".join(data_report(VocDataset("bccd", shared_data / "detection/bccd_voc"), 3))
    assert "zero_size_box: 1 (a box without width or height; left out), e.g. " in report
    assert "BloodImage_00343.xml" in report
    assert "instances a class: Platelets " in report


def test_the_report_of_drawn_shapes_names_all_kinds_of_classes():
    dataset = ShapesDataset("s", labels="all", num_images=20, semantic="stuff")
    report = "\n".join(data_report(dataset, 10, "full"))
    assert "10 classes: circle" in report
    assert "2 classes of the semantic map: background, things" in report
    assert "5 keypoints, 1 pairs" in report
