"""The data report: what is in a data set, and whether it fits the model."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from pet.data.annotated_report import annotated_report
from pet.data.datasets.annotated import is_annotated
from pet.data.datasets.base import VisionDataset
from pet.data.reading import read_all

_SHOWN = 10


def data_report(dataset: VisionDataset, num_classes: int, check: Literal["off", "fast", "full"] = "fast") -> list[str]:
    """Lines of text about a data set.

    Args:
        dataset: any data set.
        num_classes: outputs of the head. Not compared for annotated sets: these may feed several heads.
        check: "off": size only; "fast": labels as well, without reading pictures; "full": every picture is read too.

    Raises:
        ValueError: labels or the number of classes do not fit the head.
    """
    if is_annotated(dataset):
        return annotated_report(dataset, check)
    source = f" in {dataset.source}" if dataset.source else ""
    lines = [f"{dataset.name}: {len(dataset)} images, {len(dataset.class_names)} classes{source}"]
    if check == "off":
        return lines
    labels = dataset.labels()
    lines += _multi_label_lines(dataset, labels) if labels.ndim == 2 else _label_lines(dataset, labels, num_classes)
    if len(dataset.class_names) > num_classes:
        raise ValueError(
            f"{dataset.name} has {len(dataset.class_names)} classes ({_shorten(dataset.class_names)}), but the head has "
            f"{num_classes} outputs; set MODEL.GLOBAL_HEAD.CLS.NUM_CLASSES {len(dataset.class_names)}"
        )
    if len(dataset.class_names) < num_classes:
        lines.append(
            f"  note: the head has {num_classes} outputs, {num_classes - len(dataset.class_names)} more than there are classes"
        )
    if check == "fast":
        return lines
    reading = read_all(dataset)
    return lines + reading.size_lines() + (reading.unreadable_lines() or ["  every image can be read"])


def _label_lines(dataset: VisionDataset, labels: npt.NDArray[np.generic], num_classes: int) -> list[str]:
    indices = labels.astype(np.int64)
    known = indices[indices >= 0]
    outside = np.flatnonzero(indices >= num_classes)
    if outside.size:
        first = int(outside[0])
        beyond = dataset.class_names[num_classes:]
        named = f"; classes without an output: {_shorten(beyond)}" if beyond else ""
        raise ValueError(
            f"{dataset.name}: {outside.size} labels do not fit the head, which has {num_classes} outputs (labels 0 to "
            f"{num_classes - 1}); "
            f"the first is {int(indices[first])} at {dataset.describe(first)}{named}. Correct the labels or the "
            "pictures, give CLASSES in the entry of the set in DATA.CATALOG, or set MODEL.GLOBAL_HEAD.CLS.NUM_CLASSES"
        )
    lines = [f"  {len(indices) - known.size} images without a label"] if known.size < len(indices) else []
    if known.size:
        lines += _count_lines(dataset, np.bincount(known, minlength=max(len(dataset.class_names), 1)))
    return lines


def _multi_label_lines(dataset: VisionDataset, labels: npt.NDArray[np.generic]) -> list[str]:
    flags = labels.astype(bool)
    each = flags.sum(1)
    lines = [f"  {each.mean():.2f} labels an image, at most {each.max()}; {int((each == 0).sum())} images without one"]
    return lines + _count_lines(dataset, flags.sum(0))


def _count_lines(dataset: VisionDataset, counts: npt.NDArray[np.signedinteger]) -> list[str]:
    names = dataset.class_names
    shown = ", ".join(f"{names[i] if i < len(names) else i} {counts[i]}" for i in range(min(len(counts), _SHOWN)))
    lines = [f"  images a class: {shown}{', ...' if len(counts) > _SHOWN else ''} (fewest {counts.min()}, most {counts.max()})"]
    empty = [names[i] for i in np.flatnonzero(counts == 0) if i < len(names)]
    if empty:
        lines.append(f"  warning: {len(empty)} classes have no image: {_shorten(empty)}")
    return lines


def _shorten(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
