"""Picture files whose instances are held in an ``InstanceTable``."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pet.data.datasets.annotated import AnnotatedDataset, Annotations, add_counts, check_size
from pet.data.datasets.annotation_faults import AnnotationFaults
from pet.data.datasets.base import PackedStrings
from pet.data.datasets.label_maps import FolderListing
from pet.data.datasets.packed import InstanceTable, PackedRecords
from pet.data.image import read_image
from pet.data.masks import InstanceMasks
from pet.data.structures import Image

_NO_LISTS = ((), ())


@dataclass
class Listing:
    """What an annotation file says, before pictures are left out.

    Attributes:
        files: paths of the pictures, relative to their folder.
        sizes: (N, 2) int64 height, width.
        image_ids: id of each picture.
        table: the instances.
        extras: LVIS: for each picture the class indices (negative, not exhaustive); else ``None``.
        segments: panoptic: for each picture (file, its segments); else ``None``.
    """

    files: list[str]
    sizes: npt.NDArray[np.int64]
    image_ids: list[int | str]
    table: InstanceTable
    extras: list[Any] | None = None
    segments: list[Any] | None = None

    def select(self, keep: npt.NDArray[np.bool_]) -> Listing:
        """The pictures that ``keep`` (N,) marks."""
        if keep.all():
            return self
        rows = np.flatnonzero(keep)
        chosen = rows.tolist()
        return Listing(
            [self.files[i] for i in chosen],
            self.sizes[rows],
            [self.image_ids[i] for i in chosen],
            self.table.select(rows),
            None if self.extras is None else [self.extras[i] for i in chosen],
            None if self.segments is None else [self.segments[i] for i in chosen],
        )


class FileDataset(AnnotatedDataset):
    """Annotated pictures, each in a file of its own below ``source``."""

    def __init__(
        self, name: str, class_names: Sequence[str], source: Path | None, kinds: Collection[str], files: Sequence[str]
    ) -> None:
        super().__init__(name, class_names, source, kinds)
        self._folder, self._files = str(source or ""), PackedStrings(files)

    def __len__(self) -> int:
        return len(self._files)

    def path(self, index: int) -> str:
        """File of picture ``index``."""
        return os.path.join(self._folder, self._files[index])

    def picture(self, index: int) -> Image:
        return read_image(self.path(index))

    def describe(self, index: int) -> str:
        return self.path(index)


class InstanceDataset(FileDataset):
    """Picture files with instances.

    Args:
        name: name in the catalog.
        class_names: names of the classes.
        source: folder of the pictures; ``None``: there are none, so that only the annotations can be used.
        kinds: what it has.
        listing: what the annotation file says.
        faults: what was wrong with it.
        is_train: pictures without a file are left out.
        filter_empty: for training, pictures without an instance to train on are left out.
        keep_difficult: train on difficult instances.
        min_keypoints: for training, pictures with fewer labelled keypoints are left out.
    """

    def __init__(
        self,
        name: str,
        class_names: Sequence[str],
        source: Path | None,
        kinds: Collection[str],
        listing: Listing,
        faults: AnnotationFaults,
        *,
        is_train: bool,
        filter_empty: bool = True,
        keep_difficult: bool = False,
        min_keypoints: int = 0,
    ) -> None:
        keep = _files_there(name, source, listing, faults)
        keep = keep if is_train else np.ones(len(keep), np.bool_)
        if is_train and filter_empty:
            keep &= _has_usable(listing, keep_difficult, min_keypoints)
        if is_train and not keep.any():
            raise ValueError(_nothing_left(name, listing, keep_difficult, faults))
        listing = listing.select(keep)
        super().__init__(name, class_names, source, kinds, listing.files)
        self.keep_difficult = keep_difficult
        self._sizes, self._table = listing.sizes, listing.table
        whole = all(isinstance(i, int) for i in listing.image_ids)
        self._image_ids: npt.NDArray[np.int64] | PackedStrings = (
            np.array(listing.image_ids, np.int64) if whole else PackedStrings(map(str, listing.image_ids))
        )
        self._extras = None if listing.extras is None else PackedRecords(listing.extras)
        self._segments = None if listing.segments is None else PackedRecords(listing.segments)
        self.id_bound = int(self._table.ids.max(initial=0))
        self.left_out = int((~keep).sum())
        self.take_faults(faults)

    def picture(self, index: int) -> Image:
        image = super().picture(index)
        height, width = map(int, self._sizes[index])
        check_size(self.path(index), (image.shape[0], image.shape[1]), (height, width))
        return image

    def image_id(self, index: int) -> int | str:
        value = self._image_ids[index]
        return value if isinstance(value, str) else int(value)

    def sizes(self) -> npt.NDArray[np.int64]:
        return self._sizes

    def annotations(self, index: int) -> Annotations:
        table, rows = self._table, self._table.rows(index)
        height, width = map(int, self._sizes[index])
        masks = self.masks_of(index, rows, (height, width)) if "masks" in self.kinds else None
        boxes = table.boxes[rows].copy()
        negative, not_exhaustive = _NO_LISTS if self._extras is None else self._extras[index]
        return Annotations(
            self.path(index),
            height,
            width,
            self.image_id(index),
            boxes,
            table.labels[rows].copy(),
            table.ids[rows].copy(),
            table.crowd[rows].copy(),
            table.difficult[rows].copy(),
            _areas(table.areas[rows], masks, boxes),
            masks,
            table.keypoints[rows].copy() if table.keypoints is not None and "keypoints" in self.kinds else None,
            negative,
            not_exhaustive,
        )

    def masks_of(self, index: int, rows: slice, size: tuple[int, int]) -> InstanceMasks:
        """Masks of the instances of picture ``index``, which are ``rows`` of the table."""
        assert self._table.shapes is not None
        shapes = [unpack_shape(self._table.shapes[row], size) for row in range(rows.start, rows.stop)]
        return InstanceMasks.concatenate(shapes) if shapes else InstanceMasks([], size)

    def labels(self) -> npt.NDArray[np.generic]:
        present = np.zeros((len(self), len(self.class_names)), np.bool_)
        rows = usable_rows(self._table, self.keep_difficult)
        present[self._table.owners()[rows], self._table.labels[rows]] = True
        return present

    def instance_counts(self) -> dict[str, npt.NDArray[np.int64]]:
        table = self._table
        counts = {key: np.zeros(len(self.class_names), np.int64) for key in ("usable", "crowd", "difficult", "total")}
        add_counts(counts, table.labels, table.crowd, table.difficult, usable_rows(table, self.keep_difficult))
        return counts


def usable_rows(table: InstanceTable, keep_difficult: bool) -> npt.NDArray[np.bool_]:
    """Which instances are trained on: (M,) bool."""
    return ~table.crowd if keep_difficult else ~(table.crowd | table.difficult)


def unpack_shape(record: list[bytes] | bytes | None, size: tuple[int, int]) -> InstanceMasks:
    """One mask from a record of ``InstanceTable.shapes``; an empty one from ``None``."""
    if isinstance(record, bytes):
        return InstanceMasks.from_rles([{"size": list(size), "counts": record}], size)
    return InstanceMasks([[np.frombuffer(part, np.float32).reshape(-1, 2) for part in record or ()]], size)


def _areas(
    areas: npt.NDArray[np.float64], masks: InstanceMasks | None, boxes: npt.NDArray[np.float32]
) -> npt.NDArray[np.float64]:
    unknown = np.isnan(areas)
    if not unknown.any():
        return areas.copy()
    extent = (boxes[:, 2:] - boxes[:, :2]).astype(np.float64)
    other = masks.areas() if masks is not None else extent[:, 0] * extent[:, 1]
    return np.where(unknown, other, areas)


def _files_there(name: str, source: Path | None, listing: Listing, faults: AnnotationFaults) -> npt.NDArray[np.bool_]:
    if source is None or not listing.files:
        return np.ones(len(listing.files), np.bool_)
    folders = FolderListing()
    there = np.array([folders.exists(os.path.join(source, file)) for file in listing.files], np.bool_)
    if not there.any():
        beside = sorted(folders.names(str(source)))
        raise FileNotFoundError(
            f"{name}: none of the {len(listing.files)} pictures that the annotations list is in {source.absolute()}, e.g. "
            f"'{listing.files[0]}'; IMAGES must be the folder these paths start from. It holds "
            f"{', '.join(beside[:8]) or 'nothing'}{', ...' if len(beside) > 8 else ''}"
        )
    faults.add_rows("missing_image_file", ~there, lambda i: os.path.join(source, listing.files[i]))
    return there


def _nothing_left(name: str, listing: Listing, keep_difficult: bool, faults: AnnotationFaults) -> str:
    counts = (f"{fault} {count}, e.g. {faults.examples[fault]}" for fault, count in faults.counts.items())
    found = f"Faults found: {'; '.join(counts) or 'none'}."
    if not listing.files:
        return f"{name}: the annotations list no pictures that can be used. {found}"
    usable = int(usable_rows(listing.table, keep_difficult).sum())
    return (
        f"{name}: none of {len(listing.files)} pictures has an instance to train on; of {len(listing.table.labels)} instances "
        f"{usable} are neither crowd nor difficult. {found} FILTER_EMPTY False keeps such pictures"
    )


def _has_usable(listing: Listing, keep_difficult: bool, min_keypoints: int) -> npt.NDArray[np.bool_]:
    table, count = listing.table, len(listing.files)
    owners, rows = table.owners(), usable_rows(table, keep_difficult)
    found = np.bincount(owners[rows], minlength=count) > 0
    if listing.segments is not None:
        found |= np.array([any(not segment[2] for segment in segments) for _, segments in listing.segments], np.bool_)
    if min_keypoints and table.keypoints is not None:
        labelled = (table.keypoints[rows][..., 2] > 0).sum(1)
        found &= np.bincount(owners[rows], weights=labelled, minlength=count) >= min_keypoints
    return found
