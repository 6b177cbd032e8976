"""Samples to a batch with one copy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import get_worker_info

from pet.data.structures import INLINE_BYTES, Batch, Sample


def empty_images(shape: tuple[int, int, int, int]) -> torch.Tensor:
    """An uninitialised uint8 tensor; a large one lies in shared memory inside a loader worker, so sending it copies nothing."""
    size = int(np.prod(shape))
    if get_worker_info() is None or size <= INLINE_BYTES:
        return torch.empty(shape, dtype=torch.uint8)
    storage: torch.UntypedStorage = torch.UntypedStorage._new_shared(size)  # type: ignore[no-untyped-call]
    return torch.empty(0, dtype=torch.uint8).set_(storage).view(shape)


def collate(samples: Sequence[Sample], replaced: list[tuple[int, str]] | None = None) -> Batch:
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
    ids = torch.from_numpy(np.fromiter((s.id for s in samples), np.int64, len(samples)))
    return Batch(images, collate_targets(samples), ids, replaced or [])


def collate_targets(samples: Sequence[Sample]) -> dict[str, torch.Tensor | list[Any]]:
    """Stack targets by name: ``label`` to (N,) int64, ``scores`` to (N, C) float32, anything else to a list."""
    names = samples[0].target.keys()
    for sample in samples:
        if sample.target.keys() != names:
            raise ValueError(
                f"samples {samples[0].id} and {sample.id} of one batch carry different labels: "
                f"{sorted(names)} and {sorted(sample.target)}; data sets trained together must be labelled alike"
            )
    targets: dict[str, torch.Tensor | list[Any]] = {}
    for name in names:
        values = [sample.target[name] for sample in samples]
        if name == "label":
            targets[name] = torch.tensor(values, dtype=torch.int64)
        elif name == "scores":
            targets[name] = torch.from_numpy(np.stack(values))
        else:
            targets[name] = values
    return targets
