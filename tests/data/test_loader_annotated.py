"""Loaders of annotated pictures: compositions, groups and repetitions are functions of the seed and the update alone."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest
import torch

from pet.data.collate import collate_padded
from pet.data.datasets import VisionDataset
from pet.data.loader import EvalLoader, TrainLoader
from pet.data.masks import InstanceMasks
from pet.data.structures import Batch, Sample
from pet.data.transforms import build_transforms


class Rectangles(VisionDataset):
    """Pictures of different sizes with one to three rectangles, as polygons or (odd pictures) as pixels."""

    def __init__(self) -> None:
        super().__init__("rectangles", ["a", "b"], None)

    def __len__(self) -> int:
        return 30

    def labels(self) -> np.ndarray:
        return np.ones((30, 2), bool)

    def read(self, index: int) -> Sample:
        generator = np.random.default_rng(index)
        size = tuple(generator.integers(40, 90, 2).tolist())
        count = 1 + index % 3
        corner = generator.integers(0, 20, (count, 2))
        boxes = np.concatenate([corner, corner + generator.integers(10, 20, (count, 2))], 1).astype(np.float32)
        masks = InstanceMasks.from_polygons([[[[a, b], [c, b], [c, d], [a, d]]] for a, b, c, d in boxes.tolist()], size)
        if index % 2:
            masks = InstanceMasks.from_bitmaps(masks.to_bitmaps())
        target = {"boxes": boxes, "labels": generator.integers(0, 2, count), "masks": masks, "original_size": size}
        return Sample(generator.integers(0, 256, (*size, 3), np.uint8), target, index)


def everything_on() -> list:
    names = [
        "mosaic",
        "random_horizontal_flip",
        "photometric_distort",
        "ssd_crop_and_expand",
        "det_mixup",
        "copy_paste",
        "resize",
    ]
    options = {name: {"prob": 0.6} for name in ("mosaic", "det_mixup", "copy_paste")} | {
        "resize": {"scales": (32, 48), "max_size": 64}
    }
    options["mosaic"]["size"] = 48
    return build_transforms(names, options)


def annotated_loader(**options) -> TrainLoader:
    order = {"groups": np.arange(30) % 2, "group_size": 2, "repeats": np.linspace(1, 2, 30)}
    collate = functools.partial(collate_padded, size_divisibility=16)
    return TrainLoader(Rectangles(), everything_on(), 8, seed=4, collate=collate, **order, **options)


def pictures(loader: TrainLoader, count: int, divisibility: int = 16) -> list[list[dict[str, np.ndarray]]]:
    """For each of ``count`` updates its samples without their padding, which depends on how the batch is divided."""
    windows = iter(loader)
    try:
        return [[one for batch in window for one in unpadded(batch, divisibility)] for window in itertools.islice(windows, count)]
    finally:
        windows.close()


def unpadded(batch: Batch, divisibility: int) -> list[dict[str, np.ndarray]]:
    found = []
    for i, (height, width) in enumerate(batch.targets["sizes"]):
        assert batch.images.shape[2] % divisibility == batch.images.shape[3] % divisibility == 0
        one = {name: batch.targets[name][i].numpy() for name in ("boxes", "labels", "masks")}
        found.append({**one, "image": batch.images[i, :, :height, :width].numpy(), "id": batch.ids[i].numpy()})
    return found


def alike(first: list, second: list) -> bool:
    pairs = [(a, b) for one, two in zip(first, second, strict=True) for a, b in zip(one, two, strict=True)]
    return all(np.array_equal(a[name], b[name]) for a, b in pairs for name in a)


def test_composed_samples_do_not_depend_on_workers_nor_on_where_the_run_started():
    reference = pictures(annotated_loader(num_workers=0), 9)
    assert {len(one["boxes"]) for window in reference for one in window} >= {1, 2, 3, 4, 5}
    for num_workers, start in ((1, 1), (2, 4), (3, 6), (0, 8)):
        loader = annotated_loader(num_workers=num_workers, start_iter=start)
        assert alike(pictures(loader, 10 - start), reference[start - 1 :])
    assert alike(pictures(annotated_loader(num_workers=2, accumulate=4), 4), reference[:4])
    ranks = [pictures(annotated_loader(num_workers=0, world_size=2, rank=r), 4) for r in range(2)]
    assert alike([a + b for a, b in zip(*ranks, strict=True)], reference[:4])


def test_repetitions_of_a_picture_are_augmented_differently():
    loader = TrainLoader(
        Rectangles(),
        build_transforms(["photometric_distort"]),
        30,
        num_workers=0,
        repeats=np.full(30, 2.0),
        collate=collate_padded,
    )
    both = [one for window in pictures(loader, 2, divisibility=1) for one in window]
    pairs = [[one["image"] for one in both if one["id"] == index] for index in range(30)]
    assert {len(pair) for pair in pairs} == {2}
    assert sum(np.array_equal(*pair) for pair in pairs) < 5


@pytest.mark.parametrize("num_workers", [0, 2])
def test_evaluation_batches_are_padded_too(num_workers):
    batches = list(EvalLoader(Rectangles(), (), 7, num_workers=num_workers, collate=collate_padded))
    assert torch.cat([b.ids for b in batches]).tolist() == list(range(30))
    assert [size for b in batches for size in b.targets["sizes"]] == [Rectangles().read(i).image.shape[:2] for i in range(30)]


class Large(Rectangles):
    """Masks of a batch of these travel through shared memory."""

    def read(self, index: int) -> Sample:
        sample = super().read(index)
        masks = sample.target["masks"].resize((700, 900))
        return Sample(np.zeros((700, 900, 3), np.uint8), {"masks": masks, "boxes": masks.boxes()}, index)


def test_large_masks_arrive_as_they_were_sent():
    options = {"batch_size": 4, "collate": collate_padded}
    here = list(EvalLoader(Large(), (), num_workers=0, **options))
    there = list(EvalLoader(Large(), (), num_workers=2, **options))
    for one, two in zip(here, there, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one.targets["masks"], two.targets["masks"], strict=True))
    assert there[0].targets["masks"][0].is_shared()
