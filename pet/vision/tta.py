"""Test-time augmentation: predictions of several views of a picture become one.

Boxes of all views go through non-maximum suppression together; masks and heat maps are computed for the boxes that remain, on
every view, and averaged. So does detectron2's GeneralizedRCNNWithTTA for masks. Semantic maps and classes of pictures are means
of probabilities.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pet.data.structures import Batch
from pet.data.transforms.annotations import mirror_order
from pet.data.views import ViewBatch, mirrored_sides
from pet.models.layers.regions import merge_detections
from pet.vision.model_builder import GeneralizedCNN
from pet.vision.parts import Size, by_row, equal_parts, valid_sizes, with_geometry

Instances = dict[str, Tensor]


def predict_views(net: GeneralizedCNN, batch: ViewBatch) -> dict[str, Any]:
    """Merged predictions, as those of the first view: boxes and keypoints in its pixels.

    The backbone runs once on each view. If there are heads for masks or keypoints, the feature levels of all views are in memory
    at a time.

    Returns:
        By name a list with one entry for each picture: ``instances`` or ``proposals``; ``scores`` (C,); ``semseg``, lists of
        ``SemanticView``.
    """
    views = [View(net, view, flip) for view, flip in zip(batch.views, batch.flips, strict=True)]
    first = views[0]
    outputs = {name: list(zip(*(view.found[name] for view in views), strict=True)) for name in first.found}
    for name in ("instances", "proposals"):
        if name in outputs:
            outputs[name] = _merge_boxes(net.final_boxes(), views, name)
    if "scores" in outputs:
        outputs["scores"] = [torch.stack(scores).mean(dim=0) for scores in outputs["scores"]]
    for name, head in net.region_heads().items():
        _need(head, "maps", "attach")
        pairs = batch.flip_pairs if name == "keypoint" else ()
        of_views = [view.maps(head, outputs["instances"], first.sizes, pairs) for view in views]
        means = [torch.stack(maps).mean(dim=0) for maps in zip(*of_views, strict=True)]
        outputs["instances"] = head.attach(outputs["instances"], means)
    return outputs


class View:
    """One view of the pictures of a batch: what was found in it, and the way to and from the first view.

    Args:
        net: the network.
        batch: the pictures as the view shows them.
        flip: how they are mirrored, a name of ``pet.data.views.FLIPS`` or empty.

    Attributes:
        sizes: (height, width) of each picture in this view.
        found: see ``GeneralizedCNN.find``, by picture.
    """

    def __init__(self, net: GeneralizedCNN, batch: Batch, flip: str) -> None:
        self.horizontal, self.vertical = mirrored_sides(flip)
        self.axes = tuple(axis for axis, mirrored in ((-2, self.vertical), (-1, self.horizontal)) if mirrored)
        self.sizes, self._parts = valid_sizes(batch), equal_parts(batch)
        self._levels: list[list[Tensor]] = []
        found = []
        for part in self._parts:
            levels = net.levels(part.images.tensors, part.images.image_sizes)[1]
            found.append(with_geometry(net.find(levels, part.images), part, self.axes))
            self._levels.append(levels if net.region_heads() else [])
        self.found = by_row(self._parts, found)

    def to_first(self, boxes: Tensor, row: int, first: Size) -> Tensor:
        """Boxes (K, 4) xyxy of picture ``row`` from pixels of this view to pixels of the first."""
        return _scale(self._mirror(boxes, row), self.sizes[row], first)

    def from_first(self, boxes: Tensor, row: int, first: Size) -> Tensor:
        """The way back of ``to_first``."""
        return self._mirror(_scale(boxes, first, self.sizes[row]), row)

    def maps(
        self, head: nn.Module, instances: list[Instances], first: list[Size], pairs: tuple[tuple[int, int], ...]
    ) -> list[Tensor]:
        """Maps (K, C, M, M) that a region head finds in this view for instances of the first, not mirrored.

        Args:
            head: for masks or keypoints.
            instances: of each picture.
            first: sizes of the pictures in the first view.
            pairs: channels that change places in a mirror.
        """
        region_head: Any = head
        found = []
        for part, levels in zip(self._parts, self._levels, strict=True):
            seen = [{**instances[row], "boxes": self.from_first(instances[row]["boxes"], row, first[row])} for row in part.rows]
            found.append({"maps": region_head.maps(levels, part.images, seen)})
        maps = [one.flip(self.axes) if self.axes else one for one in by_row(self._parts, found)["maps"]]
        if self.horizontal == self.vertical or not pairs:
            return maps
        return [one[:, mirror_order(one.shape[1], pairs)] for one in maps]

    def _mirror(self, boxes: Tensor, row: int) -> Tensor:
        height, width = self.sizes[row]
        x0, y0, x1, y1 = boxes.unbind(dim=1)
        if self.horizontal:
            x0, x1 = width - x1, width - x0
        if self.vertical:
            y0, y1 = height - y1, height - y0
        return torch.stack((x0, y0, x1, y1), dim=1)


def _scale(boxes: Tensor, old: Size, new: Size) -> Tensor:
    y, x = new[0] / old[0], new[1] / old[1]
    return boxes * boxes.new_tensor([x, y, x, y])


def _merge_boxes(head: nn.Module, views: list[View], name: str) -> list[Instances]:
    """The boxes of all views of each picture, in pixels of the first view."""
    _need(head, "nms_thresh", "detections_per_img")
    limits: Any = head
    merged = []
    for row, size in enumerate(views[0].sizes):
        found = [view.found[name][row] for view in views]
        moved = [view.to_first(one["boxes"], row, size) for view, one in zip(views, found, strict=True)]
        candidates = [{**one, "boxes": boxes} for one, boxes in zip(found, moved, strict=True)]
        merged.append(merge_detections(candidates, limits.nms_thresh, limits.detections_per_img))
    return merged


def _need(head: nn.Module, *names: str) -> None:
    """Refuse a head of a user's own that lacks what merging takes."""
    lacking = [name for name in names if not hasattr(head, name)]
    if lacking:
        raise ValueError(
            f"TEST.TTA cannot merge what {type(head).__name__} finds: the head has no {' and no '.join(lacking)} (see "
            "pet.models.heads). Add it, or set TEST.TTA.ENABLED False"
        )
