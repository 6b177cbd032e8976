"""The box head of Cascade R-CNN."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from pet.models.heads.roi.faster import required
from pet.models.heads.roi.features import LastStage
from pet.models.heads.roi.stage import BoxStage, without_empty
from pet.models.registry import BOX_HEADS


@BOX_HEADS.register("cascade")
class CascadeHead(nn.Module):
    """Stages that each start from the boxes of the one before, and ask for a better fit. Source: arXiv 1712.00726.

    A stage samples anew from the boxes that the stage before moved, and the true ones (section 4.1). Box regression is
    class-agnostic. At test time the scores are the mean over the stages, the boxes those of the last.

    Args:
        channels: of each level, finest first.
        num_classes: without background.
        iou_thresholds: of each stage: the overlap that makes a proposal an object.
        bbox_reg_weights: of each stage: scale of the box codes x, y, w, h.
        loss_weights: of each stage.
        stage: further options of each stage, see ``BoxStage``.
    """

    def __init__(
        self,
        channels: Sequence[int],
        num_classes: int,
        *,
        iou_thresholds: Sequence[float] = (0.5, 0.6, 0.7),
        bbox_reg_weights: Sequence[Sequence[float]] = (
            (10.0, 10.0, 5.0, 5.0),
            (20.0, 20.0, 10.0, 10.0),
            (30.0, 30.0, 15.0, 15.0),
        ),
        loss_weights: Sequence[float] = (1.0, 0.5, 0.25),
        **stage: Any,
    ) -> None:
        super().__init__()
        lengths = (len(iou_thresholds), len(bbox_reg_weights), len(loss_weights))
        if len(set(lengths)) != 1 or not lengths[0]:
            raise ValueError(
                "MODEL.ROI_HEAD.CASCADE: IOU_THRESHOLDS, BBOX_REG_WEIGHTS and LOSS_WEIGHTS describe "
                f"{lengths[0]}, {lengths[1]} and {lengths[2]} stages; give as many of each"
            )
        self.loss_weights = tuple(loss_weights)
        self.stages = nn.ModuleList(
            BoxStage(channels, num_classes, fg_iou=iou, bg_iou=iou, bbox_reg_weights=weights, class_agnostic=True, **stage)
            for iou, weights in zip(iou_thresholds, bbox_reg_weights, strict=True)
        )

    @property
    def maps_of_regions(self) -> LastStage | None:
        """The layers whose maps a mask head shares."""
        last: Any = self.stages[-1]
        return last.maps_of_regions

    @property
    def nms_thresh(self) -> float:
        """Of the detections: see ``BoxStage``."""
        last: Any = self.stages[-1]
        return float(last.nms_thresh)

    @property
    def detections_per_img(self) -> int:
        """At most: see ``BoxStage``."""
        last: Any = self.stages[-1]
        return int(last.detections_per_img)

    def forward(
        self, levels: list[Tensor], images: ImageList, proposals: list[Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """As ``FasterHead.forward``; the sample is that of the last stage, the losses are called ``stage0_loss_cls``, ..."""
        if self.training:
            return self._train(levels, images, proposals, required(targets))
        return self._detect(levels, images, proposals), {}

    def _train(
        self, levels: list[Tensor], images: ImageList, boxes: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        samples: list[dict[str, Tensor]] = []
        losses: dict[str, Tensor] = {}
        for index, (stage, weight) in enumerate(zip(self.stages, self.loss_weights, strict=True)):
            samples, true_codes = stage.sample(boxes, targets)
            sampled = [sample["boxes"] for sample in samples]
            logits, codes = stage.predict(levels, images, sampled)
            for name, loss in stage.losses(logits, codes, samples, true_codes).items():
                losses[f"stage{index}_{name}"] = loss * weight
            boxes = without_empty(stage.refine(codes, sampled, images))
        return samples, losses

    def _detect(self, levels: list[Tensor], images: ImageList, boxes: list[Tensor]) -> list[dict[str, Tensor]]:
        scores: list[Tensor] = []
        for index, stage in enumerate(self.stages):
            logits, codes = stage.predict(levels, images, boxes)
            scores.append(logits.softmax(dim=1))
            if index + 1 < len(self.stages):
                boxes = stage.refine(codes, boxes, images)
        # the softmax of the logarithm of probabilities is these probabilities again
        return stage.detect(torch.stack(scores).mean(dim=0).log(), codes, boxes, images)

    def dry_run(self, levels: list[Tensor]) -> None:
        """Run the layers of all stages on 1000 regions each, for the analyser."""
        for stage in self.stages:
            stage.dry_run(levels)
