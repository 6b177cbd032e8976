"""LVIS v0.5 and v1: many classes, federated annotation."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from pet.data.datasets.base import DATASETS
from pet.data.datasets.coco import CocoDataset
from pet.data.datasets.coco_json import Categories, Entry, Pictures
from pet.data.datasets.instances import Listing

_V05_PREFIX = "COCO_"


@DATASETS.register("lvis_dataset")
class LvisDataset(CocoDataset):
    """LVIS JSON over the pictures of COCO 2017.

    Every picture says which classes were looked for in vain (``Annotations.negative``) and of which not every instance is
    annotated (``not_exhaustive``); classes in neither list and without an instance were not looked for.

    Args:
        name: name in the catalog.
        images: the COCO folder that holds train2017 and val2017, or the one folder in which all pictures are.
        annotations: the JSON file, v0.5 or v1.
        is_train: see ``CocoDataset``.
        kinds: which of "boxes" and "masks" to read.
        classes: see ``CocoDataset``.
        filter_empty: for training, leave out pictures without an instance.
        root: where relative paths start; filled in by the catalog.
    """

    def __init__(
        self,
        name: str,
        images: Path | None,
        annotations: Path | None,
        is_train: bool = True,
        *,
        kinds: Sequence[str] = (),
        classes: Sequence[str] | str = (),
        filter_empty: bool = True,
        root: str = "",
    ) -> None:
        self._images = images
        super().__init__(name, images, annotations, is_train, kinds=kinds, classes=classes, filter_empty=filter_empty, root=root)

    def adapt(self, listing: Listing, content: Entry, pictures: Pictures, categories: Categories) -> None:
        listing.extras = [
            (
                _class_indices(entry.get("neg_category_ids"), categories),
                _class_indices(entry.get("not_exhaustive_category_ids"), categories),
            )
            for entry in pictures.entries
        ]
        listing.files = [
            lvis_file(entry, file, self._images) for entry, file in zip(pictures.entries, pictures.files, strict=True)
        ]

    def set_classes(self, categories: Categories) -> None:
        frequency = [str(entry.get("frequency", "")) for entry in categories.entries]
        self.frequency = frequency if all(frequency) and frequency else None


def _class_indices(ids: Sequence[int] | None, categories: Categories) -> tuple[int, ...]:
    labels = (categories.label_of.get(number, -1) for number in ids or ())
    return tuple(label for label in labels if label >= 0)


def lvis_file(entry: Entry, file: str, images: Path | None) -> str:
    """Path of a picture below ``images``.

    v0.5 gives names of COCO 2014 ("COCO_val2014_000000000139.jpg"), v1 none; the split folder of COCO 2017 is in ``coco_url``.
    """
    name = os.path.basename(file)
    if name.startswith(_V05_PREFIX):
        name = name.rsplit("_", 1)[-1]
    address = entry.get("coco_url")
    split = address.split("/")[-2] if isinstance(address, str) and address.count("/") > 1 else os.path.dirname(file)
    if images is not None and split and not (images / split).is_dir():
        return name
    return os.path.join(split, name)
