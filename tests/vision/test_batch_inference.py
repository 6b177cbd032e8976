"""What is predicted for a picture does not depend on the other pictures of its batch, nor on processes and workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pet.data import build
from pet.vision import forward_test
from pet.vision.parts import equal_parts
from tests.vision.tiny import HEADS, assert_alike, batches, make, photographs, predictions


@pytest.mark.parametrize("head", HEADS)
def test_a_batch_of_three_predicts_as_a_batch_of_one(head: str, tmp_path: Path, shared_data: Path) -> None:
    results = []
    for size in (1, 3):
        cfg, net = make(tmp_path, head, *photographs(shared_data), f"TEST.IMS_PER_GPU={size}")
        results.append(predictions(cfg, net))
    one, three = results
    assert list(one) == list(three) == list(range(6))
    assert_alike(three, one)
    if "instances" in one[0]:
        assert all(len(found["instances"]["boxes"]) > 3 for found in one.values())


def test_pictures_are_computed_together_where_their_padding_agrees(tmp_path: Path, shared_data: Path) -> None:
    cfg, _ = make(tmp_path, "faster", *photographs(shared_data), "TEST.IMS_PER_GPU=6")
    (batch,) = batches(cfg)
    parts = equal_parts(batch)
    sizes = [tuple(part.images.tensors.shape[-2:]) for part in parts]
    assert 1 < len(parts) < 6
    assert len(set(sizes)) == len(parts)
    assert sorted(row for part in parts for row in part.rows) == list(range(6))
    for part, (height, width) in zip(parts, sizes, strict=True):
        for row, image, size in zip(part.rows, part.images.tensors, part.images.image_sizes, strict=True):
            assert (height, width) == tuple(-(-side // 16) * 16 for side in size)
            assert torch.equal(image, batch.images[row, :, :height, :width])


def test_padding_to_a_larger_neighbour_would_change_what_is_found(tmp_path: Path, shared_data: Path) -> None:
    """Why the parts are there: convolutions see more than zeros beyond the border of a picture."""
    cfg, net = make(tmp_path, "semseg", *photographs(shared_data), "TEST.IMS_PER_GPU=6")
    (batch,) = batches(cfg)
    with torch.inference_mode():
        apart = forward_test(net, batch)["semseg"]
        batch.targets.pop("padded_sizes")
        together = forward_test(net, batch)["semseg"]
    changed = [float((one != other).float().mean()) for one, other in zip(apart, together, strict=True)]
    assert max(changed) > 0.01


def test_any_number_of_processes_and_workers_gives_the_same(
    tmp_path: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*photographs(shared_data), "TEST.IMS_PER_GPU=2"]
    cfg, net = make(tmp_path, "mask", *words)
    expected, found = predictions(cfg, net), dict[int, Any]()
    cfg, net = make(tmp_path, "mask", *words, "DATA.LOADER_THREADS=2")
    monkeypatch.setattr(build, "get_world_size", lambda: 2)
    for rank in (0, 1):
        monkeypatch.setattr(build, "get_rank", lambda rank=rank: rank)
        share = predictions(cfg, net)
        assert 0 < len(share) < 6
        assert not found.keys() & share.keys()
        found.update(share)
    assert_alike(dict(sorted(found.items())), expected)
