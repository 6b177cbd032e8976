"""Pictures with boxes, masks, keypoints, semantic maps: what every such data set offers."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

from pet.data.datasets.annotation_faults import AnnotationFaults, clip_boxes
from pet.data.datasets.base import VisionDataset
from pet.data.masks import InstanceMasks
from pet.data.structures import BadImageError, Image, Sample
from pet.utils.suggest import did_you_mean

INSTANCE_KINDS = frozenset(("boxes", "masks", "keypoints"))
KINDS = INSTANCE_KINDS | {"semseg", "panoptic", "label"}
# Pixels of a semantic map that are not judged.
VOID = 255

SemanticMap = npt.NDArray[np.uint8]
Panoptic = tuple[npt.NDArray[np.int32], list[dict[str, Any]]]


class SizeMismatchError(BadImageError):
    """A picture of another size than its annotations were made for."""


def check_size(path: object, found: tuple[int, int], expected: tuple[int, int], what: str = "it") -> None:
    """Raise a ``SizeMismatchError`` that names both sizes (height, width) if they differ."""
    if tuple(found) != tuple(expected):
        raise SizeMismatchError(
            path,
            f"{what} is {found[0]}x{found[1]} pixels (height x width), but its annotations are for {expected[0]}x{expected[1]}",
        )


@dataclass(slots=True)
class Annotations:
    """The truth of one picture, K instances; crowd and difficult ones are included, faulty ones left out.

    Attributes:
        file: path of the picture.
        height, width: of the picture, pixels.
        image_id: as in the annotation file.
        boxes: (K, 4) float32 xyxy, pixels, ends exclusive; as in the file, so they may reach beyond the picture.
        labels: (K,) int64 class indices.
        ids: (K,) int64, unique in the data set.
        crowd, difficult: (K,) bool.
        areas: (K,) float64, square pixels: as the file says, else of the mask, else of the box.
        masks: K masks, or ``None``.
        keypoints: (K, P, 3) float32 x, y, visibility (0 not labelled, 1 hidden, 2 visible), or ``None``.
        negative: LVIS: class indices verified to be absent.
        not_exhaustive: LVIS: class indices of which not every instance is annotated.
    """

    file: str
    height: int
    width: int
    image_id: int | str
    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    ids: npt.NDArray[np.int64]
    crowd: npt.NDArray[np.bool_]
    difficult: npt.NDArray[np.bool_]
    areas: npt.NDArray[np.float64]
    masks: InstanceMasks | None = None
    keypoints: npt.NDArray[np.float32] | None = None
    negative: tuple[int, ...] = ()
    not_exhaustive: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, rows: npt.NDArray[np.bool_]) -> Annotations:
        """The instances that ``rows`` (K,) marks."""
        return replace(
            self,
            boxes=self.boxes[rows],
            labels=self.labels[rows],
            ids=self.ids[rows],
            crowd=self.crowd[rows],
            difficult=self.difficult[rows],
            areas=self.areas[rows],
            masks=None if self.masks is None else self.masks.select(rows),
            keypoints=None if self.keypoints is None else self.keypoints[rows],
        )

    @staticmethod
    def empty(file: str, height: int, width: int, image_id: int | str) -> Annotations:
        """A picture without instances."""
        whole, flags = np.zeros(0, np.int64), np.zeros(0, np.bool_)
        return Annotations(
            file, height, width, image_id, np.zeros((0, 4), np.float32), whole, whole, flags, flags, np.zeros(0, np.float64)
        )


class AnnotatedDataset(VisionDataset):
    """Pictures with instances, semantic maps or both.

    Which names belong to which labels:

    - ``class_names`` are the classes of boxes, masks and keypoints (for panoptic sets: the things). A set without instances
      calls the classes of its semantic map ``class_names`` too.
    - ``semseg_names`` are the classes of the semantic map. Of panoptic sets, ``semseg_labels`` leads from each of them to the
      label space below: an index, or -1 for the class "things", in which all things are one (what the semantic head of
      PanopticFPN learns).
    - Panoptic segments are labelled in the space ``class_names + stuff_names``; ``is_thing`` is over that list. For sets without
      stuff it is ``class_names``.
    - ``category_ids``, ``stuff_ids`` and ``semseg_ids`` are the ids that files use for ``class_names``, ``stuff_names`` and
      ``semseg_names``.

    Attributes:
        kinds: what the set has, of "boxes", "masks", "keypoints", "semseg", "panoptic", "label".
        wanted: what ``read`` returns; see ``want``.
        semseg_names, semseg_labels, semseg_ids, stuff_names, stuff_ids, is_thing, category_ids: see above.
        keypoint_names, skeleton: names, and pairs of indices that are drawn as lines.
        flip_pairs: keypoints that change places when the picture is mirrored.
        sigmas: tolerance of each keypoint for OKS, or ``None`` if none is published.
        frequency: LVIS: "r", "c" or "f" of each class, else ``None``.
        keep_difficult: difficult instances are used for training.
        faults: annotation faults met while loading, by name.
        fault_places: where the first ones of each name are.
        id_bound: no instance id is larger.
    """

    def __init__(self, name: str, class_names: Sequence[str], source: Path | None, kinds: Collection[str]) -> None:
        super().__init__(name, class_names, source)
        self.kinds = frozenset(kinds)
        self.wanted = self.kinds
        self.semseg_names: list[str] = []
        self.semseg_labels: list[int] = []
        self.semseg_ids: list[int] = []
        self.stuff_names: list[str] = []
        self.stuff_ids: list[int] = []
        self.is_thing = [True] * len(self.class_names)
        self.category_ids = list(range(1, len(self.class_names) + 1))
        self.keypoint_names: list[str] = []
        self.skeleton: list[tuple[int, int]] = []
        self.flip_pairs: list[tuple[int, int]] = []
        self.sigmas: list[float] | None = None
        self.frequency: list[str] | None = None
        self.keep_difficult = False
        self.faults: Counter[str] = Counter()
        self.fault_places: dict[str, list[str]] = {}
        self.id_bound = 0

    def want(self, kinds: Collection[str]) -> None:
        """Let ``read`` return these; nothing for ``()``: the picture and its size alone.

        Raises:
            ValueError: the set does not have one of them.
        """
        for kind in kinds:
            if kind not in self.kinds:
                raise ValueError(
                    f"{self.name} has no {kind}, which this model is trained on; it has "
                    f"{', '.join(sorted(self.kinds)) or 'pictures alone'}.{did_you_mean(kind, self.kinds)}"
                )
        self.wanted = frozenset(kinds)

    @abstractmethod
    def picture(self, index: int) -> Image:
        """The pixels of picture ``index``; a ``BadImageError`` if it cannot be read."""

    @abstractmethod
    def annotations(self, index: int) -> Annotations:
        """The truth of picture ``index``."""

    def path(self, index: int) -> str:
        """File of picture ``index``, as its annotations say."""
        return self.annotations(index).file

    def image_id(self, index: int) -> int | str:
        """Id of picture ``index`` as in the annotation file."""
        return self.annotations(index).image_id

    @abstractmethod
    def sizes(self) -> npt.NDArray[np.int64]:
        """Height and width of every picture: (N, 2), without decoding one."""

    def semseg(self, index: int) -> SemanticMap:
        """Class of every pixel: (H, W) uint8, 255 where it is not judged."""
        raise TypeError(f"{self.name} has no semantic maps; it has {', '.join(sorted(self.kinds))} ({index})")

    def panoptic(self, index: int) -> Panoptic:
        """Segments of picture ``index``.

        Returns:
            (H, W) int32 segment ids, 0 = void; for each segment id, label (in ``class_names + stuff_names``), crowd, area.
        """
        raise TypeError(f"{self.name} has no panoptic segments; it has {', '.join(sorted(self.kinds))} ({index})")

    def missing_segments(self, index: int) -> list[str]:
        """Where segments are that picture ``index`` should have and its label picture does not show; read when asked for."""
        return []

    def usable(self, truth: Annotations) -> npt.NDArray[np.bool_]:
        """Which instances are trained on: no crowd, nothing difficult unless it is kept."""
        return ~truth.crowd if self.keep_difficult else ~(truth.crowd | truth.difficult)

    def read(self, index: int) -> Sample:
        """The picture, and what is wanted of its truth; see ``want`` and ``clean_target``."""
        image = self.picture(index)
        size = (image.shape[0], image.shape[1])
        target: dict[str, Any] = {}
        if self.wanted & INSTANCE_KINDS:
            truth = self.annotations(index)
            check_size(self.describe(index), size, (truth.height, truth.width))
            target.update(self.clean_target(truth))
        if "semseg" in self.wanted:
            target["semseg"] = self.semseg(index)
            check_size(self.describe(index), size, target["semseg"].shape)
        target["original_size"] = size
        return Sample(image, target, index)

    def clean_target(self, truth: Annotations) -> dict[str, Any]:
        """What is trained on: usable instances, boxes cut at the border of the picture.

        Returns:
            labels (K,) int64, and what is wanted of boxes (K, 4) float32, masks ``InstanceMasks``, keypoints (K, P, 3) float32.
        """
        truth = truth.select(self.usable(truth))
        target: dict[str, Any] = {"labels": truth.labels}
        if "boxes" in self.wanted:
            target["boxes"] = clip_boxes(truth.boxes, truth.height, truth.width)
        if "masks" in self.wanted:
            target["masks"] = truth.masks
        if "keypoints" in self.wanted:
            target["keypoints"] = truth.keypoints
        return target

    def labels(self) -> npt.NDArray[np.generic]:
        """Whether a class has an instance to train on in a picture: (N, C) bool."""
        present = np.zeros((len(self), len(self.class_names)), np.bool_)
        for index in range(len(self)):
            truth = self.annotations(index)
            present[index, truth.labels[self.usable(truth)]] = True
        return present

    def instance_counts(self) -> dict[str, npt.NDArray[np.int64]]:
        """Instances a class (C,): "usable", "crowd" and "difficult" ones, "total"."""
        counts = {key: np.zeros(len(self.class_names), np.int64) for key in ("usable", "crowd", "difficult", "total")}
        for index in range(len(self)):
            truth = self.annotations(index)
            add_counts(counts, truth.labels, truth.crowd, truth.difficult, self.usable(truth))
        return counts

    def take_faults(self, faults: AnnotationFaults) -> None:
        """Show the faults met while loading."""
        self.faults, self.fault_places = faults.counts, faults.places

    @property
    def fault_examples(self) -> dict[str, str]:
        """Where the first fault of each name is."""
        return {fault: places[0] for fault, places in self.fault_places.items()}

    def set_panoptic_classes(self, stuff: Sequence[str], stuff_ids: Sequence[int], semantic: str) -> None:
        """Set the stuff classes and those of the semantic map; ``category_ids`` must be set already.

        Args:
            stuff: names of the stuff classes.
            stuff_ids: their ids in files.
            semantic: "all": a class for every thing and stuff class, things first; "stuff": the stuff classes, then one class
                "things" for all things.
        """
        if semantic not in ("all", "stuff"):
            raise ValueError(f"{self.name}: SEMANTIC is '{semantic}'; allowed are 'all' and 'stuff'")
        things = len(self.class_names)
        self.stuff_names, self.stuff_ids = list(stuff), list(stuff_ids)
        self.is_thing = [True] * things + [False] * len(stuff)
        stuff_labels = list(range(things, things + len(stuff)))
        if semantic == "all":
            self.semseg_names, self.semseg_labels = [*self.class_names, *stuff], [*range(things), *stuff_labels]
            self.semseg_ids = [*self.category_ids, *stuff_ids]
        else:
            self.semseg_names, self.semseg_labels = [*stuff, "things"], [*stuff_labels, -1]
            self.semseg_ids = [*stuff_ids, max((*self.category_ids, *stuff_ids)) + 1]

    def semseg_table(self) -> SemanticMap:
        """For each label of things and stuff its class in the semantic map: (things + stuff,) uint8."""
        things = len(self.class_names)
        rest = self.semseg_labels.index(-1) if -1 in self.semseg_labels else -1
        table = [self.semseg_labels.index(i) if i in self.semseg_labels else rest for i in range(things + len(self.stuff_names))]
        return np.array(table, np.uint8)


def add_counts(
    counts: dict[str, npt.NDArray[np.int64]],
    labels: npt.NDArray[np.int64],
    crowd: npt.NDArray[np.bool_],
    difficult: npt.NDArray[np.bool_],
    usable: npt.NDArray[np.bool_],
) -> None:
    """Add instances to the counts of ``AnnotatedDataset.instance_counts``."""
    everything = np.ones(len(labels), np.bool_)
    for key, rows in (("usable", usable), ("crowd", crowd), ("difficult", difficult), ("total", everything)):
        counts[key] += np.bincount(labels[rows], minlength=len(counts[key]))


def is_annotated(dataset: VisionDataset) -> TypeGuard[AnnotatedDataset]:
    """Whether the set has more than a class for each picture."""
    return isinstance(dataset, AnnotatedDataset) and dataset.kinds != {"label"}


def select_kinds(name: str, wanted: Sequence[str] | str, there: Collection[str]) -> frozenset[str]:
    """The option KINDS: all kinds that are ``there``, or those named; one that is not there is a ``ValueError``."""
    names = [wanted] if isinstance(wanted, str) and wanted else list(wanted)
    for kind in names:
        if kind not in there:
            raise ValueError(
                f"{name}: KINDS names '{kind}', but the annotations hold {', '.join(sorted(there)) or 'nothing'}."
                f"{did_you_mean(str(kind), there)}"
            )
    return frozenset(names or there)
