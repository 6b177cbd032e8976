"""COCO annotations: boxes, polygons, run-length masks, keypoints, stuff maps."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pet.data.datasets.annotated import SemanticMap, check_size, select_kinds
from pet.data.datasets.annotation_faults import AnnotationFaults, pack_shape, parse_numbers
from pet.data.datasets.base import DATASETS
from pet.data.datasets.class_lists import COCO_KEYPOINTS, COCO_SIGMAS, COCO_STUFF
from pet.data.datasets.coco_json import Categories, Entry, Pictures, read_categories, read_json, read_pictures
from pet.data.datasets.image_folder import read_class_names
from pet.data.datasets.instances import InstanceDataset, Listing
from pet.data.datasets.label_maps import FolderListing
from pet.data.datasets.packed import InstanceCollector
from pet.data.datasets.semantic import LabelTable, read_semantic_map


class CocoReader:
    """Turns the annotations of COCO JSON into an ``InstanceTable``.

    Args:
        path: the file, for messages.
        content: what it holds.
        pictures: its pictures.
        categories: its classes.
        kinds: which of "boxes", "masks", "keypoints" to read.
        num_keypoints: points an instance.
        faults: counts what is wrong.
    """

    def __init__(
        self,
        path: Path,
        content: Entry,
        pictures: Pictures,
        categories: Categories,
        kinds: frozenset[str],
        num_keypoints: int,
        faults: AnnotationFaults,
    ) -> None:
        self.path, self.pictures, self.categories, self.kinds, self.faults = path, pictures, categories, kinds, faults
        self.annotations: list[Any] = content.get("annotations") or []
        self.num_keypoints = num_keypoints if "keypoints" in kinds else 0
        self._collector = InstanceCollector(self.num_keypoints, "masks" in kinds)
        self._seen: set[Any] = set()
        self._label_of: Mapping[Any, int] = categories.label_of
        numbers = (a.get("id") for a in self.annotations if isinstance(a, dict))
        self._next_id = max((n for n in numbers if isinstance(n, int)), default=0) + 1

    def listing(self) -> Listing:
        """Everything that is usable."""
        origin: list[int] = []
        for position, entry in enumerate(self.annotations):
            if self._add(entry, lambda position=position: self._place(position)):  # type: ignore[misc]
                origin.append(position)
        table = self._collector.table(self.pictures.sizes, self.faults, lambda row: self._place(origin[row]))
        return Listing(self.pictures.files, self.pictures.sizes, self.pictures.ids, table)

    def _place(self, position: int) -> str:
        entry = self.annotations[position]
        if not isinstance(entry, dict):
            return f"{self.path}, annotation {position}: {str(entry)[:100]}"
        number = entry.get("image_id")
        image = self.pictures.index_of.get(number) if isinstance(number, (int, str)) else None
        where = self.pictures.files[image] if image is not None else f"image_id {number}"
        return f"{self.path}, annotation id {entry.get('id')} ({where}, bbox {entry.get('bbox')})"

    def _refuse(self, fault: str, place: Callable[[], str]) -> bool:
        self.faults.add(fault, place())
        return False

    def _add(self, entry: Any, place: Callable[[], str]) -> bool:
        """Enter one annotation; whether it became an instance."""
        if not isinstance(entry, dict):
            return self._refuse("missing_field", place)
        image_id, category_id, number = entry.get("image_id"), entry.get("category_id"), entry.get("id")
        if not isinstance(image_id, (int, str)) or not isinstance(category_id, (int, str)):
            return self._refuse("missing_field", place)
        number = number if isinstance(number, (int, str)) else None
        if number is not None and number in self._seen:
            return self._refuse("duplicate_annotation_id", place)
        self._seen.add(number)
        image, label = self.pictures.index_of.get(image_id), self._label_of.get(category_id)
        if image is None:
            return self._refuse("unknown_image", place)
        if label is None:
            return self._refuse("unknown_category", place)
        box = parse_numbers(entry.get("bbox"), 4)
        if box is None:
            return self._refuse("missing_field", place)
        return label >= 0 and self._add_instance(entry, image, label, box, place)

    def _add_instance(self, entry: Entry, image: int, label: int, box: list[float], place: Callable[[], str]) -> bool:
        shape, crowd = None, bool(entry.get("iscrowd", 0))
        if "masks" in self.kinds:
            height, width = map(int, self.pictures.sizes[image])
            shape, problems = pack_shape(entry.get("segmentation"), height, width)
            for fault in problems:
                self.faults.add(fault, place())
            if shape is None:
                return False
        keypoints: list[float] = []
        if self.num_keypoints and "keypoints" in entry:
            values = parse_numbers(entry["keypoints"], 3 * self.num_keypoints)
            if values is None:
                return self._refuse("wrong_keypoint_count", place)
            if not all(abs(v) < float("inf") for v in values):
                return self._refuse("nan_keypoint", place)
            keypoints = values
        number, area = entry.get("id"), entry.get("area")
        if not isinstance(number, int):
            number, self._next_id = self._next_id, self._next_id + 1
        self._collector.add(
            image,
            (box[0], box[1], box[0] + box[2], box[1] + box[3]),
            label,
            number,
            crowd=crowd,
            area=float(area) if isinstance(area, (int, float)) else float("nan"),
            shape=shape,
            keypoints=keypoints,
        )
        return True


def kinds_of(content: Entry, categories: Categories) -> set[str]:
    """Which kinds of instance labels a COCO file has."""
    annotations = [a for a in content.get("annotations") or [] if isinstance(a, dict)]
    kinds = {"boxes"} if "annotations" in content else set()
    if any(a.get("segmentation") for a in annotations):
        kinds.add("masks")
    if any(e.get("keypoints") for e in categories.entries) and any("keypoints" in a for a in annotations):
        kinds.add("keypoints")
    return kinds


def need_files(name: str, kind: str, images: Path | None, annotations: Path | None, is_train: bool) -> Path:
    """Check IMAGES and ANNOTATIONS of a set described by one file; returns the latter."""
    if annotations is None or not annotations.is_file():
        raise FileNotFoundError(f"{name}: {kind} needs ANNOTATIONS, an existing JSON file; got {annotations}")
    if (images is None and is_train) or (images is not None and not images.is_dir()):
        raise FileNotFoundError(f"{name}: {kind} needs IMAGES, an existing folder; got {images}")
    return annotations


@DATASETS.register("coco_dataset")
class CocoDataset(InstanceDataset):
    """COCO JSON and a folder of pictures.

    A file without annotations is a test set without truth. IMAGES may be left out for testing: the truth can be evaluated
    against, but no picture be read.

    Args:
        name: name in the catalog.
        images: folder of the pictures.
        annotations: the JSON file.
        is_train: pictures without a file, and those FILTER_EMPTY names, are left out.
        kinds: which of "boxes", "masks", "keypoints", "semseg" to read; default: all there are.
        classes: names of the categories to use, in the order of the labels; default: all, by ascending id.
        semseg: folder of label PNGs (``stuffthingmaps/train2017``: value = category id - 1, 255 = not judged), one for each
            picture, with its path and the suffix .png; relative to the data root.
        semseg_classes: names of their classes; default: the 182 of COCO-Stuff.
        filter_empty: for training, leave out pictures without an instance to train on.
        min_keypoints: for training, leave out pictures with fewer labelled keypoints.
        sigmas: for the metric keypoints, how far each point may be off, as a share of the size of the object (COCO: 0.025 for
            eyes to 0.107 for hips); default: those of COCO if the keypoints are COCO's, otherwise none.
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
        semseg: str = "",
        semseg_classes: Sequence[str] | str = (),
        filter_empty: bool = True,
        min_keypoints: int = 0,
        sigmas: Sequence[float] = (),
        root: str = "",
    ) -> None:
        path = need_files(name, "coco_dataset", images, annotations, is_train)
        content, faults = read_json(path), AnnotationFaults()
        categories = read_categories(path, content, read_class_names(name, classes, Path(root)) if classes else ())
        pictures = read_pictures(path, content["images"], images, faults)
        chosen = select_kinds(name, kinds, kinds_of(content, categories) | ({"semseg"} if semseg else set()))
        points = next((list(map(str, e["keypoints"])) for e in categories.entries if e.get("keypoints")), [])
        listing = CocoReader(path, content, pictures, categories, chosen, len(points), faults).listing()
        self.adapt(listing, content, pictures, categories)
        super().__init__(
            name,
            categories.names,
            images,
            chosen,
            listing,
            faults,
            is_train=is_train,
            filter_empty=filter_empty and bool(chosen - {"semseg"}),
            min_keypoints=min_keypoints,
        )
        self.category_ids = categories.ids
        self.set_classes(categories)
        if "keypoints" in chosen:
            self._set_keypoints(points, categories)
        if sigmas:
            self.sigmas = check_sigmas(name, sigmas, self.keypoint_names)
        self._maps = _find_maps(name, Path(root) / semseg, listing.files) if "semseg" in chosen else ""
        if self._maps:
            self.semseg_names = read_class_names(name, semseg_classes, Path(root)) if semseg_classes else list(COCO_STUFF)
            self.semseg_ids = list(range(1, len(self.semseg_names) + 1))
            self._label_table = LabelTable(len(self.semseg_names))

    def adapt(self, listing: Listing, content: Entry, pictures: Pictures, categories: Categories) -> None:
        """Add what a dialect knows about pictures to the listing."""

    def set_classes(self, categories: Categories) -> None:
        """Take over what a dialect knows about classes."""

    def _set_keypoints(self, points: list[str], categories: Categories) -> None:
        entry = next(e for e in categories.entries if e.get("keypoints"))
        self.keypoint_names = points
        self.flip_pairs = mirror_pairs(points)
        skeleton = [(int(a) - 1, int(b) - 1) for a, b in entry.get("skeleton") or ()]
        self.skeleton = [pair for pair in skeleton if min(pair) >= 0 and max(pair) < len(points)]
        self.sigmas = list(COCO_SIGMAS) if points == COCO_KEYPOINTS else None

    def semseg(self, index: int) -> SemanticMap:
        if not self._maps:
            return super().semseg(index)
        path = os.path.join(self._maps, os.path.splitext(self._files[index])[0] + ".png")
        labels = read_semantic_map(path, self._label_table)
        height, width = map(int, self._sizes[index])
        check_size(path, (labels.shape[0], labels.shape[1]), (height, width))
        return labels


