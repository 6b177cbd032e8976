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


def everything(**options) -> ShapesDataset:
    return ShapesDataset("a", labels="all", **options)


def test_full_labels_describe_the_same_picture_consistently():
    plain, full = ShapesDataset("a", num_shapes=6), everything(num_shapes=6)
    for index in range(60):
        sample, truth = full.read(index), full.annotations(index)
        assert np.array_equal(sample.image, plain.read(index).image)
        t, bitmaps = sample.target, sample.target["masks"].to_bitmaps()
        count = len(t["labels"])
        assert t["boxes"].shape == (count, 4)
        assert t["keypoints"].shape == (count, len(KEYPOINT_NAMES), 3)
        assert t["labels"][-1] == t["label"]  # the main shape is on top
        assert t["original_size"] == (64, 64)
        assert bitmaps.sum(0).max() == 1
        assert truth.areas.tolist() == bitmaps.sum((1, 2)).tolist()
        for mask, box, points in zip(bitmaps, t["boxes"], t["keypoints"], strict=True):
            x0, y0, x1, y1 = box.astype(int)
            assert mask[y0:y1, x0:x1].sum() == mask.sum() > 0
            assert mask[y0, x0:x1].any()
            assert mask[y1 - 1, x0:x1].any()
            assert mask[y0:y1, x0].any()
            assert mask[y0:y1, x1 - 1].any()
            assert set(points[:, 2]) <= {0.0, 1.0, 2.0}
            assert (points[points[:, 2] > 0, :2] < 64).all()
        assert bitmaps[-1].mean() > 0.02


@pytest.mark.parametrize("semantic", ["all", "stuff"])
def test_semantic_and_panoptic_maps_tell_the_same_as_the_masks(semantic):
    dataset = everything(num_shapes=6, semantic=semantic)
    names = [*CLASS_NAMES, "background"] if semantic == "all" else ["background", "things"]
    assert dataset.semseg_names == names
    assert dataset.class_names + dataset.stuff_names == [*CLASS_NAMES, "background"]
    assert dataset.is_thing == [True] * 10 + [False]
    for index in range(20):
        truth, (ids, segments) = dataset.annotations(index), dataset.panoptic(index)
        semseg = dataset.semseg(index)
        assert np.array_equal(semseg, dataset.read(index).target["semseg"])
        assert [s["label"] for s in segments[: len(truth)]] == truth.labels.tolist()
        for segment, mask in zip(segments, truth.masks.to_bitmaps(), strict=False):
            assert np.array_equal(ids == segment["id"], mask.astype(bool))
        for segment in segments:
            inside = semseg[ids == segment["id"]]
            assert inside.size == segment["area"]
            label = dataset.semseg_labels[inside[0]]
            assert (inside == inside[0]).all()
            assert label == segment["label"] or (label == -1 and segment["label"] < 10)
        assert (ids > 0).all()


def test_labels_of_all_kinds_say_which_classes_are_visible():
    dataset = everything(num_images=40)
    present = dataset.labels()
    assert present.shape == (40, 10)
    for index in range(40):
        assert set(np.flatnonzero(present[index])) == set(dataset.annotations(index).labels.tolist())


def test_only_what_is_wanted_is_read():
    dataset = everything()
    dataset.want({"boxes", "label"})
    assert dataset.read(0).target.keys() == {"boxes", "labels", "label", "original_size"}
    dataset.want(())
    assert dataset.read(0).target.keys() == {"original_size"}
    with pytest.raises(ValueError, match="a has no mask.*Did you mean 'masks'"):
        dataset.want({"mask"})


def test_shapes_turned_little_keep_their_top_above_the_centre():
    points = np.concatenate([everything(max_angle=20.0).annotations(i).keypoints for i in range(30)])
    seen = points[(points[:, :2, 2] > 0).all(1)]
    assert (seen[:, 1, 1] < seen[:, 0, 1]).all()


def test_the_main_shape_has_its_own_colour_inside_its_mask():
    sample = everything(num_shapes=1).read(1)  # a square
    inside = sample.image[sample.target["masks"].to_bitmaps()[0].astype(bool)].astype(int)
    assert inside.std(0).max() < 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 8}, "IMAGE_SIZE is 8; allowed are 16 to 2048"),
        ({"num_shapes": 0}, "NUM_SHAPES is 0"),
        ({"labels": "boxes"}, "LABELS is 'boxes'"),
        ({"max_angle": 200}, "MAX_ANGLE is 200"),
        ({"labels": "all", "semantic": "things"}, "SEMANTIC is 'things'; allowed are 'all' and 'stuff'"),
        ({"images": "x"}, "draws its pictures"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        ShapesDataset("a", **options)
