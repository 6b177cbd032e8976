"""Samples to batches."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from pet.data.collate import collate, collate_padded
from pet.data.masks import InstanceMasks
from pet.data.structures import BadImageError, Batch, Sample


def sample(index: int, height: int = 6, width: int = 4, **target) -> Sample:
    image = np.random.default_rng(index).integers(0, 256, (height, width, 3), np.uint8)
    return Sample(image, target or {"label": index}, index)


def test_images_are_stacked_channels_first_and_contiguous():
    samples = [sample(i) for i in range(3)]
    samples[1].image = samples[1].image[:, ::-1]
    batch = collate(samples)
    assert batch.images.dtype == torch.uint8
    assert batch.images.is_contiguous()
    for image, one in zip(batch.images, samples, strict=True):
        assert np.array_equal(image.permute(1, 2, 0).numpy(), one.image)
    assert batch.targets["label"].tolist() == batch.ids.tolist() == [0, 1, 2]
    assert batch.targets["label"].dtype == torch.int64
    assert len(batch) == 3


def test_scores_are_stacked_and_other_labels_kept_as_lists():
    batch = collate([sample(i, scores=np.full(4, i, np.float32), boxes=np.zeros((i, 4))) for i in range(2)])
    assert batch.targets["scores"].dtype == torch.float32
    assert batch.targets["scores"].shape == (2, 4)
    assert [len(b) for b in batch.targets["boxes"]] == [0, 1]


def test_different_sizes_are_named_with_the_remedy():
    with pytest.raises(ValueError, match=r"6x4, 7x4.*'resize' followed by 'center_crop'"):
        collate([sample(0), sample(1, height=7)])


def test_different_labels_in_a_batch_are_refused():
    with pytest.raises(ValueError, match="samples 0 and 1 .* labelled alike"):
        collate([sample(0), sample(1, scores=np.zeros(2, np.float32))])


def test_a_batch_survives_pickling_and_moving():
    batch = collate([sample(0), sample(1)], [(7, "why")])
    back = pickle.loads(pickle.dumps(batch))
    assert torch.equal(back.images, batch.images)
    assert torch.equal(back.targets["label"], batch.targets["label"])
    assert torch.equal(back.ids, batch.ids)
    assert back.replaced == [(7, "why")]
    back.targets["label"][0] = 3  # writable
    moved = batch.to("meta")
    assert isinstance(moved, Batch)
    assert moved.images.device.type == moved.targets["label"].device.type == "meta"
    assert moved.ids.device.type == "cpu"


def test_a_bad_image_error_survives_pickling():
    error = pickle.loads(pickle.dumps(BadImageError("a/b c.jpg", "truncated")))
    assert (error.path, error.reason, str(error)) == ("a/b c.jpg", "truncated", "cannot read image a/b c.jpg: truncated")


# ------------------------------------------------------------------------------------------------------- padded batches


def annotated(index: int, height: int, width: int, count: int) -> Sample:
    generator = np.random.default_rng(index)
    boxes = np.tile(np.array([[1, 2, width - 1, height]], np.float32), (count, 1))
    corners = [[[x1, y1, x2, y1, x2, y2, x1, y2]] for x1, y1, x2, y2 in boxes.tolist()]
    return sample(
        index,
        height,
        width,
        boxes=boxes,
        labels=np.arange(count),
        masks=InstanceMasks.from_polygons(corners, (height, width)),
        keypoints=generator.random((count, 5, 3)).astype(np.float32),
        semseg=generator.integers(0, 9, (height, width), np.uint8),
        label=index,
        original_size=(2 * height, 2 * width),
    )


SIZES = [(20, 31, 2), (33, 17, 0), (25, 25, 3)]


@pytest.mark.parametrize(("divisibility", "expected"), [(0, (33, 31)), (1, (33, 31)), (32, (64, 32)), (5, (35, 35))])
def test_pictures_of_different_sizes_are_padded_at_the_right_and_bottom(divisibility, expected):
    samples = [annotated(i, *shape) for i, shape in enumerate(SIZES)]
    batch = collate_padded(samples, [(3, "why")], divisibility)
    assert batch.images.shape == (3, 3, *expected)
    assert batch.targets["semseg"].shape == (3, *expected)
    assert batch.targets["sizes"] == [(h, w) for h, w, _ in SIZES]
    assert batch.targets["original_sizes"] == [(2 * h, 2 * w) for h, w, _ in SIZES]
    assert "original_size" not in batch.targets
    for i, (one, (h, w, count)) in enumerate(zip(samples, SIZES, strict=True)):
        assert np.array_equal(batch.images[i, :, :h, :w].permute(1, 2, 0).numpy(), one.image)
        assert batch.images[i].sum() == one.image.sum()
        assert np.array_equal(batch.targets["semseg"][i, :h, :w].numpy(), one.target["semseg"])
        assert (batch.targets["semseg"][i] == 255).sum() == expected[0] * expected[1] - h * w
        masks = batch.targets["masks"][i]
        assert masks.shape == (count, h, w)
        assert masks.dtype == torch.uint8
        assert np.array_equal(masks.numpy(), one.target["masks"].to_bitmaps())
        assert batch.targets["boxes"][i].dtype == torch.float32
        assert batch.targets["boxes"][i].shape == (count, 4)
        assert batch.targets["labels"][i].dtype == torch.int64
        assert batch.targets["keypoints"][i].shape == (count, 5, 3)
    assert batch.targets["label"].tolist() == [0, 1, 2]
    assert batch.replaced == [(3, "why")]


def test_mirrored_pictures_and_read_only_labels_are_collated_by_copy():
    one = annotated(0, 8, 9, 2)
    one.image = one.image[:, ::-1]
    one.target["semseg"] = one.target["semseg"][:, ::-1]
    one.target["boxes"].setflags(write=False)
    batch = collate_padded([one], size_divisibility=4)
    assert np.array_equal(batch.images[0, :, :8, :9].permute(1, 2, 0).numpy(), one.image)
    assert np.array_equal(batch.targets["semseg"][0, :8, :9].numpy(), one.target["semseg"])
    batch.targets["boxes"][0][:] = 7
    assert one.target["boxes"][0, 0] == 1


def test_test_pictures_carry_their_sizes_only():
    batch = collate_padded([sample(i, original_size=(5, 6)) for i in range(2)], size_divisibility=32)
    assert batch.targets == {"original_sizes": [(5, 6)] * 2, "sizes": [(6, 4)] * 2, "padded_sizes": [(32, 32)] * 2}
    bare = collate_padded([Sample(np.zeros((3, 4, 3), np.uint8), {}, 0)])
    assert bare.targets == {"sizes": [(3, 4)], "padded_sizes": [(3, 4)]}


@pytest.mark.parametrize("shapes", [SIZES, [(700, 600, 3), (650, 800, 2)]], ids=["small", "large"])
def test_a_padded_batch_survives_pickling_and_moving(shapes):
    batch = collate_padded([annotated(i, *shape) for i, shape in enumerate(shapes)])
    back = pickle.loads(pickle.dumps(batch))
    assert torch.equal(back.images, batch.images)
    assert back.targets.keys() == batch.targets.keys()
    for name in ("boxes", "labels", "masks", "keypoints"):
        assert all(torch.equal(a, b) for a, b in zip(back.targets[name], batch.targets[name], strict=True))
    assert torch.equal(back.targets["semseg"], batch.targets["semseg"])
    assert back.targets["sizes"] == batch.targets["sizes"]
    moved = batch.to("meta")
    for name in ("boxes", "labels", "masks", "keypoints"):
        assert {tensor.device.type for tensor in moved.targets[name]} == {"meta"}
    assert moved.targets["sizes"] == batch.targets["sizes"]
    assert moved.ids.device.type == "cpu"


def test_arrays_in_lists_stay_arrays_when_pickled():
    back = pickle.loads(pickle.dumps(collate([sample(i, extra=np.arange(3)) for i in range(2)])))
    assert [type(value) for value in back.targets["extra"]] == [np.ndarray] * 2
