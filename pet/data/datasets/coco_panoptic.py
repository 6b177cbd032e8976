"""COCO panoptic annotations: a JSON file, and a PNG of segment ids for each picture."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pet.data.datasets.annotated import VOID, Annotations, Panoptic, SemanticMap, check_size, select_kinds
from pet.data.datasets.annotation_faults import AnnotationFaults, parse_numbers
from pet.data.datasets.base import DATASETS
from pet.data.datasets.coco import need_files
from pet.data.datasets.coco_json import Entry, Pictures, read_json, read_pictures
from pet.data.datasets.instances import InstanceDataset, Listing
from pet.data.datasets.label_maps import FolderListing, read_segment_ids
from pet.data.datasets.packed import InstanceCollector
from pet.data.masks import InstanceMasks

Segment = tuple[int, int, bool, float]  # id, label in things + stuff, crowd, area


@DATASETS.register("coco_panoptic_dataset")
class CocoPanopticDataset(InstanceDataset):
    """COCO panoptic JSON with its folder of PNGs (segment id = R + 256 G + 65536 B).

    A file without annotations is a test set without truth. Things have boxes (from the JSON) and masks (from the PNG).
    Classes are things and stuff, each by ascending category id.

    Args:
        name: name in the catalog.
        images: folder of the pictures.
        annotations: the JSON file.
        is_train: pictures without a file, and those FILTER_EMPTY names, are left out.
        segments: folder of the PNGs, relative to the data root; default: the name of the JSON file without extension, beside it.
        kinds: which of "boxes", "masks", "semseg", "panoptic"; default: all.
        semantic: classes of the semantic map. "stuff": the stuff classes, then one class "things" (the last one) for all things,
            as PanopticFPN is trained; "all": things and stuff.
        filter_empty: for training, leave out pictures without any segment that is not a crowd.
        root: where relative paths start; filled in by the catalog.
    """

    def __init__(
        self,
        name: str,
        images: Path | None,
        annotations: Path | None,
        is_train: bool = True,
        *,
        segments: str = "",
        kinds: Sequence[str] = (),
        semantic: str = "stuff",
        filter_empty: bool = True,
        root: str = "",
    ) -> None:
        path = need_files(name, "coco_panoptic_dataset", images, annotations, is_train)
        content, faults = read_json(path), AnnotationFaults()
        things, stuff = _read_categories(path, content)
        folder = Path(root) / segments if segments else path.with_suffix("")
        has_truth = "annotations" in content
        if has_truth and not folder.is_dir():
            raise FileNotFoundError(
                f"{name}: the PNGs of {path.name} are expected in {folder.absolute()}, which does not exist; set SEGMENTS"
            )
        pictures = read_pictures(path, content["images"], images, faults)
        ids = [int(entry["id"]) for entry in (*things, *stuff)]
        reader = _PanopticReader(path, folder, content, pictures, ids, len(things), faults)
        listing = reader.listing()
        if not is_train and len(listing.files) < len(pictures.files):
            raise FileNotFoundError(
                f"{name}: {len(pictures.files) - len(listing.files)} of {len(pictures.files)} pictures have no segments, e.g. "
                f"{faults.examples['missing_annotation_file']}. A test set must be complete: add them, or take these pictures "
                "out of 'images'. A JSON file without 'annotations' is a test set without truth"
            )
        self._segment_folder = str(folder)
        super().__init__(
            name,
            [str(entry["name"]) for entry in things],
            images,
            select_kinds(name, kinds, ("boxes", "masks", "semseg", "panoptic") if has_truth else ()),
            listing,
            faults,
            is_train=is_train,
            filter_empty=filter_empty,
        )
        self.category_ids = ids[: len(things)]
        self.set_panoptic_classes([str(entry["name"]) for entry in stuff], ids[len(things) :], semantic)
        self._semseg_table = self.semseg_table()

    def _segment_ids(self, index: int) -> tuple[Any, list[Segment]]:
        assert self._segments is not None
        file, segments = self._segments[index]
        path = os.path.join(self._segment_folder, file)
        found = read_segment_ids(path)
        height, width = map(int, self._sizes[index])
        check_size(path, (found.shape[0], found.shape[1]), (height, width))
        return found, segments

    def masks_of(self, index: int, rows: slice, size: tuple[int, int]) -> InstanceMasks:
        found, _ = self._segment_ids(index)
        numbers = self._table.refs[rows]
        return InstanceMasks.from_bitmaps((found[None] == numbers[:, None, None]).view(np.uint8))

    def usable(self, truth: Annotations) -> npt.NDArray[np.bool_]:
        """As for every set; a segment without a pixel in the PNG is not trained on either."""
        usable = super().usable(truth)
        return usable if truth.masks is None else usable & (truth.masks.areas() > 0)

    def missing_segments(self, index: int) -> list[str]:
        """The segments of picture ``index`` in the JSON that have no pixel in its PNG."""
        found, segments = self._segment_ids(index)
        absent = sorted({number for number, *_ in segments} - set(np.unique(found).tolist()))
        return [f"{self.path(index)}, segment {number}" for number in absent]

    def panoptic(self, index: int) -> Panoptic:
        found, segments = self._segment_ids(index)
        known = np.isin(found, [number for number, *_ in segments])
        details = [{"id": i, "label": label, "crowd": crowd, "area": int(area)} for i, label, crowd, area in segments]
        return np.where(known, found, 0).astype(np.int32), details

    def semseg(self, index: int) -> SemanticMap:
        found, segments = self._segment_ids(index)
        labels = np.full(found.shape, VOID, np.uint8)
        for number, label, _, _ in segments:
            labels[found == number] = self._semseg_table[label]
        return labels


def _read_categories(path: Path, content: Entry) -> tuple[list[Entry], list[Entry]]:
    listed = content.get("categories") or []
    for entry in listed:
        if not isinstance(entry, dict) or not {"id", "name", "isthing"} <= entry.keys():
            raise ValueError(f"{path}: a panoptic category needs 'id', 'name' and 'isthing'; found {str(entry)[:100]}")
    if not listed:
        raise ValueError(f"{path} has no categories")
    listed = sorted(listed, key=lambda entry: int(entry["id"]))
    return [e for e in listed if e["isthing"]], [e for e in listed if not e["isthing"]]


class _PanopticReader:
    """Turns panoptic JSON into a ``Listing``."""

    def __init__(
        self,
        path: Path,
        folder: Path,
        content: Entry,
        pictures: Pictures,
        category_ids: Sequence[int],
        num_things: int,
        faults: AnnotationFaults,
    ) -> None:
        self.path, self.folder, self.pictures, self.faults = path, folder, pictures, faults
        self.annotations: list[Any] = content.get("annotations") or []
        self.label_of = {number: label for label, number in enumerate(category_ids)}
        self.num_things = num_things
        self.collector = InstanceCollector()
        self.places: list[str] = []
        self.found: list[tuple[str, list[Segment]] | None] = [None] * len(pictures.files)

    def listing(self) -> Listing:
        """All pictures that have segments; all there are in a file without annotations."""
        if not self.annotations:
            self.found = [("", []) for _ in self.found]
        folders = FolderListing()
        for position, entry in enumerate(self.annotations):
            place = f"{self.path}, annotation {position}"
            if not isinstance(entry, dict) or not {"image_id", "file_name", "segments_info"} <= entry.keys():
                self.faults.add("missing_field", place)
                continue
            image = self.pictures.index_of.get(entry["image_id"])
            if image is None:
                self.faults.add("unknown_image", f"{place}: image_id {entry['image_id']}")
            elif self.found[image] is not None:
                self.faults.add("duplicate_annotation_id", f"{place}: image_id {entry['image_id']}")
            elif not folders.exists(str(self.folder / entry["file_name"])):
                self.faults.add("missing_annotation_file", str(self.folder / entry["file_name"]))
            else:
                self.found[image] = (entry["file_name"], self._segments(entry, image))
        table = self.collector.table(self.pictures.sizes, self.faults, self.places.__getitem__)
        pictures = self.pictures
        listing = Listing(pictures.files, pictures.sizes, pictures.ids, table, None, list(self.found))
        for image in np.flatnonzero([f is None for f in self.found])[:1]:
            count = sum(f is None for f in self.found)
            self.faults.add("missing_annotation_file", f"{self.path} has no segments of {pictures.files[image]}", count)
        return listing.select(np.array([f is not None for f in self.found], np.bool_))

    def _segments(self, entry: Entry, image: int) -> list[Segment]:
        segments: list[Segment] = []
        seen: set[int] = set()
        for info in entry["segments_info"]:
            place = f"{self.path}, {entry['file_name']}, segment {info.get('id')} (category_id {info.get('category_id')})"
            label, number = self.label_of.get(info.get("category_id")), info.get("id")
            if label is None:
                self.faults.add("unknown_category", place)
            elif not isinstance(number, int):
                self.faults.add("missing_field", place)
            elif number in seen:
                self.faults.add("duplicate_annotation_id", place)
            else:
                seen.add(number)
                area, crowd = float(info.get("area", 0)), bool(info.get("iscrowd", 0))
                segments.append((number, label, crowd, area))
                self._add_thing(info, image, label, number, area, crowd, place)
        return segments

    def _add_thing(self, info: Entry, image: int, label: int, number: int, area: float, crowd: bool, place: str) -> None:
        if label >= self.num_things:
            return
        box = parse_numbers(info.get("bbox"), 4)
        if box is None:
            self.faults.add("missing_field", f"{place}: bbox {info.get('bbox')}")
            return
        x, y, width, height = box
        self.places.append(place)
        corners = (x, y, x + width, y + height)
        self.collector.add(image, corners, label, len(self.places), crowd=crowd, area=area, ref=number)
