"""RetinaNet. Source: arXiv 1708.02002; the parts are torchvision's."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.retinanet import RetinaNetHead as Convolutions

from pet.models.heads.det.dense import GROUPS, DenseHead, LevelsOnly, check_groups, keep_head_only, shared_channels
from pet.models.registry import DET_HEADS

BOX_LOSSES = ("l1", "smooth_l1", "giou")
NORMS: dict[str, Any] = {"": None, "GN": partial(nn.GroupNorm, GROUPS)}


@DET_HEADS.register("retinanet")
class RetinaNetHead(DenseHead, RetinaNet):
    """Focal loss on sigmoid scores, nine anchors a cell, four convolutions shared by all levels.

    Args:
        channels: of each level; all the same.
        num_classes: without background, which is where no class scores high.
        anchor_sizes: pixels, the smallest of each level.
        octaves: sizes within an octave: 3 means factors 1, 2^(1/3) and 2^(2/3), rounded down as torchvision does.
        aspect_ratios: height / width.
        norm: of the four convolutions: ``""``, or ``GN`` as in torchvision's v2.
        box_loss: ``l1``, ``smooth_l1`` (beta 1), or ``giou`` as in torchvision's v2.
        fg_iou, bg_iou: anchors above the first are positive, below the second negative.
        score_thresh: lowest score of a detection.
        nms_thresh: IoU.
        detections_per_img: kept after NMS.
        topk_candidates: of each level before NMS.
    """

    def __init__(
        self,
        channels: Sequence[int],
        num_classes: int,
        *,
        anchor_sizes: Sequence[int] = (32, 64, 128, 256, 512),
        octaves: int = 3,
        aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0),
        norm: str = "",
        box_loss: str = "l1",
        fg_iou: float = 0.5,
        bg_iou: float = 0.4,
        score_thresh: float = 0.05,
        nms_thresh: float = 0.5,
        detections_per_img: int = 100,
        topk_candidates: int = 1000,
    ) -> None:
        if norm not in NORMS or box_loss not in BOX_LOSSES:
            raise ValueError(f"retinanet: norm '{norm}' is one of '', 'GN', and box_loss '{box_loss}' of {', '.join(BOX_LOSSES)}")
        width = shared_channels("retinanet", channels, anchor_sizes)
        if norm:
            check_groups("retinanet with NORM GN", width)
        sizes = tuple(tuple(int(size * 2 ** (step / octaves)) for step in range(octaves)) for size in anchor_sizes)
        anchors = AnchorGenerator(sizes, (tuple(aspect_ratios),) * len(sizes))
        convolutions = Convolutions(width, octaves * len(aspect_ratios), num_classes, norm_layer=NORMS[norm])
        convolutions.regression_head._loss_type = box_loss
        super().__init__(
            LevelsOnly(width),
            num_classes,
            anchor_generator=anchors,
            head=convolutions,
            score_thresh=score_thresh,
            nms_thresh=nms_thresh,
            detections_per_img=detections_per_img,
            fg_iou_thresh=fg_iou,
            bg_iou_thresh=bg_iou,
            topk_candidates=topk_candidates,
        )
        keep_head_only(self)
