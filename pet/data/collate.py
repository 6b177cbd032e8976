"""Samples to a batch with one copy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import get_worker_info

from pet.data.masks import InstanceMasks
from pet.data.structures import INLINE_BYTES, Batch, Sample

Replaced = list[tuple[int, str]]
Collate = Callable[[Sequence[Sample], Replaced], Batch]
Targets = dict[str, torch.Tensor | list[Any]]
Size = tuple[int, int]  # (height, width)

_NOT_JUDGED = 255


def empty_images(shape: tuple[int, ...]) -> torch.Tensor:
    """An uninitialised uint8 tensor; a large one lies in shared memory inside a loader worker, so sending it copies nothing."""
    size = int(np.prod(shape))
    if get_worker_info() is None or size <= INLINE_BYTES:
        return torch.empty(shape, dtype=torch.uint8)
    storage: torch.UntypedStorage = torch.UntypedStorage._new_shared(size)  # type: ignore[no-untyped-call]
    return torch.empty(0, dtype=torch.uint8).set_(storage).view(shape)


def collate(samples: Sequence[Sample], replaced: Replaced | None = None) -> Batch:
    """Stack samples of one size into a batch.

    Args:
        samples: at least one; images (H, W, 3) uint8 of equal size, targets with equal names.
        replaced: passed on to the batch.

    Raises:
        ValueError: the images differ in size, or the targets in their names.
    """
    shape = samples[0].image.shape
    for sample in samples:
        if sample.image.shape != shape:
            sizes = sorted({s.image.shape[:2] for s in samples})
            shown = ", ".join(f"{h}x{w}" for h, w in sizes[:6]) + (", ..." if len(sizes) > 6 else "")
            raise ValueError(
                f"images of one batch differ in size (height x width): {shown}. End the transforms with one that fixes the size: "
                "'random_resized_crop', or 'resize' followed by 'center_crop' or 'random_crop', or 'resize' with "
                "SCALES_SAMPLING force_size"
            )
    height, width, channels = shape
    images = empty_images((len(samples), channels, height, width))
    planes = images.numpy()
    for plane, sample in zip(planes, samples, strict=True):
        cv2.split(sample.image, list(plane))
    return Batch(images, collate_targets(samples), _ids(samples), replaced or [])


def collate_targets(samples: Sequence[Sample]) -> Targets:
    """Stack targets by name: ``label`` to (N,) int64, ``scores`` to (N, C) float32, anything else to a list."""
    targets: Targets = {}
    for name in _common_names(samples):
        values = [sample.target[name] for sample in samples]
        if name == "label":
            targets[name] = torch.tensor(values, dtype=torch.int64)
        elif name == "scores":
            targets[name] = torch.from_numpy(np.stack(values))
        else:
            targets[name] = values
    return targets


def collate_padded(samples: Sequence[Sample], replaced: Replaced | None = None, size_divisibility: int = 0) -> Batch:
    """Samples of different sizes to a batch, padded at the right and at the bottom.

    Args:
        samples: at least one; images (h, w, 3) uint8, targets with equal names.
        replaced: passed on to the batch.
        size_divisibility: height and width of the batch are rounded up to a multiple of it; 0 or 1: no rounding.

    Returns:
        ``images`` (N, 3, H, W) padded with 0. Of ``targets``: ``sizes``, the part of each image that is not padding,
        ``padded_sizes``, what it would be padded to in a batch by itself, and ``original_sizes``, lists of (height, width);
        ``boxes``, ``labels``, ``keypoints`` and ``masks`` (K, h, w) uint8, lists of tensors; ``semseg`` (N, H, W) uint8 padded
        with 255; the rest as in ``collate_targets``.

    Raises:
        ValueError: the targets differ in their names.
    """
    sizes = [(int(sample.image.shape[0]), int(sample.image.shape[1])) for sample in samples]
    step = max(size_divisibility, 1)
    padded = [(-(-h // step) * step, -(-w // step) * step) for h, w in sizes]
    height, width = (max(sides) for sides in zip(*padded, strict=True))
    images = empty_images((len(samples), samples[0].image.shape[2], height, width))
    for planes, sample, (h, w) in zip(images.numpy(), samples, sizes, strict=True):
        cv2.split(sample.image, [plane[:h, :w] for plane in planes])
        planes[:, h:] = 0
        planes[:, :h, w:] = 0
    targets = collate_targets(samples)
    if "original_size" in targets:
        targets["original_sizes"] = [(int(h), int(w)) for h, w in targets.pop("original_size")]
    for name in ("boxes", "labels", "keypoints"):
        if name in targets:
            # A copy: the arrays may be views of the data set, which tensors could write to.
            targets[name] = [torch.from_numpy(np.array(value)) for value in targets[name]]
    if "masks" in targets:
        targets["masks"] = _paint([sample.target["masks"] for sample in samples])
    if "semseg" in targets:
        targets["semseg"] = _pad_maps([sample.target["semseg"] for sample in samples], (height, width))
    targets["sizes"], targets["padded_sizes"] = sizes, padded
    return Batch(images, targets, _ids(samples), replaced or [])


def _ids(samples: Sequence[Sample]) -> torch.Tensor:
    return torch.from_numpy(np.fromiter((s.id for s in samples), np.int64, len(samples)))


def _common_names(samples: Sequence[Sample]) -> list[str]:
    """Names of the targets; ``ValueError`` if the samples differ in them."""
    names = samples[0].target.keys()
    for sample in samples:
        if sample.target.keys() != names:
            raise ValueError(
                f"samples {samples[0].id} and {sample.id} of one batch carry different labels: "
                f"{sorted(names)} and {sorted(sample.target)}; data sets trained together must be labelled alike"
            )
    return list(names)


def _paint(masks: Sequence[InstanceMasks]) -> list[torch.Tensor]:
    """The masks of each picture as (K, h, w) uint8; all in one piece of memory, so that a worker sends one handle."""
    shapes = [(len(one), *one.size) for one in masks]
    counts = [int(np.prod(shape)) for shape in shapes]
    parts = torch.split_with_sizes(empty_images((sum(counts),)).zero_(), counts)
    for part, shape, one in zip(parts, shapes, masks, strict=True):
        one.to_bitmaps(out=part.numpy().reshape(shape))
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


def _pad_maps(maps: Sequence[npt.NDArray[np.uint8]], size: Size) -> torch.Tensor:
    padded = empty_images((len(maps), *size))
    for target, labels in zip(padded.numpy(), maps, strict=True):
        height, width = labels.shape
        target[:height, :width] = labels
        target[height:] = _NOT_JUDGED
        target[:height, width:] = _NOT_JUDGED
    return padded
