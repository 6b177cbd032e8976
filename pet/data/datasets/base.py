"""What every data set offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pet.data.structures import Sample
from pet.utils.registry import Registry

Labels = npt.NDArray[np.int64]


class VisionDataset(ABC):
    """Pictures with labels, read one at a time.

    Every sub-class is constructed as ``(name, images, annotations, is_train, **options)``; the options are the further
    keys of its catalog entry, in lower case.

    Attributes:
        name: name in the catalog.
        class_names: name of each class, in the order of the labels.
        source: the file or folder the pictures come from; ``None`` if they are made on the fly.
    """

    def __init__(self, name: str, class_names: Sequence[str], source: Path | None) -> None:
        self.name, self.class_names, self.source = name, list(class_names), source

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples."""

    @abstractmethod
    def read(self, index: int) -> Sample:
        """Sample ``index``, 0 <= index < len; a picture that cannot be read is a ``BadImageError``."""

    @abstractmethod
    def labels(self) -> npt.NDArray[np.generic]:
        """All labels without reading a picture: (N,) int64 class indices, or (N, C) bool; -1 marks an unknown label."""

    def describe(self, index: int) -> str:
        """Where sample ``index`` comes from: a path, or the file and the position in it."""
        return f"{self.name}[{index}]"


DATASETS: Registry[Callable[..., VisionDataset]] = Registry("data set TYPE", "pet.data.datasets", VisionDataset)


def class_difference(first: VisionDataset, other: VisionDataset) -> str:
    """Message for two data sets whose classes differ."""
    ours, theirs = first.class_names, other.class_names
    detail = f"{first.name} has {len(ours)} classes, {other.name} has {len(theirs)}"
    only = sorted(set(ours) ^ set(theirs))
    if only:
        detail += f"; not in both: {', '.join(only[:8])}{', ...' if len(only) > 8 else ''}"
    else:
        place = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs)))
        detail += f"; the order differs from class {place} on"
    return (
        f"data sets trained together must have the same classes in the same order, but {detail}. "
        "Give both the same CLASSES in DATA.CATALOG"
    )


class PackedStrings:
    """A list of strings in two arrays.

    A list of a million Python strings is copied page by page into every worker, because reading a string writes
    its reference count; arrays stay shared.
    """

    def __init__(self, strings: Iterable[str]) -> None:
        encoded = [s.encode("utf-8", "surrogateescape") for s in strings]
        self._ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
        self._bytes = np.frombuffer(b"".join(encoded), np.uint8)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is outside 0 to {len(self) - 1}")
        return self._bytes[self._ends[index] : self._ends[index + 1]].tobytes().decode("utf-8", "surrogateescape")
