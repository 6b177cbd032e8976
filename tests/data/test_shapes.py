"""Drawn pictures: pure functions of seed, split and index, with labels that fit together."""

from __future__ import annotations

import numpy as np
import pytest

from pet.data.datasets.shapes import CLASS_NAMES, KEYPOINT_NAMES, ShapesDataset


def test_a_picture_is_a_pure_function_of_seed_split_and_index():
    first, again = ShapesDataset("a"), ShapesDataset("b")
    assert np.array_equal(first.read(7).image, first.read(7).image)
    assert np.array_equal(first.read(7).image, again.read(7).image)
    for other in (ShapesDataset("a", is_train=False), ShapesDataset("a", seed=1)):
        assert not np.array_equal(first.read(7).image, other.read(7).image)


def test_classes_are_balanced_and_labels_need_no_drawing():
    dataset = ShapesDataset("a", num_images=200)
    labels = dataset.labels()
    assert len(CLASS_NAMES) >= 8
    assert np.bincount(labels).tolist() == [20] * len(CLASS_NAMES)
    assert [dataset.read(i).target["label"] for i in range(30)] == labels[:30].tolist()
    assert dataset.read(3).target.keys() == {"label"}
    assert (len(ShapesDataset("a")), len(ShapesDataset("a", is_train=False))) == (4000, 1000)


def test_full_labels_describe_the_same_picture_consistently():
    plain, full = ShapesDataset("a", num_shapes=6), ShapesDataset("a", num_shapes=6, labels="all")
    for index in range(60):
        sample = full.read(index)
        assert np.array_equal(sample.image, plain.read(index).image)
        t = sample.target
        count = len(t["labels"])
        assert t["boxes_xyxy"].shape == (count, 4)
        assert t["keypoints"].shape == (count, len(KEYPOINT_NAMES), 3)
        assert t["labels"][-1] == t["label"]  # the main shape is on top
        assert t["masks"].sum(0).max() == 1
        assert np.array_equal(t["panoptic"], (t["masks"] * np.arange(1, count + 1)[:, None, None]).sum(0))
        for mask, box, points in zip(t["masks"], t["boxes_xyxy"], t["keypoints"], strict=True):
            x0, y0, x1, y1 = box.astype(int)
            assert mask[y0:y1, x0:x1].sum() == mask.sum() > 0
            assert mask[y0, x0:x1].any()
            assert mask[y1 - 1, x0:x1].any()
            assert mask[y0:y1, x0].any()
            assert mask[y0:y1, x1 - 1].any()
            assert set(points[:, 2]) <= {0.0, 1.0, 2.0}
            assert (points[points[:, 2] > 0, :2] < 64).all()
        assert len(np.unique(t["masks"][-1])) == 2
        assert t["masks"][-1].mean() > 0.02


def test_the_main_shape_has_its_own_colour_inside_its_mask():
    sample = ShapesDataset("a", num_shapes=1, labels="all").read(1)  # a square
    inside = sample.image[sample.target["masks"][0]].astype(int)
    assert inside.std(0).max() < 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 8}, "IMAGE_SIZE is 8; allowed are 16 to 2048"),
        ({"num_shapes": 0}, "NUM_SHAPES is 0"),
        ({"labels": "boxes"}, "LABELS is 'boxes'"),
        ({"images": "x"}, "draws its pictures"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        ShapesDataset("a", **options)
