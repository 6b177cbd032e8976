"""What happens to the labels of a picture when its geometry changes.

Every function takes a target (see ``Sample``) and returns a new one; targets without ``boxes``, ``masks``, ``keypoints`` and
``semseg`` come back as they are. Arrays are never written to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from pet.data.masks import InstanceMasks, mirror, scale_nearest

Target = dict[str, Any]
Size = tuple[int, int]  # (height, width)
Floats = npt.NDArray[np.float32]

IGNORE_LABEL = 255
# One row for each instance.
INSTANCES = ("boxes", "labels", "masks", "keypoints")
_GEOMETRIC = frozenset({"boxes", "masks", "keypoints", "semseg"})


def has_geometry(target: Target) -> bool:
    """Whether anything in ``target`` moves with the pixels."""
    return not _GEOMETRIC.isdisjoint(target)


def select_instances(target: Target, which: npt.NDArray[Any]) -> Target:
    """The target with the instances at ``which`` (indices, or a bool for each) only."""
    if which.dtype == bool and which.all():
        return target
    chosen = {name: target[name] for name in INSTANCES if name in target}
    kept = {name: value.select(which) if isinstance(value, InstanceMasks) else value[which] for name, value in chosen.items()}
    return {**target, **kept}


def join_instances(targets: Sequence[Target]) -> Target:
    """The first target with the instances of all, in order; the others must have the same kinds of labels."""
    result = dict(targets[0])
    for name in INSTANCES:
        if name not in result:
            continue
        values = [target[name] for target in targets]
        result[name] = InstanceMasks.concatenate(values) if name == "masks" else np.concatenate(values)
    return result


def resize_target(target: Target, old: Size, new: Size) -> Target:
    """Labels of a picture of size ``old`` scaled to ``new``."""
    if old == new or not has_geometry(target):
        return target
    x, y = new[1] / old[1], new[0] / old[0]
    result = dict(target)
    if "boxes" in target:
        scaled = target["boxes"] * np.array([x, y, x, y], np.float32)
        # Rounding must not carry a border beyond that of the picture.
        result["boxes"] = np.minimum(scaled, np.array([new[1], new[0]] * 2, np.float32))
    if "masks" in target:
        result["masks"] = target["masks"].resize(new)
    if "keypoints" in target:
        result["keypoints"] = target["keypoints"] * np.array([x, y, 1], np.float32)
    if "semseg" in target:
        result["semseg"] = scale_nearest(target["semseg"], new)
    return result


def flip_target(
    target: Target,
    size: Size,
    horizontal: bool = False,
    vertical: bool = False,
    flip_pairs: Sequence[Sequence[int]] = (),
) -> Target:
    """Labels of a mirrored picture.

    Args:
        target: labels before.
        size: (height, width) of the picture.
        horizontal, vertical: which sides change places.
        flip_pairs: keypoints that change places when the picture is mirrored once (a left hand becomes a right hand).
    """
    if not has_geometry(target):
        return target
    result = dict(target)
    sign = np.array([-1 if horizontal else 1, -1 if vertical else 1], np.float32)
    offset = np.array([size[1] if horizontal else 0, size[0] if vertical else 0], np.float32)
    if "boxes" in target:
        corners = target["boxes"].reshape(-1, 2, 2) * sign + offset
        result["boxes"] = np.concatenate([corners.min(1), corners.max(1)], 1)
    if "masks" in target:
        result["masks"] = target["masks"].flip(horizontal, vertical)
    if "keypoints" in target:
        points = _move_points(target["keypoints"], sign, offset)
        result["keypoints"] = points[:, mirror_order(points.shape[1], flip_pairs)] if horizontal != vertical else points
    if "semseg" in target:
        result["semseg"] = mirror(target["semseg"], horizontal, vertical)
    return result


def crop_target(target: Target, top: int, left: int, size: Size, keep: npt.NDArray[np.bool_] | None = None) -> Target:
    """Labels of the part of ``size`` that starts at (top, left).

    Boxes are cut at the border. Instances go when nothing of their box, or of their mask, remains; keypoints outside count as
    not labelled.

    Args:
        target: labels before.
        top, left, size: the part, inside the picture.
        keep: (K,) further condition for an instance to stay.
    """
    if not has_geometry(target):
        return target
    result = target if keep is None else select_instances(target, keep)
    result = dict(result)
    if "semseg" in target:
        result["semseg"] = target["semseg"][top : top + size[0], left : left + size[1]]
    if "keypoints" in target:
        result["keypoints"] = _crop_points(result["keypoints"], top, left, size)
    if "masks" in target:
        result["masks"] = result["masks"].crop(top, left, size)
    if "boxes" in target:
        shifted = result["boxes"] - np.array([left, top, left, top], np.float32)
        result["boxes"] = np.clip(shifted, 0, np.array([size[1], size[0]] * 2, np.float32))
        result = select_instances(result, has_area(result["boxes"]))
    return select_instances(result, has_area(result["masks"].boxes())) if "masks" in target else result


def pad_target(target: Target, top: int, left: int, size: Size, ignore_label: int = IGNORE_LABEL) -> Target:
    """Labels of a picture placed at (top, left) of a canvas of ``size``; ``semseg`` is ``ignore_label`` around it."""
    if not has_geometry(target):
        return target
    result = dict(target)
    offset = np.array([left, top], np.float32)
    if "boxes" in target:
        result["boxes"] = target["boxes"] + np.tile(offset, 2)
    if "masks" in target:
        result["masks"] = target["masks"].pad(top, left, size)
    if "keypoints" in target:
        result["keypoints"] = _move_points(target["keypoints"], np.ones(2, np.float32), offset)
    if "semseg" in target:
        height, width = target["semseg"].shape
        border = (top, size[0] - top - height, left, size[1] - left - width)
        result["semseg"] = cv2.copyMakeBorder(target["semseg"], *border, cv2.BORDER_CONSTANT, value=ignore_label)
    return result


def has_area(boxes: Floats) -> npt.NDArray[np.bool_]:
    """Which of ``boxes`` (K, 4) xyxy are not empty: (K,) bool."""
    return np.asarray((boxes[:, 2:] > boxes[:, :2]).all(1))


def _move_points(keypoints: Floats, sign: Floats, offset: Floats) -> Floats:
    """``xy * sign + offset`` for labelled keypoints (K, P, 3); the others stay where they are."""
    points = keypoints.copy()
    moved = points[..., :2] * sign + offset
    np.copyto(points[..., :2], moved, where=points[..., 2:] > 0)
    return points


def _crop_points(keypoints: Floats, top: int, left: int, size: Size) -> Floats:
    points = _move_points(keypoints, np.ones(2, np.float32), np.array([-left, -top], np.float32))
    x, y = points[..., 0], points[..., 1]
    points[(x < 0) | (y < 0) | (x >= size[1]) | (y >= size[0])] = 0
    return points


def mirror_order(count: int, flip_pairs: Sequence[Sequence[int]]) -> npt.NDArray[np.int64]:
    """Where each of ``count`` keypoints comes from in a mirrored picture: (count,) indices."""
    order = np.arange(count)
    for first, second in flip_pairs:
        order[[first, second]] = second, first
    return order
