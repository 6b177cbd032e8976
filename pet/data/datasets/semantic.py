"""Pictures with a class for every pixel."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pet.data.datasets.annotated import VOID, Annotations, SemanticMap, check_size
from pet.data.datasets.annotation_faults import AnnotationFaults
from pet.data.datasets.base import DATASETS
from pet.data.datasets.class_lists import ADE20K
from pet.data.datasets.image_folder import find_images, read_class_names
from pet.data.datasets.instances import FileDataset
from pet.data.datasets.label_maps import FolderListing, picture_size, read_label_map
from pet.data.image import EXTENSIONS
from pet.data.structures import BadImageError

_UNKNOWN = -1
_VALUES = 1 << 16


class LabelTable:
    """From the values in a label picture to classes.

    A value equal to ``ignore`` is void; otherwise it is looked up in ``reduce`` (values that are not in it are void), then
    ``shift`` is added; what is then below 0 is void, and what is not a class is refused.

    Args:
        num_classes: classes, at most 255.
        ignore: value that is not judged.
        shift: added to the values.
        reduce: from values to classes; empty: values are classes.
    """

    def __init__(self, num_classes: int, ignore: int = VOID, shift: int = 0, reduce: Mapping[int, int] | None = None) -> None:
        values = np.arange(_VALUES)
        if reduce:
            values = np.full(_VALUES, _UNKNOWN)
            values[list(reduce)] = list(reduce.values())
            shift = 0
        classes = values + shift
        table = np.where(classes < 0, VOID, classes)
        table[classes >= num_classes] = _UNKNOWN
        if 0 <= ignore < _VALUES:
            table[ignore] = VOID
        self.num_classes, self.ignore = num_classes, ignore
        self._table = table.astype(np.int16)

    def classes(self, values: npt.NDArray[np.uint8] | npt.NDArray[np.uint16], path: str) -> SemanticMap:
        """Class of every pixel; a value that is neither a class nor void is a ``BadImageError``."""
        labels = self._table[values]
        if labels.min(initial=0) < 0:
            bad = np.unique(values[labels < 0])
            raise BadImageError(
                path,
                f"the label map has the values {', '.join(map(str, bad[:8].tolist()))}, which are neither a class (there are "
                f"{self.num_classes}) nor IGNORE_LABEL {self.ignore}",
            )
        return labels.astype(np.uint8)


def read_semantic_map(path: str, table: LabelTable) -> SemanticMap:
    """Class of every pixel (H, W), 255 where it is not judged."""
    return table.classes(read_label_map(path), path)


@DATASETS.register("semantic_dataset")
class SemanticDataset(FileDataset):
    """A folder of pictures, and a folder of label pictures with the same names.

    The label of ``<sub-folder>/<stem><IMAGE_SUFFIX>`` is ``<sub-folder>/<stem><LABEL_SUFFIX>``: one channel of 8 or 16 bits, or
    a PNG with a palette, whose indices count. Label pictures are found by name; pictures without one are left out.

    Args:
        name: name in the catalog.
        images: folder of the pictures, with any sub-folders.
        annotations: folder of the label pictures; ``None``: a test set without truth.
        is_train: not used.
        classes: class names, see ``ImageFolderDataset``.
        ignore_label: value of pixels that are not judged.
        label_shift: added to the values: -1 for labels from 1 with 0 = void. What is below 0 then is void.
        reduce: from values to classes, e.g. ``{7: 0, 8: 1}``; other values are void.
        image_suffix: end of the names of the pictures; default: any extension of a picture.
        label_suffix: end of the names of the label pictures.
        root: where a relative ``classes`` path starts; filled in by the catalog.
    """

    def __init__(
        self,
        name: str,
        images: Path | None,
        annotations: Path | None = None,
        is_train: bool = True,
        *,
        classes: Sequence[str] | str = (),
        ignore_label: int = VOID,
        label_shift: int = 0,
        reduce: Mapping[int, int] | None = None,
        image_suffix: str = "",
        label_suffix: str = ".png",
        root: str = "",
    ) -> None:
        if images is None or not images.is_dir() or (annotations is not None and not annotations.is_dir()):
            raise FileNotFoundError(
                f"{name}: semantic_dataset needs IMAGES and ANNOTATIONS, existing folders; got {images} and {annotations}"
            )
        names = read_class_names(name, classes, Path(root)) if classes else []
        if not 0 < len(names) < VOID:
            raise ValueError(f"{name}: CLASSES names {len(names)} classes; give 1 to {VOID - 1} names in the order of the labels")
        faults = AnnotationFaults()
        files, labels = _pair(name, images, annotations, image_suffix, label_suffix, faults)
        super().__init__(name, names, images, {"semseg"} if annotations is not None else (), files)
        self.semseg_names, self.is_thing = list(self.class_names), [False] * len(names)
        self.semseg_ids = list(self.category_ids)
        self._labels, self._label_folder = labels, annotations
        table = {int(k): int(v) for k, v in reduce.items()} if reduce else None
        self._label_table = LabelTable(len(names), ignore_label, label_shift, table)
        self._sizes: npt.NDArray[np.int64] | None = None
        self._present: npt.NDArray[np.bool_] | None = None
        self.take_faults(faults)

    def label_path(self, index: int) -> str:
        """File of the label picture of picture ``index``."""
        stem = self._files[index][: -self._labels[1]] if self._labels[1] else os.path.splitext(self._files[index])[0]
        return os.path.join(str(self._label_folder), stem + self._labels[0])

    def semseg(self, index: int) -> SemanticMap:
        if self._label_folder is None:
            return super().semseg(index)
        return read_semantic_map(self.label_path(index), self._label_table)

    def image_id(self, index: int) -> int | str:
        return self._files[index]

    def annotations(self, index: int) -> Annotations:
        height, width = picture_size(self.path(index)) if self._sizes is None else map(int, self._sizes[index])
        return Annotations.empty(self.path(index), height, width, self.image_id(index))

    def sizes(self) -> npt.NDArray[np.int64]:
        if self._sizes is None:
            self._sizes = np.array([picture_size(self.path(i)) for i in range(len(self))], np.int64).reshape(-1, 2)
        return self._sizes

    def labels(self) -> npt.NDArray[np.generic]:
        """Whether a class has a pixel in a picture: (N, C) bool. Reads every label picture when it is called first."""
        if self._present is None:
            present = np.zeros((len(self), VOID + 1), np.bool_)
            for index in range(len(self) if self._label_folder is not None else 0):
                present[index, np.unique(self.semseg(index))] = True
            self._present = present[:, : len(self.class_names)]
        return self._present

    def check(self, index: int) -> None:
        """Raise a ``BadImageError`` if picture and label map ``index`` differ in size."""
        labels = self.semseg(index)
        check_size(self.label_path(index), (labels.shape[0], labels.shape[1]), picture_size(self.path(index)))


def _pair(
    name: str, images: Path, annotations: Path | None, image_suffix: str, label_suffix: str, faults: AnnotationFaults
) -> tuple[list[str], tuple[str, int]]:
    """Pictures that have a label picture; and its suffix with the length of what it replaces (0: the extension)."""
    files = [file for file in find_images(images) if file.endswith(image_suffix)]
    rule = (label_suffix, len(image_suffix))
    if not files:
        ends = image_suffix or " ".join(sorted(EXTENSIONS))
        raise FileNotFoundError(f"{name}: {images.absolute()} holds no picture that ends in {ends}")
    if annotations is None:
        return files, rule
    listing = FolderListing()
    paired = []
    for file in files:
        stem = file[: -rule[1]] if rule[1] else os.path.splitext(file)[0]
        label = os.path.join(annotations, stem + label_suffix)
        if listing.exists(label):
            paired.append(file)
        else:
            faults.add("missing_annotation_file", f"{label} for {images / file}")
    if not paired:
        raise FileNotFoundError(
            f"{name}: none of {len(files)} pictures has a label picture, e.g. {faults.examples['missing_annotation_file']}; "
            "set LABEL_SUFFIX (and IMAGE_SUFFIX) if their names end differently"
        )
    return paired, rule


@DATASETS.register("ade20k_dataset")
def ade20k_dataset(
    name: str, images: Path | None, annotations: Path | None = None, is_train: bool = True, *, root: str = ""
) -> SemanticDataset:
    """ADE20K scene parsing (ADEChallengeData2016): 150 classes; 0 in its label pictures is void, 1 the first class."""
    return SemanticDataset(name, images, annotations, is_train, classes=ADE20K, label_shift=-1, root=root)
