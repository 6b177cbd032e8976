"""Order of the data: pure functions of the update number, independent of processes and workers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import count, islice
from typing import Any

import numpy as np
import numpy.typing as npt

from pet.utils.rng import STREAM_ORDER, keyed_generator

Position = tuple[int, int]  # (epoch, index)
Indices = npt.NDArray[np.int64]

# A picture that an epoch repeats on purpose counts as one of another epoch, this many later for each repetition, so that each
# time it is augmented differently.
REPETITION = 1 << 32


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


def aspect_groups(sizes: npt.NDArray[Any], thresholds: Sequence[float] = (1.0,)) -> Indices:
    """Group of each picture by its aspect ratio.

    Args:
        sizes: (N, 2) height and width.
        thresholds: limits of width / height between the groups; (1.0,) parts upright from square and wide pictures.

    Returns:
        (N,) from 0 to ``len(thresholds)``.
    """
    ratios = sizes[:, 1] / np.maximum(sizes[:, 0], 1)
    limits = np.sort(np.asarray(thresholds, np.float64))
    return np.asarray(np.searchsorted(limits, ratios, side="right"), np.int64)


def repeat_factors(
    class_presence: npt.NDArray[np.bool_],
    threshold: float,
    power: float = 0.5,
    min_times: float = 1.0,
    max_times: float = math.inf,
) -> npt.NDArray[np.float64]:
    """How often an epoch should show each picture so that rare classes are seen more often.

    A class in a share f of the pictures has the factor max(1, (threshold / f) ** power); a picture the largest of its classes,
    limited to ``min_times`` and ``max_times``. A picture without a class has the factor 1.

    Args:
        class_presence: (N, C), whether a class is in a picture.
        threshold: share of pictures below which classes are repeated.
        power: 0.5 is the square root of the paper.
        min_times, max_times: limits.

    Returns:
        (N,) factors.

    Source: arXiv 1908.03195, appendix on repeat factor sampling.
    """
    if threshold < 0 or not 0 <= min_times <= max_times or max_times < 1:
        raise ValueError(
            f"REPEAT_THRESHOLD is {threshold}, the limits of the factor are {min_times} and {max_times}; expected a threshold of "
            "at least 0 and 0 <= smallest <= largest, the largest at least 1"
        )
    share = np.count_nonzero(class_presence, axis=0) / max(len(class_presence), 1)
    factors = np.maximum((threshold / np.maximum(share, 1e-12)) ** power, 1.0)
    # A picture has few of the classes: the whole table as numbers would take 1 GB for LVIS, in every process.
    pictures, classes = np.nonzero(class_presence)
    largest = np.ones(len(class_presence))
    np.maximum.at(largest, pictures, factors[classes])
    return np.asarray(np.clip(largest, min_times, max_times), np.float64)


class TrainSampler:
    """Endless micro-batches of ``(epoch, index)`` for one rank.

    The global batch of update k (1-based) is slice ``(k - 1) % iter_per_epoch`` of the order of epoch
    ``(k - 1) // iter_per_epoch``, which is a function of ``(seed, epoch)``; samples beyond the last whole batch of an
    epoch are left out. With fewer samples than a batch the order repeats inside the batch. Rank r takes the r-th
    contiguous slice, cut into ``accumulate`` micro-batches. Starting anywhere costs one permutation.

    With ``repeats`` r an epoch shows picture i floor(r_i) times, and once more with probability frac(r_i); it always has
    floor(sum(r)) // batch_size updates. With ``groups`` samples are gathered in units of ``group_size`` of one group, emitted
    when full; what is left at the end of an epoch makes mixed units. Each global batch holds units of one group side by side, so
    that micro-batches of ``group_size`` samples are of one group wherever possible.

    Args:
        num_samples: size of the data set, >= 1.
        batch_size: samples of one update over all ranks; a multiple of ``world_size * accumulate``.
        seed: the experiment's seed.
        shuffle: a new permutation each epoch; otherwise the order of the data set.
        world_size, rank: processes, and which of them this is.
        accumulate: micro-batches of one update.
        start_iter: update to start with, >= 1.
        groups: (N,) group of each sample, e.g. ``aspect_groups``; ``None``: no grouping.
        group_size: samples of a unit; the same for any number of processes if the batches shall be, too.
        repeats: (N,) how often each sample is shown in an epoch, e.g. ``repeat_factors``; ``None``: once.
        only_first: n > 0: update k has what is otherwise that of update (k - 1) mod n + 1, its augmentation included.
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
        groups: npt.NDArray[Any] | None = None,
        group_size: int = 1,
        repeats: npt.NDArray[Any] | None = None,
        only_first: int = 0,
    ) -> None:
        if num_samples < 1:
            raise ValueError("the training data set is empty; there is nothing to draw batches from")
        if start_iter < 1:
            raise ValueError(f"updates are counted from 1, but start_iter is {start_iter}")
        check_batch_size(batch_size, world_size, accumulate)
        _check_lengths(num_samples, groups=groups, repeats=repeats)
        self.num_samples, self.batch_size, self.seed, self.shuffle = num_samples, batch_size, seed, shuffle
        self.world_size, self.rank, self.accumulate, self.start_iter = world_size, rank, accumulate, start_iter
        self._groups, self._group_size, self._repeats = groups, max(group_size, 1), repeats
        self._only_first = only_first
        shown = num_samples if repeats is None else math.floor(float(repeats.sum()) + 1e-6)
        self.iter_per_epoch = max(shown // batch_size, 1)

    def epoch_order(self, epoch: int) -> Indices:
        """Order of the samples in ``epoch`` (0-based): at least ``batch_size`` indices."""
        generator = keyed_generator(self.seed, STREAM_ORDER, epoch)
        order = self._shown(generator)
        if self.shuffle:
            order = order[generator.permutation(len(order))]
        if self._repeats is not None:
            order = np.resize(order, self.iter_per_epoch * self.batch_size)
        elif self.num_samples < self.batch_size:
            order = np.resize(order, self.batch_size)
        return order if self._groups is None else self._grouped(order, self._groups[order])

    def _shown(self, generator: np.random.Generator) -> Indices:
        """The samples of an epoch in stored order."""
        if self._repeats is None:
            return np.arange(self.num_samples)
        whole = np.floor(self._repeats)
        times = whole + (generator.random(self.num_samples) < self._repeats - whole)
        return np.repeat(np.arange(self.num_samples), times.astype(np.int64)) if times.any() else np.arange(self.num_samples)

    def _grouped(self, order: Indices, groups: npt.NDArray[Any]) -> Indices:
        """``order`` rearranged to units of one group; ``groups`` holds the group of each element."""
        size, count, places = self._group_size, len(order), np.arange(len(order))
        rank, total = _occurrences(groups)
        is_left = rank >= total // size * size
        # A unit appears when its last element does; what is left comes after everything else.
        by_group = np.lexsort((rank, groups))
        last = by_group[np.minimum(places + (size - 1 - rank[by_group] % size), count - 1)]
        emitted = np.empty(count, np.int64)
        emitted[by_group] = last
        emitted[is_left] = count + places[is_left]
        walk = np.lexsort((rank, emitted))
        kinds = np.where(is_left, np.iinfo(np.int64).max, groups)[walk]
        walk = walk[np.lexsort((kinds, places // self.batch_size))]
        return order[walk]

    def __iter__(self) -> Iterator[list[Position]]:
        if not self._only_first:
            yield from self._batches(self.start_iter)
        again = list(islice(self._batches(1), self._only_first * self.accumulate))
        for place in count((self.start_iter - 1) * self.accumulate):
            yield again[place % len(again)]

    def _batches(self, start_iter: int) -> Iterator[list[Position]]:
        share = self.batch_size // self.world_size
        size = share // self.accumulate
        epoch, step = divmod(start_iter - 1, self.iter_per_epoch)
        while True:
            order = self.epoch_order(epoch)
            epochs = np.full(len(order), epoch)
            if self._repeats is not None:
                epochs += _occurrences(order)[0] * REPETITION
            for first in range(step * self.batch_size, self.iter_per_epoch * self.batch_size, self.batch_size):
                begin = first + self.rank * share
                for micro in range(begin, begin + share, size):
                    part = slice(micro, micro + size)
                    yield list(zip(epochs[part].tolist(), order[part].tolist(), strict=True))
            epoch, step = epoch + 1, 0


def _check_lengths(num_samples: int, **arrays: npt.NDArray[Any] | None) -> None:
    for name, array in arrays.items():
        if array is not None and array.shape != (num_samples,):
            raise ValueError(f"'{name}' has the shape {array.shape}; expected one entry for each of the {num_samples} samples")


def _occurrences(values: npt.NDArray[Any]) -> tuple[Indices, Indices]:
    """How many equal values come before each one, and how many there are of it in all."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    by_value = np.argsort(inverse, kind="stable")
    before = np.empty(len(values), np.int64)
    before[by_value] = np.arange(len(values)) - np.repeat(np.cumsum(counts) - counts, counts)
    return before, counts[inverse]


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
