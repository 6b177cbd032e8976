"""Order of the data: pure functions of the update number, independent of processes and workers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from pet.utils.rng import STREAM_ORDER, keyed_generator

Position = tuple[int, int]  # (epoch, index)
Indices = npt.NDArray[np.int64]


def check_batch_size(batch_size: int, world_size: int, accumulate: int) -> None:
    """Refuse a global batch that does not split evenly.

    Raises:
        ValueError: ``batch_size`` is not a multiple of ``world_size * accumulate``; names the nearest sizes that are.
    """
    parts = world_size * accumulate
    if batch_size < 1 or batch_size % parts:
        below = batch_size // parts * parts
        allowed = f"{below} or {below + parts}" if below > 0 else f"{parts}"
        raise ValueError(
            f"TRAIN.BATCH_SIZE is {batch_size}, which does not split into {parts} equal parts "
            f"({world_size} processes x SOLVER.ACCUMULATE {accumulate}); use {allowed}"
        )


class TrainSampler:
    """Endless micro-batches of ``(epoch, index)`` for one rank.

    The global batch of update k (1-based) is slice ``(k - 1) % iter_per_epoch`` of the permutation of epoch
    ``(k - 1) // iter_per_epoch``, which is a function of ``(seed, epoch)``; samples beyond the last whole batch of an
    epoch are left out. With fewer samples than a batch the permutation repeats inside the batch. Rank r takes the r-th
    contiguous slice, cut into ``accumulate`` micro-batches. Starting anywhere costs one permutation.

    Args:
        num_samples: size of the data set, >= 1.
        batch_size: samples of one update over all ranks; a multiple of ``world_size * accumulate``.
        seed: the experiment's seed.
        shuffle: a new permutation each epoch; otherwise the order of the data set.
        world_size, rank: processes, and which of them this is.
        accumulate: micro-batches of one update.
        start_iter: update to start with, >= 1.
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        world_size: int = 1,
        rank: int = 0,
        accumulate: int = 1,
        start_iter: int = 1,
    ) -> None:
        if num_samples < 1:
            raise ValueError("the training data set is empty; there is nothing to draw batches from")
        if start_iter < 1:
            raise ValueError(f"updates are counted from 1, but start_iter is {start_iter}")
        check_batch_size(batch_size, world_size, accumulate)
        self.num_samples, self.batch_size, self.seed, self.shuffle = num_samples, batch_size, seed, shuffle
        self.world_size, self.rank, self.accumulate, self.start_iter = world_size, rank, accumulate, start_iter
        self.iter_per_epoch = max(num_samples // batch_size, 1)

    def epoch_order(self, epoch: int) -> Indices:
        """Order of the samples in ``epoch`` (0-based): at least ``batch_size`` indices."""
        if self.shuffle:
            order = keyed_generator(self.seed, STREAM_ORDER, epoch).permutation(self.num_samples)
        else:
            order = np.arange(self.num_samples)
        return order if self.num_samples >= self.batch_size else np.resize(order, self.batch_size)

    def __iter__(self) -> Iterator[list[Position]]:
        share = self.batch_size // self.world_size
        size = share // self.accumulate
        epoch, step = divmod(self.start_iter - 1, self.iter_per_epoch)
        while True:
            order = self.epoch_order(epoch)
            for first in range(step * self.batch_size, self.iter_per_epoch * self.batch_size, self.batch_size):
                begin = first + self.rank * share
                for micro in range(begin, begin + share, size):
                    yield [(epoch, index) for index in order[micro : micro + size].tolist()]
            epoch, step = epoch + 1, 0


class EvalSampler:
    """Batches of ``(0, index)`` in stored order; every sample belongs to exactly one rank, nothing is padded.

    Whole batches are dealt to the ranks in turn, so each batch holds the same samples on any number of processes
    and the predictions stay bitwise the same.
    """

    def __init__(self, num_samples: int, batch_size: int, *, world_size: int = 1, rank: int = 0) -> None:
        if batch_size < 1:
            raise ValueError(f"TEST.IMS_PER_GPU is {batch_size}; it must be at least 1")
        self.num_samples, self.batch_size, self.world_size, self.rank = num_samples, batch_size, world_size, rank

    def _starts(self) -> range:
        return range(self.rank * self.batch_size, self.num_samples, self.world_size * self.batch_size)

    def __len__(self) -> int:
        return len(self._starts())

    def __iter__(self) -> Iterator[list[Position]]:
        for start in self._starts():
            yield [(0, index) for index in range(start, min(start + self.batch_size, self.num_samples))]
