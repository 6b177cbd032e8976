"""FCOS, a detector without anchor shapes. Source: arXiv 1904.01355 and 2006.09214; the parts are torchvision's."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torchvision.models.detection import FCOS
from torchvision.models.detection.anchor_utils import AnchorGenerator

from pet.models.heads.det.dense import DenseHead, LevelsOnly, check_groups, keep_head_only, shared_channels
from pet.models.registry import DET_HEADS


@DET_HEADS.register("fcos")
class FCOSHead(DenseHead, FCOS):
    """Every cell near the centre of an object predicts the distances to its four sides, and how central it is.

    Args:
        channels: of each level; all the same.
        num_classes: without background.
        anchor_sizes: pixels, the stride of each level: a cell of stride s is responsible for distances of 4 s to 8 s.
        center_sampling_radius: cells within that many strides of the centre are positive.
        score_thresh: lowest score, the root of class score times centrality.
        nms_thresh: IoU.
        detections_per_img: kept after NMS.
        topk_candidates: of each level before NMS.
    """

    def __init__(
        self,
        channels: Sequence[int],
        num_classes: int,
        *,
        anchor_sizes: Sequence[int] = (8, 16, 32, 64, 128),
        center_sampling_radius: float = 1.5,
        score_thresh: float = 0.2,
        nms_thresh: float = 0.6,
        detections_per_img: int = 100,
        topk_candidates: int = 1000,
    ) -> None:
        width = shared_channels("fcos", channels, anchor_sizes)
        check_groups("fcos", width)
        anchors = AnchorGenerator(tuple((size,) for size in anchor_sizes), ((1.0,),) * len(anchor_sizes))
        super().__init__(
            LevelsOnly(width),
            num_classes,
            anchor_generator=anchors,
            center_sampling_radius=center_sampling_radius,
            score_thresh=score_thresh,
            nms_thresh=nms_thresh,
            detections_per_img=detections_per_img,
            topk_candidates=topk_candidates,
        )
        keep_head_only(self)

    def _losses(
        self, outputs: dict[str, Tensor], anchors: list[Tensor], targets: list[dict[str, Tensor]], counts: list[int]
    ) -> dict[str, Tensor]:
        return self.compute_loss(targets, outputs, anchors, counts)
