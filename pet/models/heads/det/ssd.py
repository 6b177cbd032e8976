"""SSD. Source: arXiv 1512.02325; the parts are torchvision's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD
from torchvision.ops import box_iou

from pet.models.heads.det.dense import DenseHead, LevelsOnly, keep_head_only
from pet.models.registry import DET_HEADS


@DET_HEADS.register("ssd")
class SSDHead(DenseHead, SSD):
    """A softmax over the classes and a background for every default box; the hardest negatives count.

    The loss of an image without boxes is 0, because the number of its negatives is a multiple of its positives.

    Args:
        channels: of each level; they may differ.
        num_classes: without background; the head has one logit more, class 0, and labels are shifted inside.
        aspect_ratios: width / height beside 1, of each level.
        scales: side of the boxes of each level as a share of the image, and one more that ends the last.
        steps: pixels between the default boxes of each level.
        iou_thresh: default boxes above it are positive.
        score_thresh: lowest score of a detection.
        nms_thresh: IoU.
        detections_per_img: kept after NMS.
        topk_candidates: of each class before NMS.
        positive_fraction: share of positives among the boxes that the classification loss looks at.
    """

    def __init__(
        self,
        channels: Sequence[int],
        num_classes: int,
        *,
        aspect_ratios: Sequence[Sequence[int]] = ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,)),
        scales: Sequence[float] = (0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05),
        steps: Sequence[int] = (8, 16, 32, 64, 100, 300),
        iou_thresh: float = 0.5,
        score_thresh: float = 0.01,
        nms_thresh: float = 0.45,
        detections_per_img: int = 200,
        topk_candidates: int = 400,
        positive_fraction: float = 0.25,
    ) -> None:
        if not len(aspect_ratios) == len(scales) - 1 == len(steps) == len(channels):
            raise ValueError(
                f"ssd gets {len(channels)} levels; it needs as many ASPECT_RATIOS (has {len(aspect_ratios)}) and STEPS (has "
                f"{len(steps)}), and one more of SCALES (has {len(scales)})"
            )
        boxes = DefaultBoxGenerator([list(ratios) for ratios in aspect_ratios], scales=list(scales), steps=list(steps))
        super().__init__(
            LevelsOnly(list(channels)),
            boxes,
            (1, 1),  # of the transform, which is taken off
            num_classes + 1,
            score_thresh=score_thresh,
            nms_thresh=nms_thresh,
            detections_per_img=detections_per_img,
            iou_thresh=iou_thresh,
            topk_candidates=topk_candidates,
            positive_fraction=positive_fraction,
        )
        keep_head_only(self)
        self.steps = tuple(steps)

    def forward(
        self, levels: list[Tensor], images: ImageList, targets: list[dict[str, Tensor]] | None = None
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """As ``DenseHead``; default boxes that would not cover the image are refused."""
        size = tuple(images.tensors.shape[-2:])
        for axis in (0, 1):
            cells, side = [level.shape[2 + axis] for level in levels], size[axis]
            # Where sides do not divide, the last cell reaches beyond the image, or the image beyond it.
            if any(abs(step * count - side) > step for step, count in zip(self.steps, cells, strict=True)):
                raise ValueError(
                    f"MODEL.GLOBAL_HEAD.DET.SSD.STEPS {self.steps} do not fit images of {size} pixels (height, width): levels of "
                    f"{cells} cells need about {[round(side / n) for n in cells]}. Resize to the size that SCALES and STEPS "
                    "were made for (RESIZE.SCALES_SAMPLING force_size), or set STEPS"
                )
        return super().forward(levels, images, targets)

    def _losses(
        self, outputs: dict[str, Tensor], anchors: list[Tensor], targets: list[dict[str, Tensor]], counts: list[int]
    ) -> dict[str, Tensor]:
        shifted = [{"boxes": target["boxes"], "labels": target["labels"] + 1} for target in targets]
        matched = [self._match(target["boxes"], boxes) for target, boxes in zip(targets, anchors, strict=True)]
        return self.compute_loss(shifted, outputs, anchors, matched)

    def _match(self, truth: Tensor, boxes: Tensor) -> Tensor:
        """Index of the ground truth of each default box, negative for none."""
        if not len(truth):  # the matcher has no maximum over nothing
            return torch.full((len(boxes),), -1, dtype=torch.int64, device=boxes.device)
        matched: Tensor = self.proposal_matcher(box_iou(truth, boxes))
        return matched

    def _detections(
        self, outputs: dict[str, Tensor], anchors: list[Tensor], images: ImageList, counts: list[int]
    ) -> list[dict[str, Tensor]]:
        detections = self.postprocess_detections(outputs, anchors, images.image_sizes)
        return [{**found, "labels": found["labels"] - 1} for found in detections]