DATASETS.register("coco_instance_dataset")(CocoDataset)


def check_sigmas(name: str, sigmas: Sequence[float], keypoints: Sequence[str]) -> list[float]:
    """The option SIGMAS; a ``ValueError`` unless it has a number above 0 for each keypoint."""
    usable = isinstance(sigmas, (list, tuple)) and all(isinstance(s, (int, float)) and 0 < s < float("inf") for s in sigmas)
    if not usable or len(sigmas) != len(keypoints):
        raise ValueError(
            f"{name}: SIGMAS is {sigmas}; it needs a number above 0 for each of the {len(keypoints)} keypoints of the annotations"
            f" ({', '.join(keypoints) or 'which have none'})"
        )
    return [float(sigma) for sigma in sigmas]


def mirror_pairs(names: Sequence[str]) -> list[tuple[int, int]]:
    """Pairs (left, right) of keypoints, found by "left" and "right" in their names."""
    index = {name.lower(): i for i, name in enumerate(names)}
    pairs = ((i, index.get(name.lower().replace("left", "right"))) for i, name in enumerate(names) if "left" in name.lower())
    return [(left, right) for left, right in pairs if right is not None]


def _find_maps(name: str, folder: Path, files: Sequence[str]) -> str:
    listing = FolderListing()
    if not any(listing.exists(str(folder / (os.path.splitext(file)[0] + ".png"))) for file in files):
        raise FileNotFoundError(
            f"{name}: SEMSEG is {folder.absolute()}, which holds no label map for any picture; expected e.g. "
            f"{os.path.splitext(files[0])[0] if files else '<picture>'}.png (relative paths start at the data root)"
        )
    return str(folder)
