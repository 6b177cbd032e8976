"""The data report of sets with boxes, masks, keypoints or label maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from pet.data.datasets.annotated import INSTANCE_KINDS, AnnotatedDataset
from pet.data.datasets.annotation_faults import AnnotationFaults
from pet.data.reading import read_all

_SHOWN = 10


def annotated_report(dataset: AnnotatedDataset, check: Literal["off", "fast", "full"] = "fast") -> list[str]:
    """Lines of text about an annotated data set.

    Args:
        dataset: the set.
        check: "off": size only; "fast": annotations, without reading pictures; "full": every picture and label map is read too.
    """
    source = f" in {dataset.source}" if dataset.source else ""
    kinds = ", ".join(sorted(dataset.kinds)) or "no annotations"
    lines = [f"{dataset.name}: {len(dataset)} images{source}; {kinds}"]
    lines += _class_lines(dataset)
    if check == "off":
        return lines
    if dataset.kinds & INSTANCE_KINDS:
        lines += _instance_lines(dataset)
    faults = AnnotationFaults()
    faults.update(dataset.faults, dataset.fault_places)
    if check == "fast":
        unseen = ["unreadable_image", "image_size_mismatch", *(["missing_segment"] if "panoptic" in dataset.kinds else [])]
        return [*lines, *fault_lines(faults), f"  not looked for: {', '.join(unseen)}; DATA.CHECK full opens every picture"]
    reading = read_all(dataset)
    faults.update(reading.faults.counts, reading.faults.places)
    faults.counts.pop("unreadable_image", None)  # listed by themselves
    readable = f"  {len(reading.sizes)} of {reading.count} images can be read and fit their annotations"
    return lines + fault_lines(faults) + reading.size_lines() + (reading.unreadable_lines() or [readable])


def _class_lines(dataset: AnnotatedDataset) -> list[str]:
    lines = []
    if dataset.kinds & INSTANCE_KINDS or not dataset.semseg_names:
        lines.append(f"  {len(dataset.class_names)} classes: {_shorten(dataset.class_names)}")
    if dataset.semseg_names:
        lines.append(f"  {len(dataset.semseg_names)} classes of the semantic map: {_shorten(dataset.semseg_names)}")
    if dataset.keypoint_names:
        lines.append(f"  {len(dataset.keypoint_names)} keypoints, {len(dataset.flip_pairs)} pairs that change places in a mirror")
    return lines


def _instance_lines(dataset: AnnotatedDataset) -> list[str]:
    counts, present = dataset.instance_counts(), dataset.labels()
    usable = counts["usable"]
    empty = int((~present.astype(bool).any(axis=1)).sum()) if len(present) else 0
    left_out = getattr(dataset, "left_out", 0)
    lines = [
        f"  {int(counts['total'].sum())} instances, {int(usable.sum())} to train on; {int(counts['crowd'].sum())} crowd, "
        f"{int(counts['difficult'].sum())} difficult",
        f"  {empty} images without an instance to train on" + (f"; {left_out} more left out" if left_out else ""),
    ]
    if usable.size:
        # Of a long list the largest classes are shown.
        order = np.arange(usable.size) if usable.size <= _SHOWN else np.argsort(-usable, kind="stable")
        shown = [f"{dataset.class_names[i]} {usable[i]}" for i in order[:_SHOWN]]
        more = f", ... {usable.size - _SHOWN} classes more" if usable.size > _SHOWN else ""
        lines.append(f"  instances a class: {', '.join(shown)}{more} (fewest {usable.min()}, most {usable.max()})")
    none = [dataset.class_names[i] for i in np.flatnonzero(usable == 0)]
    if none:
        lines.append(f"  warning: {len(none)} classes have no instance: {_shorten(none)}")
    return lines


def fault_lines(faults: AnnotationFaults) -> list[str]:
    """Text about annotation faults, with an example of each."""
    if not faults.counts:
        return ["  no annotation faults"]
    return [f"  warning: {sum(faults.counts.values())} annotation faults; none of them reaches training:", *faults.lines()]


def _shorten(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
