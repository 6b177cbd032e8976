"""Reading every picture of a data set, to find those that a run would stop at."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import numpy as np

from pet.data.datasets.annotated import AnnotatedDataset, SizeMismatchError, check_size, is_annotated
from pet.data.datasets.annotation_faults import AnnotationFaults
from pet.data.datasets.base import VisionDataset
from pet.data.parallel import map_indices
from pet.data.structures import BadImageError

Size = tuple[int, int]  # (height, width)
Found = tuple[Size | None, list[tuple[str, str]]]  # size, if it can be read; kind and place of its faults


@dataclass
class Reading:
    """What reading all pictures has shown.

    Attributes:
        count: pictures.
        sizes: of those that can be read and fit their annotations.
        faults: ``unreadable_image`` and what else only pictures show.
    """

    count: int
    sizes: list[Size] = field(default_factory=list)
    faults: AnnotationFaults = field(default_factory=AnnotationFaults)

    def size_lines(self) -> list[str]:
        """Text about the range of sizes."""
        if not self.sizes:
            return []
        low, high = np.min(self.sizes, 0), np.max(self.sizes, 0)
        return [f"  sizes (height x width): {low[0]}x{low[1]} to {high[0]}x{high[1]}"]

    def unreadable_lines(self, shown: int = 10) -> list[str]:
        """Text about the pictures that cannot be read; empty if all can."""
        bad = self.faults.counts["unreadable_image"]
        if not bad:
            return []
        places = self.faults.places["unreadable_image"][:shown]
        more = [f"    ... {bad - shown} more"] if bad > shown else []
        return [f"  warning: {bad} images cannot be read:", *(f"    {place}" for place in places), *more]


def read_all(dataset: VisionDataset, processes: int = 1) -> Reading:
    """Read every picture and label map; the result does not depend on the number of processes."""
    reading = Reading(len(dataset))
    for size, faults in map_indices(examine, dataset, len(dataset), processes):
        if size is not None:
            reading.sizes.append(size)
        for kind, place in faults:
            reading.faults.add(kind, place)
    return reading


def examine(dataset: VisionDataset, index: int) -> Found:
    """Read picture ``index`` and all that belongs to it."""
    try:
        if not is_annotated(dataset):
            height, width = dataset.read(index).image.shape[:2]
            return (height, width), []
        size = _check(dataset, index)
        return size, [("missing_segment", place) for place in dataset.missing_segments(index)]
    except SizeMismatchError as error:
        return None, [("image_size_mismatch", str(error))]
    except BadImageError as error:
        place = dataset.describe(index)
        if not is_annotated(dataset) or dataset.source is None or os.path.exists(place):
            return None, [("unreadable_image", str(error))]
        # Otherwise it was counted when the set was loaded.
        return None, [] if dataset.faults["missing_image_file"] else [("missing_image_file", place)]


def _check(dataset: AnnotatedDataset, index: int) -> Size:
    """Size of picture ``index``, after it was compared with all its annotations."""
    image = dataset.picture(index)
    size = (image.shape[0], image.shape[1])
    truth = dataset.annotations(index)
    check_size(dataset.describe(index), size, (truth.height, truth.width))
    if "semseg" in dataset.kinds:
        check_size(dataset.describe(index), size, dataset.semseg(index).shape)
    return size
