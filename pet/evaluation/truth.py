"""What evaluators ask of a data set with annotated pictures; they do not know its class.

``pet.data.datasets.annotated.AnnotatedDataset`` offers all of it. Class indices start at 0; boxes are x1 y1 x2 y2 with
exclusive ends, in pixels of the picture in the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class Masks(Protocol):
    """The masks of the instances of one picture."""

    def to_rles(self) -> list[dict[str, Any]]:
        """One compressed COCO RLE (``size`` height, width; ``counts`` text) an instance."""


class InstanceRows(Protocol):
    """The instances of one picture, K of them, crowd and difficult ones included."""

    @property
    def file(self) -> str:
        """Path of the picture."""

    @property
    def height(self) -> int:
        """Height in pixels."""

    @property
    def width(self) -> int:
        """Width in pixels."""

    @property
    def boxes(self) -> NDArray[np.float32]:
        """(K, 4)."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """(K,)."""

    @property
    def crowd(self) -> NDArray[np.bool_]:
        """(K,) regions of many objects."""

    @property
    def difficult(self) -> NDArray[np.bool_]:
        """(K,) objects that are not to be judged."""

    @property
    def areas(self) -> NDArray[np.float64]:
        """(K,) pixels, the area by which an instance is small, medium or large."""

    @property
    def masks(self) -> Masks | None:
        """Masks of the K instances."""

    @property
    def keypoints(self) -> NDArray[np.float32] | None:
        """(K, P, 3) x, y, visibility 0 (not labelled), 1 (hidden) or 2 (visible)."""

    @property
    def negative(self) -> tuple[int, ...]:
        """LVIS: classes known to be absent."""

    @property
    def not_exhaustive(self) -> tuple[int, ...]:
        """LVIS: classes of which not every instance is annotated."""


class Truth(Protocol):
    """Names and sizes every annotated data set has."""

    @property
    def name(self) -> str:
        """Name for messages."""

    @property
    def class_names(self) -> Sequence[str]:
        """C names: the classes of instances; of sets without instances those of pixels."""

    @property
    def category_ids(self) -> Sequence[int]:
        """The id in files of each class."""

    @property
    def kinds(self) -> frozenset[str]:
        """Some of boxes, masks, keypoints, semseg, panoptic, label."""

    def __len__(self) -> int:
        """Number of pictures."""

    def image_id(self, index: int) -> int | str:
        """The id that files of predictions use; unique in the data set."""

    def path(self, index: int) -> str:
        """File of picture ``index``, the ``file`` of its annotations without reading these."""

    def annotations(self, index: int) -> InstanceRows:
        """The instances of picture ``index``; with K = 0 and only file, size and id where there are none."""


class InstanceTruth(Truth, Protocol):
    """Data sets of instances."""

    @property
    def is_thing(self) -> Sequence[bool]:
        """Of each class (and stuff class), whether it has instances."""

    @property
    def sigmas(self) -> Sequence[float] | None:
        """Keypoints: how far each may be off, relative to the scale of the object."""

    @property
    def frequency(self) -> Sequence[str] | None:
        """LVIS: r(are), c(ommon) or f(requent) of each class."""


class SemanticTruth(Truth, Protocol):
    """Data sets with a class for each pixel."""

    @property
    def semseg_names(self) -> Sequence[str]:
        """Names of the classes of pixels; may be empty where they are ``class_names``."""

    @property
    def semseg_ids(self) -> Sequence[int]:
        """The id in files of each of them."""

    def semseg(self, index: int) -> NDArray[np.uint8]:
        """(H, W) class of each pixel, 255 = not judged."""


class PanopticTruth(Truth, Protocol):
    """Data sets with segments."""

    @property
    def stuff_names(self) -> Sequence[str]:
        """Names of the stuff classes, whose labels follow those of ``class_names`` unless these hold them already."""

    @property
    def stuff_ids(self) -> Sequence[int]:
        """The id in files of each stuff class."""

    @property
    def is_thing(self) -> Sequence[bool]:
        """Of each class, stuff included, whether it has instances."""

    def panoptic(self, index: int) -> tuple[NDArray[np.int32], list[dict[str, Any]]]:
        """(H, W) segment ids, 0 = void, and the segments: id, label, crowd, area."""


def check_kind(truth: Truth, kind: str, metric: str) -> None:
    """Refuse a metric before inference when the data set lacks the annotations for it.

    Raises:
        ValueError: names the data set, the metric, what is missing and what there is.
    """
    if kind not in truth.kinds:
        raise ValueError(
            f"{truth.name} has no annotations of kind '{kind}', so {metric} cannot be computed; it has: "
            f"{', '.join(sorted(truth.kinds)) or 'nothing'}. Choose other EVAL.METRICS, or only write the predictions"
        )


def check_classes(truth: Truth, names: Sequence[str], what: str = "classes") -> None:
    """Refuse a data set without classes.

    Raises:
        ValueError: there is no class.
    """
    if not names:
        raise ValueError(f"data set '{truth.name}' names no {what}: evaluation needs at least one")
