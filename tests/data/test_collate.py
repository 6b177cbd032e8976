"""Samples to batches."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from pet.data.collate import collate
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
