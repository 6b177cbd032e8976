"""The data report of sets with boxes, masks, keypoints or label maps."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Literal

import numpy as np

from pet.data.datasets.annotated import INSTANCE_KINDS, AnnotatedDataset, SizeMismatchError, check_size
from pet.data.datasets.annotation_faults import FAULTS, AnnotationFaults
from pet.data.structures import BadImageError

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
    faults.counts.update(dataset.faults)
    faults.examples.update(dataset.fault_examples)
    pictures = _read_all(dataset, faults) if check == "full" else []
    return lines + _fault_lines(faults) + pictures


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


def _fault_lines(faults: AnnotationFaults) -> list[str]:
    if not faults.counts:
        return ["  no annotation faults"]
    lines = [f"  warning: {sum(faults.counts.values())} annotation faults; none of them reaches training:"]
    for name, count in sorted(faults.counts.items(), key=lambda item: (-item[1], item[0])):
        lines.append(f"    {name}: {count} ({FAULTS[name]}), e.g. {faults.examples.get(name, '')}")
    return lines


def _read_all(dataset: AnnotatedDataset, faults: AnnotationFaults) -> list[str]:
    sizes, bad = [], []
    for index in range(len(dataset)):
        try:
            sizes.append(_check(dataset, index))
            for place in dataset.missing_segments(index):
                faults.add("missing_segment", place)
        except SizeMismatchError as error:
            faults.add("image_size_mismatch", str(error))
        except BadImageError as error:
            missing = dataset.source is not None and not os.path.exists(dataset.describe(index))
            if not missing:
                bad.append(str(error))
            elif not dataset.faults["missing_image_file"]:  # otherwise counted when the set was loaded
                faults.add("missing_image_file", dataset.describe(index))
    lines = []
    if sizes:
        low, high = np.min(sizes, 0), np.max(sizes, 0)
        lines.append(f"  sizes (height x width): {low[0]}x{low[1]} to {high[0]}x{high[1]}")
    if not bad:
        return [*lines, f"  {len(sizes)} of {len(dataset)} images can be read and fit their annotations"]
    more = [f"    ... {len(bad) - _SHOWN} more"] if len(bad) > _SHOWN else []
    return [*lines, f"  warning: {len(bad)} images cannot be read:", *(f"    {line}" for line in bad[:_SHOWN]), *more]


def _check(dataset: AnnotatedDataset, index: int) -> tuple[int, int]:
    """Size of picture ``index``, after it was compared with all its annotations."""
    image = dataset.picture(index)
    size = (image.shape[0], image.shape[1])
    truth = dataset.annotations(index)
    check_size(dataset.describe(index), size, (truth.height, truth.width))
    if "semseg" in dataset.kinds:
        check_size(dataset.describe(index), size, dataset.semseg(index).shape)
    return size


def _shorten(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
