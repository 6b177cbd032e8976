"""A test batch in parts that are padded alike, so that a prediction does not depend on what else is in the batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from torchvision.models.detection.image_list import ImageList

from pet.data.structures import Batch
from pet.data.views import ViewBatch
from pet.models.losses.semantic import SemanticView

Size = tuple[int, int]  # (height, width)


@dataclass(frozen=True)
class Part:
    """Pictures of a batch whose padded sizes are equal.

    Attributes:
        rows: their places in the batch.
        images: their pixels (n, 3, H, W) uint8, and their sizes without padding.
    """

    rows: list[int]
    images: ImageList


def valid_sizes(batch: Batch | ViewBatch) -> list[Size]:
    """(height, width) of each image of the batch without padding."""
    sizes: list[Size] = list(batch.targets.get("sizes", _whole(batch)))
    return sizes


def equal_parts(batch: Batch) -> list[Part]:
    """The batch in parts; one part if all pictures are padded alike or nothing is known about it.

    Beyond the border of its input a convolution sees zeros, but within padding it sees what the layers before made of it. So a
    picture that is padded to the size of a larger neighbour is predicted differently from one that is alone.
    """
    sizes, rows = valid_sizes(batch), dict[Size, list[int]]()
    for row, size in enumerate(batch.targets.get("padded_sizes", _whole(batch))):
        rows.setdefault(size, []).append(row)
    return [
        Part(chosen, ImageList(batch.images[chosen, :, :height, :width], [sizes[row] for row in chosen]))
        for (height, width), chosen in rows.items()
    ]


def by_row(parts: Sequence[Part], found: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """What was found in each part, by name one entry for each of its pictures, in the order of the batch."""
    order = list(chain.from_iterable(part.rows for part in parts))
    outputs: dict[str, list[Any]] = {}
    for name in found[0]:
        entries = chain.from_iterable(one[name] for one in found)
        outputs[name] = [entry for _, entry in sorted(zip(order, entries, strict=True), key=lambda pair: pair[0])]
    return outputs


def with_geometry(found: dict[str, Any], part: Part, mirrored: tuple[int, ...] = ()) -> dict[str, Any]:
    """Predictions of a part, in which semantic logits know what they are the logits of."""
    if "semseg" not in found:
        return found
    height, width = part.images.tensors.shape[-2:]
    pairs = zip(found["semseg"], part.images.image_sizes, strict=True)
    return {**found, "semseg": [SemanticView(logits, (height, width), size, mirrored) for logits, size in pairs]}


def _whole(batch: Batch | ViewBatch) -> list[Size]:
    return [(batch.images.shape[2], batch.images.shape[3])] * len(batch)
