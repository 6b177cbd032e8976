"""One stage of classification and box regression, of which box heads are made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss
from torchvision.ops import clip_boxes_to_image, remove_small_boxes

from pet.models.heads.roi.features import LastStage, build_features
from pet.models.layers.regions import RegionPool

PROPOSALS = 1000  # what a dry run assumes for an image
MIN_SIZE = 1e-2  # pixels; what torchvision's detectors keep


class BoxStage(RoIHeads):
    """torchvision's box head, with each of its steps on its own.

    Args:
        channels: of each level, finest first.
        num_classes: without background.
        head: ``two_mlp`` two linear layers; ``conv_fc`` four convolutions with BatchNorm and one linear layer (torchvision's
            v2); ``res5`` the last stage of the backbone, on the level before it (C4; takes ``pool_resolution`` 14).
        fc_dim: width of the linear layers.
        pool_resolution, sampling_ratio: see ``RegionPool``.
        fg_iou, bg_iou: a proposal with at least / less than that overlap with an object is one / is background.
        batch_size_per_image, positive_fraction: proposals of an image that the losses see; largest share of objects among them.
        bbox_reg_weights: scale of the box codes x, y, w, h.
        score_thresh: detections score more than that.
        nms_thresh: overlap of two detections of a class above which the worse one goes.
        detections_per_img: at most.
        class_agnostic: one box for all classes instead of one for each.
        backbone, backbone_options, pretrained, norm: of the backbone, for ``res5``; see ``build_backbone``.
    """

    def __init__(
        self,
        channels: Sequence[int],
        num_classes: int,
        *,
        head: str = "two_mlp",
        fc_dim: int = 1024,
        pool_resolution: int = 7,
        sampling_ratio: int = 2,
        fg_iou: float = 0.5,
        bg_iou: float = 0.5,
        batch_size_per_image: int = 512,
        positive_fraction: float = 0.25,
        bbox_reg_weights: Sequence[float] = (10.0, 10.0, 5.0, 5.0),
        score_thresh: float = 0.05,
        nms_thresh: float = 0.5,
        detections_per_img: int = 100,
        class_agnostic: bool = False,
        backbone: str = "torchvision/resnet50",
        backbone_options: dict[str, Any] | None = None,
        pretrained: bool = False,
        norm: str = "",
    ) -> None:
        super().__init__(
            *(None, None, None),  # the three parts below, under shorter names
            fg_iou,
            bg_iou,
            batch_size_per_image,
            positive_fraction,
            tuple(bbox_reg_weights),
            score_thresh,
            nms_thresh,
            detections_per_img,
        )
        self.pool = RegionPool(channels, pool_resolution, sampling_ratio)
        last_stage = {"backbone": backbone, "options": backbone_options or {}, "pretrained": pretrained, "norm": norm}
        self.head, width = build_features(head, self.pool.channels, pool_resolution, fc_dim, last_stage)
        self.predictor = FastRCNNPredictor(width, num_classes + 1)
        self.class_agnostic, self.num_classes = class_agnostic, num_classes
        if class_agnostic:
            self.predictor.bbox_pred = nn.Linear(width, 4)

    @property
    def maps_of_regions(self) -> LastStage | None:
        """The layers whose maps a mask head shares."""
        return self.head if isinstance(self.head, LastStage) else None

    def predict(self, levels: list[Tensor], images: ImageList, boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Logits (P, num_classes + 1), background first, and box codes (P, 4 or 4 (num_classes + 1)) of all boxes; float32."""
        logits, codes = self.predictor(self.head(self.pool(levels, boxes, images)))
        return logits.float(), codes.float()

    def sample(self, proposals: list[Tensor], targets: list[dict[str, Tensor]]) -> tuple[list[dict[str, Tensor]], list[Tensor]]:
        """Draw the proposals to train on, the true boxes among them, and what the regression should answer.

        Args:
            proposals: (P, 4) xyxy of each image.
            targets: ``boxes`` (K, 4), ``labels`` (K,) from 0 of each image.

        Returns:
            For each image ``boxes`` (S, 4), ``labels`` (S,) with 0 for background and 1.. for the classes, ``matched`` (S,)
            index of the true box; and box codes (S, 4).
        """
        shifted = [{"boxes": target["boxes"], "labels": target["labels"] + 1} for target in targets]
        boxes, matched, labels, codes = self.select_training_samples(proposals, shifted)
        columns = zip(boxes, labels, matched, strict=True)
        return [{"boxes": box, "labels": label, "matched": match} for box, label, match in columns], list(codes)

    def losses(
        self, logits: Tensor, codes: Tensor, samples: list[dict[str, Tensor]], true_codes: list[Tensor]
    ) -> dict[str, Tensor]:
        """``loss_cls`` and ``loss_box_reg``; zero, but connected to the parameters, if there is no sample at all."""
        if not len(logits):
            return {"loss_cls": logits.sum(), "loss_box_reg": codes.sum()}
        classification, regression = fastrcnn_loss(
            logits, self._for_each_class(codes), [sample["labels"] for sample in samples], true_codes
        )
        return {"loss_cls": classification, "loss_box_reg": regression}

    def detect(self, logits: Tensor, codes: Tensor, boxes: list[Tensor], images: ImageList) -> list[dict[str, Tensor]]:
        """Detections of each image, best first: ``boxes`` (D, 4) xyxy, ``scores`` (D,), ``labels`` (D,) from 0."""
        found = self.postprocess_detections(logits, self._for_each_class(codes), boxes, images.image_sizes)
        return [{"boxes": box, "scores": score, "labels": label - 1} for box, score, label in zip(*found, strict=True)]

    @torch.no_grad()
    def refine(self, codes: Tensor, boxes: list[Tensor], images: ImageList) -> list[Tensor]:
        """Boxes after class-agnostic regression, inside the image, as many as before."""
        moved = self.box_coder.decode(codes, boxes).reshape(-1, 4).split([box.shape[0] for box in boxes])
        return [clip_boxes_to_image(box, size) for box, size in zip(moved, images.image_sizes, strict=True)]

    def dry_run(self, levels: list[Tensor]) -> None:
        """Run the layers on 1000 regions, for the analyser."""
        self.predictor(self.head(self.pool.placeholder(levels, PROPOSALS)))

    def _for_each_class(self, codes: Tensor) -> Tensor:
        return codes.repeat(1, self.num_classes + 1) if self.class_agnostic else codes


def without_empty(boxes: list[Tensor]) -> list[Tensor]:
    """The boxes (P, 4) of each image that have an extent."""
    return [box[remove_small_boxes(box, MIN_SIZE)] for box in boxes]
