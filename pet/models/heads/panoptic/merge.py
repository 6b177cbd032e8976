"""The merge of Panoptic FPN. Source: arXiv 1801.00868, section 7, and 1901.02446, section 3."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import nms

from pet.models.registry import PANOPTIC_HEADS


@PANOPTIC_HEADS.register("merge")
class Merge(nn.Module):
    """Instances take their pixels in the order of their scores; stuff gets what is left.

    Args:
        num_things: classes of the instances, which are 0 to ``num_things`` - 1.
        num_stuff: stuff classes: 0 to ``num_stuff`` - 1 in the semantic map and ``num_things`` + that in the result. Every
            other value of the semantic map (``num_stuff`` itself stands for things) leaves its pixels void.
        score_thresh: instances below it are left out.
        overlap: an instance goes when more than this share of its mask belongs to better ones already.
        stuff_area: pixels; stuff with less in the whole picture becomes void.
        nms_thresh: of two instances of any class whose boxes have a larger IoU the lower goes; 1: none goes.
    """

    def __init__(
        self,
        num_things: int,
        num_stuff: int,
        *,
        score_thresh: float = 0.6,
        overlap: float = 0.5,
        stuff_area: int = 4096,
        nms_thresh: float = 0.5,
    ) -> None:
        super().__init__()
        self.num_things, self.num_stuff = num_things, num_stuff
        self.score_thresh, self.overlap = score_thresh, overlap
        self.stuff_area, self.nms_thresh = stuff_area, nms_thresh

    @torch.no_grad()
    def forward(self, instances: dict[str, Tensor], semantic: Tensor) -> tuple[Tensor, list[dict[str, Any]]]:
        """Merge one picture.

        Args:
            instances: ``boxes`` (K, 4) xyxy pixels, ``scores`` (K,), ``labels`` (K,), ``masks`` (K, H, W) bool, all at the
                size of ``semantic``.
            semantic: (H, W) integer.

        Returns:
            ids (H, W) int32, 0 for void, and a dict for each other id: ``id`` from 1, ``label``, ``score`` (1.0 for stuff,
            which has none), ``is_thing``, ``area`` in pixels. Things come first, best first, then stuff by class.
        """
        semantic = semantic.long()
        ids = torch.zeros_like(semantic, dtype=torch.int32)
        segments = self._place_things(ids, instances)
        segments += self._place_stuff(ids, semantic, first_id=len(segments) + 1)
        return ids, segments

    def _place_things(self, ids: Tensor, instances: dict[str, Tensor]) -> list[dict[str, Any]]:
        """Write the instances into ``ids``."""
        order = self._candidates(instances)
        labels, scores = instances["labels"][order].tolist(), instances["scores"][order].tolist()
        areas = instances["masks"][order].flatten(1).sum(dim=1).tolist()
        segments: list[dict[str, Any]] = []
        for index, label, score, area in zip(order.tolist(), labels, scores, areas, strict=True):
            free = instances["masks"][index].bool() & (ids == 0)
            left = int(free.sum())
            if left == 0 or area - left > self.overlap * area:
                continue
            segments.append({"id": len(segments) + 1, "label": label, "score": score, "is_thing": True, "area": left})
            ids.masked_fill_(free, segments[-1]["id"])
        return segments

    def _candidates(self, instances: dict[str, Tensor]) -> Tensor:
        """Indices of the instances that score high enough and survive NMS, best first."""
        confident = torch.nonzero(instances["scores"] >= self.score_thresh)[:, 0]
        boxes, scores = instances["boxes"][confident].float(), instances["scores"][confident].float()
        return confident[nms(boxes, scores, self.nms_thresh)]

    def _place_stuff(self, ids: Tensor, semantic: Tensor, first_id: int) -> list[dict[str, Any]]:
        """Write the stuff into what ``ids`` has left over."""
        stuff = (ids == 0) & (semantic >= 0) & (semantic < self.num_stuff)
        areas = torch.bincount(semantic[stuff], minlength=self.num_stuff)
        present = torch.nonzero((areas >= self.stuff_area) & (areas > 0))[:, 0]
        new_ids = torch.zeros(self.num_stuff, dtype=torch.int32, device=ids.device)
        new_ids[present] = torch.arange(first_id, first_id + len(present), dtype=torch.int32, device=ids.device)
        ids[stuff] = new_ids[semantic[stuff]]
        labels, sizes = (present + self.num_things).tolist(), areas[present].tolist()
        return [
            {"id": first_id + index, "label": label, "score": 1.0, "is_thing": False, "area": area}
            for index, (label, area) in enumerate(zip(labels, sizes, strict=True))
        ]
