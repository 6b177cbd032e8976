"""Several views of every test picture: test-time augmentation from the side of the data.

A picture is decoded once; each view is made from its pixels and stays uint8. How the predictions of the views become one is the
matter of a domain's ``forward_test``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pet.data.collate import Collate, Replaced
from pet.data.masks import mirror
from pet.data.structures import Batch, Sample
from pet.data.transforms.annotations import flip_target
from pet.data.transforms.geometry import size_of

FLIPS = ("horizontal", "vertical", "diagonal")


def mirrored_sides(flip: str) -> tuple[bool, bool]:
    """Whether ``flip`` exchanges left and right, and top and bottom; ``diagonal`` does both, the empty name neither."""
    return flip in ("horizontal", "diagonal"), flip in ("vertical", "diagonal")


@dataclass(slots=True)
class ViewedSample:
    """The views of one picture."""

    views: list[Sample]


class MakeViews:
    """A picture at every scale as it is, then mirrored; the last link in a chain of transforms.

    Args:
        scales: the transforms that make each scale from the decoded picture.
        flips: names of ``FLIPS``; mirroring comes after the transforms.
        flip_pairs: keypoints that change places in a mirror.
    """

    def __init__(
        self, scales: Sequence[Sequence[Any]], flips: Sequence[str] = (), flip_pairs: Sequence[tuple[int, int]] = ()
    ) -> None:
        self.scales, self.flip_pairs = [list(transforms) for transforms in scales], tuple(flip_pairs)
        self.flips = ("", *flips)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> ViewedSample:
        """The views, the one of the first scale first."""
        views = []
        for transforms in self.scales:
            view = sample
            for transform in transforms:
                view = transform(view, rng)
            views += [self._mirrored(view, flip) for flip in self.flips]
        return ViewedSample(views)

    def _mirrored(self, view: Sample, flip: str) -> Sample:
        if not flip:
            return view
        sides = mirrored_sides(flip)
        return Sample(mirror(view.image, *sides), flip_target(view.target, size_of(view), *sides, self.flip_pairs), view.id)

    def collate(self, collate: Collate, samples: Sequence[Any], replaced: Replaced | None = None) -> ViewBatch:
        """Viewed samples to a batch for each view, joined by ``collate``."""
        count = len(samples[0].views)
        batches = [collate([sample.views[view] for sample in samples], replaced or []) for view in range(count)]
        return ViewBatch(batches, list(self.flips) * len(self.scales), self.flip_pairs)


@dataclass(slots=True)
class ViewBatch:
    """The same pictures in several views; for those who ask for one ``Batch`` it is the first, which is never mirrored.

    Attributes:
        views: a batch for each view, the pictures in the same order.
        flips: how each view is mirrored: a name of ``FLIPS``, or empty.
        flip_pairs: keypoints that change places in a mirror.
    """

    views: list[Batch]
    flips: list[str]
    flip_pairs: tuple[tuple[int, int], ...] = ()

    @property
    def images(self) -> torch.Tensor:
        """Images of the first view."""
        return self.views[0].images

    @property
    def targets(self) -> dict[str, torch.Tensor | list[Any]]:
        """Targets of the first view."""
        return self.views[0].targets

    @property
    def ids(self) -> torch.Tensor:
        """(N,) int64, indices in the data set."""
        return self.views[0].ids

    @property
    def replaced(self) -> list[tuple[int, str]]:
        """See ``Batch``."""
        return self.views[0].replaced

    def __len__(self) -> int:
        return len(self.views[0])

    def to(self, device: torch.device | str, non_blocking: bool = False) -> ViewBatch:
        """The batch with all views on ``device``."""
        return ViewBatch([view.to(device, non_blocking) for view in self.views], self.flips, self.flip_pairs)

    def pin_memory(self) -> ViewBatch:
        """The batch in page-locked memory."""
        return ViewBatch([view.pin_memory() for view in self.views], self.flips, self.flip_pairs)


def views_of(batch: Batch | ViewBatch) -> list[Batch]:
    """The views of a batch; a plain one is its only view."""
    return batch.views if isinstance(batch, ViewBatch) else [batch]
