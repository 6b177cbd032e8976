"""Transforms: objects called as ``transform(sample, rng) -> Sample``, and the chain that runs them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from pet.data.structures import Sample
from pet.utils.registry import Registry


class Transform(Protocol):
    """Changes a sample.

    Every random choice comes from ``rng``, so that a sample depends on ``(seed, epoch, index)`` only. The image handed in
    may be a view of the data set: a transform returns a new one instead of writing to it.
    """

    def __call__(self, sample: Sample, rng: np.random.Generator, /) -> Sample: ...


@runtime_checkable
class PairTransform(Protocol):
    """Mixes a sample with a partner drawn from the data set. A sample is mixed at most once in a chain."""

    prob: float

    def soften(self, sample: Sample, /) -> Sample:
        """The sample in the form that mixing needs; applied to all samples, mixed or not."""
        ...

    def mix(self, sample: Sample, partner: Sample, rng: np.random.Generator, /) -> Sample:
        """The mixture; the partner has gone through the same transforms as the sample."""
        ...


@runtime_checkable
class GroupTransform(Protocol):
    """Composes a sample with partners drawn from the data set. Several may follow one another in a chain."""

    prob: float
    num_partners: int

    def combine(self, sample: Sample, partners: list[Sample], rng: np.random.Generator, /) -> Sample:
        """The composition; the partners have gone through the same transforms as the sample, without being composed or mixed."""
        ...


TRANSFORMS: Registry[Callable[..., Any]] = Registry("transform", "pet.data.transforms")


class Chain:
    """Transforms in order.

    Args:
        transforms: ``Transform``, ``PairTransform`` and ``GroupTransform`` objects.
        draw: returns a random sample of the data set, untransformed; for the latter two.
    """

    def __init__(self, transforms: Sequence[Any], draw: Callable[[np.random.Generator], Sample]) -> None:
        self.transforms, self._draw = list(transforms), draw
        self._pairs = [isinstance(t, PairTransform) for t in transforms]
        self._groups = [isinstance(t, GroupTransform) for t in transforms]

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """The transformed sample."""
        for stage in self.stages(sample, rng):
            sample = stage
        return sample

    def stages(self, sample: Sample, rng: np.random.Generator) -> Iterator[Sample]:
        """The sample after each transform."""
        mixed = False
        for position, transform in enumerate(self.transforms):
            if self._groups[position]:
                if rng.random() < transform.prob:
                    partners = [self._partner(position, rng) for _ in range(transform.num_partners)]
                    sample = transform.combine(sample, partners, rng)
            elif self._pairs[position]:
                sample = transform.soften(sample)
                if not mixed and rng.random() < transform.prob:
                    sample = transform.mix(sample, transform.soften(self._partner(position, rng)), rng)
                    mixed = True
            else:
                sample = transform(sample, rng)
            yield sample

    def _partner(self, stop: int, rng: np.random.Generator) -> Sample:
        sample = self._draw(rng)
        for position, transform in enumerate(self.transforms[:stop]):
            if not (self._pairs[position] or self._groups[position]):
                sample = transform(sample, rng)
        return sample
