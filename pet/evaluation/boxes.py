"""Overlaps of boxes and greedy recall, as functions of arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def box_iou(first: NDArray[Any], second: NDArray[Any], inclusive: bool = False) -> Floats:
    """Intersection over union of every box with every other.

    Args:
        first: (N, 4) x1 y1 x2 y2.
        second: (M, 4).
        inclusive: x2 and y2 are the last pixels of the box (VOC files), so a width is x2 - x1 + 1.

    Returns:
        (N, M); 0 where both boxes are empty.
    """
    one, two = np.asarray(first, np.float64).reshape(-1, 4), np.asarray(second, np.float64).reshape(-1, 4)
    extra = 1.0 if inclusive else 0.0
    low = np.maximum(one[:, None, :2], two[None, :, :2])
    high = np.minimum(one[:, None, 2:], two[None, :, 2:])
    shared = np.clip(high - low + extra, 0, None).prod(axis=2)
    areas = [np.clip(boxes[:, 2:] - boxes[:, :2] + extra, 0, None).prod(axis=1) for boxes in (one, two)]
    union = areas[0][:, None] + areas[1][None, :] - shared
    ious: Floats = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return ious


def greedy_overlaps(ious: NDArray[Any]) -> Floats:
    """IoU with which each object is found when the best pair is taken again and again.

    Args:
        ious: (proposals, objects).

    Returns:
        (objects,) values, highest first; 0 for objects without a proposal.
    """
    left = np.array(ious, dtype=np.float64)
    found = np.zeros(left.shape[1])
    for step in range(min(left.shape)):
        proposal, item = np.unravel_index(int(left.argmax()), left.shape)
        if left[proposal, item] <= 0:
            break
        found[step] = left[proposal, item]
        left[proposal], left[:, item] = -1.0, -1.0
    return found
