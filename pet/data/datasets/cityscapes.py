"""Cityscapes: its folders of pictures and label pictures, or a COCO-style conversion."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pet.data.datasets.annotated import VOID, AnnotatedDataset, Annotations, SemanticMap, check_size
from pet.data.datasets.annotation_faults import AnnotationFaults
from pet.data.datasets.base import DATASETS
from pet.data.datasets.class_lists import CITYSCAPES, CITYSCAPES_INSTANCE_IDS
from pet.data.datasets.coco import CocoDataset
from pet.data.datasets.image_folder import find_images
from pet.data.datasets.instances import FileDataset
from pet.data.datasets.label_maps import FolderListing, picture_size, read_label_map
from pet.data.datasets.semantic import SemanticDataset
from pet.data.masks import InstanceMasks

_IMAGE, _INSTANCES, _POLYGONS = "_leftImg8bit.png", "_gtFine_instanceIds.png", "_gtFine_polygons.json"
_LABELS, _TRAIN_LABELS = "_gtFine_labelIds.png", "_gtFine_labelTrainIds.png"
_FIRST_INSTANCE = 1000  # value = label id * 1000 + number; smaller values are the label id of what has no number
_IDS_A_PICTURE = 1 << 16
_SCAN_THREADS = 4

_NAMES = [CITYSCAPES[label][1] for label in CITYSCAPES_INSTANCE_IDS]
_TRAIN_IDS = np.full(_FIRST_INSTANCE, VOID, np.uint8)
for _label, (_train_id, _) in CITYSCAPES.items():
    _TRAIN_IDS[_label] = _train_id
_CLASS_OF = {label: index for index, label in enumerate(CITYSCAPES_INSTANCE_IDS)}


@DATASETS.register("cityscapes_semantic_dataset")
def cityscapes_semantic_dataset(
    name: str, images: Path | None, annotations: Path | None = None, is_train: bool = True, *, root: str = ""
) -> SemanticDataset:
    """Cityscapes with the 19 classes that are judged.

    IMAGES is ``leftImg8bit/<split>``, ANNOTATIONS ``gtFine/<split>``. The ``_labelTrainIds`` pictures are read if every city
    has them, otherwise the ``_labelIds`` pictures that the archive contains.
    """
    classes = [entry[1] for entry in CITYSCAPES.values()]
    reduce = {label: entry[0] for label, entry in CITYSCAPES.items()}
    prepared = False
    if annotations is not None and annotations.is_dir():
        files = find_images(annotations)
        count = sum(file.endswith(_TRAIN_LABELS) for file in files)
        prepared = 0 < count == max(count, sum(file.endswith(_LABELS) for file in files))
    dataset = SemanticDataset(
        name,
        images,
        annotations,
        is_train,
        classes=classes,
        reduce=None if prepared else reduce,
        image_suffix=_IMAGE,
        label_suffix=_TRAIN_LABELS if prepared else _LABELS,
        root=root,
    )
    dataset.semseg_ids = dataset.category_ids = list(CITYSCAPES)
    return dataset


@DATASETS.register("cityscapes_instance_dataset")
def cityscapes_instance_dataset(
    name: str,
    images: Path | None,
    annotations: Path | None,
    is_train: bool = True,
    *,
    filter_empty: bool = True,
    root: str = "",
) -> AnnotatedDataset:
    """Cityscapes instances of 8 classes.

    IMAGES is ``leftImg8bit/<split>``; ANNOTATIONS is ``gtFine/<split>``, or a COCO-style JSON file made of it (which has no
    semantic maps).
    """
    if annotations is not None and annotations.is_file():
        return CocoDataset(name, images, annotations, is_train, filter_empty=filter_empty, root=root)
    return CityscapesInstances(name, images, annotations, is_train, filter_empty=filter_empty)


class CityscapesInstances(FileDataset):
    """Instances, and the 19 classes of the semantic map, from the ``_instanceIds`` pictures, which are read when they are needed.

    Which picture has which classes comes from the small ``_polygons.json`` files, or from the instance pictures if these are
    missing.

    Args:
        name: name in the catalog.
        images: ``leftImg8bit/<split>``, with a folder for each city.
        annotations: ``gtFine/<split>``.
        is_train: see ``filter_empty``.
        filter_empty: for training, leave out pictures without an instance of the 8 classes.
    """

    def __init__(
        self, name: str, images: Path | None, annotations: Path | None, is_train: bool = True, *, filter_empty: bool = True
    ) -> None:
        if images is None or annotations is None or not images.is_dir() or not annotations.is_dir():
            raise FileNotFoundError(
                f"{name}: cityscapes_instance_dataset needs IMAGES, the folder leftImg8bit/<split>, and ANNOTATIONS, the folder "
                f"gtFine/<split> or a JSON file; got {images} and {annotations}"
            )
        faults, listing = AnnotationFaults(), FolderListing()
        stems = [file[: -len(_IMAGE)] for file in find_images(images) if file.endswith(_IMAGE)]
        missing = [s for s in stems if not listing.exists(str(annotations / (s + _INSTANCES)))]
        if len(missing) == len(stems):
            raise FileNotFoundError(
                f"{name}: {images.absolute()} holds {len(stems)} pictures <city>/*{_IMAGE}, and {annotations.absolute()} no "
                f"<city>/*{_INSTANCES} for any of them"
            )
        if missing:
            faults.add("missing_annotation_file", str(annotations / (missing[0] + _INSTANCES)), len(missing))
        stems = sorted(set(stems) - set(missing))
        counts = _scan(annotations, stems, listing)
        keep: npt.NDArray[np.bool_] = np.ones(len(stems), np.bool_)
        if is_train and filter_empty:
            keep &= counts[:, 0].any(axis=1)
        if is_train and not keep.any():
            raise ValueError(f"{name}: none of {len(stems)} pictures has an instance to train on, see FILTER_EMPTY")
        kept = [stems[i] + _IMAGE for i in np.flatnonzero(keep)]
        self._counts, self._truth_folder = counts[keep], annotations
        self._sizes: npt.NDArray[np.int64] | None = None
        super().__init__(name, _NAMES, images, {"boxes", "masks", "semseg"}, kept)
        self.semseg_names, self.semseg_ids = [name for _, name in CITYSCAPES.values()], list(CITYSCAPES)
        self.category_ids = list(CITYSCAPES_INSTANCE_IDS)
        self.id_bound = len(self) * _IDS_A_PICTURE
        self.left_out = int((~keep).sum())
        self.take_faults(faults)

    def _stem(self, index: int) -> str:
        return self._files[index][: -len(_IMAGE)]

    def image_id(self, index: int) -> int | str:
        return os.path.basename(self._stem(index))

    def sizes(self) -> npt.NDArray[np.int64]:
        if self._sizes is None:
            self._sizes = np.array([picture_size(self.path(i)) for i in range(len(self))], np.int64).reshape(-1, 2)
        return self._sizes

    def _values(self, index: int) -> npt.NDArray[np.int64]:
        """The instance picture, after its size was compared with that of the picture."""
        path = os.path.join(self._truth_folder, self._stem(index) + _INSTANCES)
        values = read_label_map(path).astype(np.int64)
        check_size(path, (values.shape[0], values.shape[1]), picture_size(self.path(index)))
        return values

    def semseg(self, index: int) -> SemanticMap:
        values = self._values(index)
        return _TRAIN_IDS[np.where(values >= _FIRST_INSTANCE, values // _FIRST_INSTANCE, values)]

    def annotations(self, index: int) -> Annotations:
        values = self._values(index)
        height, width = values.shape
        found = [(int(v), *_value_class(int(v))) for v in np.unique(values)]
        instances = [(value, label, crowd) for value, label, crowd in found if label >= 0]
        if not instances:
            return Annotations.empty(self.path(index), height, width, self.image_id(index))
        bitmaps = np.stack([values == value for value, _, _ in instances]).view(np.uint8)
        masks = InstanceMasks.from_bitmaps(bitmaps)
        return Annotations(
            self.path(index),
            height,
            width,
            self.image_id(index),
            masks.boxes(),
            np.array([label for _, label, _ in instances], np.int64),
            np.arange(1, len(instances) + 1, dtype=np.int64) + index * _IDS_A_PICTURE,
            np.array([crowd for _, _, crowd in instances], np.bool_),
            np.zeros(len(instances), np.bool_),
            bitmaps.sum((1, 2), dtype=np.int64).astype(np.float64),
            masks,
        )

    def labels(self) -> npt.NDArray[np.generic]:
        return self._counts[:, 0] > 0

    def instance_counts(self) -> dict[str, npt.NDArray[np.int64]]:
        usable, crowd = self._counts.sum(0)
        return {"usable": usable, "crowd": crowd, "difficult": np.zeros_like(usable), "total": usable + crowd}


def _value_class(value: int) -> tuple[int, bool]:
    """Class index (-1: none of the 8) and whether it is a group, of a value in an instance picture."""
    label = value // _FIRST_INSTANCE if value >= _FIRST_INSTANCE else value
    return _CLASS_OF.get(label, -1), value < _FIRST_INSTANCE


def _scan(folder: Path, stems: list[str], listing: FolderListing) -> npt.NDArray[np.int64]:
    """Instances of each class: (N, 2, C), single ones and groups."""

    def count(stem: str) -> npt.NDArray[np.int64]:
        polygons = str(folder / (stem + _POLYGONS))
        if listing.exists(polygons):
            return _count(_polygon_classes(polygons))
        return _count(_value_class(int(v)) for v in np.unique(read_label_map(folder / (stem + _INSTANCES))))

    with ThreadPoolExecutor(_SCAN_THREADS) as pool:
        counts = list(pool.map(count, stems))
    return np.stack(counts) if counts else np.zeros((0, 2, len(_NAMES)), np.int64)


def _polygon_classes(path: str) -> Iterable[tuple[int, bool]]:
    with open(path, "rb") as handle:
        objects = json.load(handle).get("objects", [])
    for entry in objects:
        label = str(entry.get("label", ""))
        group = label.endswith("group")
        name = label.removesuffix("group")
        yield (_NAMES.index(name) if name in _NAMES and not entry.get("deleted") else -1), group


def _count(found: Iterable[tuple[int, bool]]) -> npt.NDArray[np.int64]:
    counts = np.zeros((2, len(_NAMES)), np.int64)
    for label, group in found:
        if label >= 0:
            counts[int(group), label] += 1
    return counts
