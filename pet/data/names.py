"""What the outputs of a model are called: from a data set to the file of a checkpoint and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from pet.config import CfgNode
from pet.data.catalog import BUILT_IN, build_dataset
from pet.data.datasets import VisionDataset
from pet.data.datasets.class_lists import (
    ADE20K,
    CITYSCAPES,
    CITYSCAPES_INSTANCE_IDS,
    COCO,
    COCO_KEYPOINTS,
    COCO_SKELETON,
    COCO_STUFF,
    VOC,
)

# What is the same list in every set of a built-in kind.
_CITYSCAPES = tuple(name for _, name in CITYSCAPES.values())
_KNOWN: dict[str, dict[str, Sequence[Any]]] = {
    "ade20k_dataset": {"class_names": ADE20K, "semseg_names": ADE20K, "is_thing": (False,) * len(ADE20K)},
    "cityscapes_instance_dataset": {
        "class_names": tuple(CITYSCAPES[id][1] for id in CITYSCAPES_INSTANCE_IDS),
        "semseg_names": _CITYSCAPES,
    },
    "cityscapes_semantic_dataset": {
        "class_names": _CITYSCAPES, "semseg_names": _CITYSCAPES, "is_thing": (False,) * len(_CITYSCAPES),
    },
    "coco_dataset": {"class_names": COCO, "semseg_names": COCO_STUFF},
    "coco_panoptic_dataset": {"class_names": COCO},
    "mnist_dataset": {"class_names": tuple("0123456789")},
    "voc_dataset": {"class_names": VOC},
}  # fmt: skip


@dataclass(frozen=True)
class LabelNames:
    """The names that belong to the numbers a model predicts; what a data set does not have is empty.

    Attributes:
        class_names: of boxes, masks and keypoints, or of whole pictures.
        semseg_names: of the classes of a semantic map.
        stuff_names: of panoptic segments that are no things; labels of segments are in ``class_names + stuff_names``.
        is_thing: for each of ``class_names + stuff_names`` whether it is one of things.
        keypoint_names: of the points of one object.
        skeleton: pairs of keypoints, from 0, that are drawn as lines.
        flip_pairs: pairs of keypoints, from 0, that change places when the picture is mirrored.
    """

    class_names: tuple[str, ...] = ()
    semseg_names: tuple[str, ...] = ()
    stuff_names: tuple[str, ...] = ()
    is_thing: tuple[bool, ...] = ()
    keypoint_names: tuple[str, ...] = ()
    skeleton: tuple[tuple[int, int], ...] = ()
    flip_pairs: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        """Lists, as they come from files, become tuples."""
        for field in fields(self):
            values = tuple(tuple(v) if isinstance(v, list | tuple) else v for v in getattr(self, field.name))
            object.__setattr__(self, field.name, values)

    @classmethod
    def of(cls, known: VisionDataset | Mapping[str, Any]) -> LabelNames:
        """The names of a data set, or of the ``meta`` of a checkpoint."""
        read = known.get if isinstance(known, Mapping) else lambda name, default: getattr(known, name, default)
        return cls(**{field.name: read(field.name, ()) or () for field in fields(cls)})

    def completed(self, other: LabelNames) -> LabelNames:
        """These names, and those of ``other`` where there are none."""
        return replace(other, **{name: value for name, value in asdict(self).items() if value})

    def padded(self, counts: Mapping[str, int]) -> LabelNames:
        """With made-up names (``class_0``, ...) where ``counts`` says that a model has another number of labels.

        Sets without objects call the classes of their semantic map ``class_names``, too; these are taken before any is made up.
        """
        changes: dict[str, Any] = {}
        for name, count in counts.items():
            if len(getattr(self, name)) != count:
                made_up = tuple(f"{name.removesuffix('_names')}_{number}" for number in range(count))
                of_map = name == "semseg_names" and len(self.class_names) == count
                changes[name] = self.class_names if of_map else made_up
        names = replace(self, **changes)
        things, stuff = len(names.class_names), len(names.stuff_names)
        return names if len(names.is_thing) == things + stuff else replace(names, is_thing=(True,) * things + (False,) * stuff)


def names_for_checkpoint(dataset: VisionDataset) -> dict[str, Any]:
    """What a data set calls its labels, for the ``meta`` of a checkpoint: plain lists under the names of ``LabelNames``."""
    names = asdict(LabelNames.of(dataset))
    return {name: [list(v) if isinstance(v, tuple) else v for v in values] for name, values in names.items() if values}


def names_of_config(cfg: CfgNode) -> LabelNames:
    """The names of the data sets of a config as far as they are known without reading a file; training sets count first."""
    found = LabelNames()
    for name in (*cfg.TRAIN.DATASETS, *cfg.TEST.DATASETS):
        found = found.completed(_names_without_files(name, cfg.DATA.CATALOG))
    return found


def _names_without_files(name: str, catalog: Mapping[str, Mapping[str, Any]]) -> LabelNames:
    entry = {str(key).lower(): value for key, value in catalog.get(name, {}).items()}
    built_in = BUILT_IN.get(name) if not entry else None
    kind = built_in.type if built_in else entry.get("type", "")
    classes = (built_in.options if built_in else entry).get("classes", ())
    if kind == "shapes_dataset":
        return LabelNames.of(build_dataset((name,), False, catalog=catalog))
    if isinstance(classes, list | tuple) and classes:
        return LabelNames(class_names=tuple(map(str, classes)))
    if built_in and kind == "image_folder_dataset":
        return LabelNames(_imagenet())
    if built_in and "keypoints" in name:
        return LabelNames(("person",), keypoint_names=tuple(COCO_KEYPOINTS), skeleton=COCO_SKELETON)
    return LabelNames.of(_KNOWN.get(kind, {}) if built_in else {})


def _imagenet() -> tuple[str, ...]:
    """The 1000 classes of ImageNet in words, in the order of their folders; torchvision keeps them with its weights."""
    from torchvision.models import ResNet18_Weights

    return tuple(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])
