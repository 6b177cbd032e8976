"""The keypoint head of Mask R-CNN for poses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor
from torchvision.models.detection.roi_heads import keypointrcnn_inference, keypointrcnn_loss

from pet.models.heads.roi.faster import required
from pet.models.heads.roi.mask import DETECTIONS, positives
from pet.models.layers.regions import RegionPool
from pet.models.registry import KEYPOINT_HEADS


@KEYPOINT_HEADS.register("keypoint_rcnn")
class KeypointHead(nn.Module):
    """A heat map for each keypoint of a region. Source: arXiv 1703.06870, section 5.

    Args:
        in_channels: of each level, finest first.
        num_classes: not used, all classes have the same keypoints.
        pool_resolution, sampling_ratio: see ``RegionPool``. The heat maps are four times as large.
        channels: of each convolution.
        num_keypoints: of an object.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int = 1,
        *,
        pool_resolution: int = 14,
        sampling_ratio: int = 2,
        channels: Sequence[int] = (512,) * 8,
        num_keypoints: int = 17,
    ) -> None:
        super().__init__()
        self.pool = RegionPool(in_channels, pool_resolution, sampling_ratio)
        self.head = KeypointRCNNHeads(self.pool.channels, channels)
        self.predictor = KeypointRCNNPredictor([self.pool.channels, *channels][-1], num_keypoints)

    def forward(
        self,
        levels: list[Tensor],
        images: ImageList,
        instances: list[dict[str, Tensor]],
        targets: list[dict[str, Tensor]] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Learn the keypoints of the sampled objects, or predict those of the detections.

        Args:
            levels: maps, finest first.
            images: their padded size matters.
            instances: what the box head returned.
            targets: in training, ``keypoints`` (K, P, 3) of each image: x, y in pixels, visibility (0: not labelled).

        Returns:
            Training: the instances and ``loss_keypoint``. Evaluation: the instances with ``keypoints`` (D, P, 3), x, y in
            pixels and 1, and ``keypoint_scores`` (D, P), logits; and no losses.
        """
        if self.training:
            samples = positives(instances)
            boxes = [sample["boxes"] for sample in samples]
            keypoints = [target["keypoints"] for target in required(targets)]
            logits = self.logits(levels, images, boxes)
            return instances, {"loss_keypoint": keypointrcnn_loss(logits, boxes, keypoints, [s["matched"] for s in samples])}
        return self.attach(instances, self.maps(levels, images, instances)), {}

    def maps(self, levels: list[Tensor], images: ImageList, instances: list[dict[str, Tensor]]) -> list[Tensor]:
        """Heat maps (D, P, M, M) of the instances of each image, logits over the cells of a box."""
        boxes = [instance["boxes"] for instance in instances]
        return list(self.logits(levels, images, boxes).split([box.shape[0] for box in boxes]))  # len() is a constant in a trace

    def attach(self, instances: list[dict[str, Tensor]], maps: list[Tensor]) -> list[dict[str, Tensor]]:
        """The instances with ``keypoints`` and ``keypoint_scores``, where the maps are highest."""
        boxes = [instance["boxes"] for instance in instances]
        found = zip(instances, *keypointrcnn_inference(torch.cat(maps), boxes), strict=True)
        return [{**instance, "keypoints": points, "keypoint_scores": scores} for instance, points, scores in found]

    def logits(self, levels: list[Tensor], images: ImageList, boxes: list[Tensor]) -> Tensor:
        """Heat maps (sum of P, num_keypoints, M, M) float32."""
        logits: Tensor = self.predictor(self.head(self.pool(levels, boxes, images)))
        return logits.float()

    def dry_run(self, levels: list[Tensor]) -> None:
        """Run the layers on 100 regions, for the analyser."""
        self.predictor(self.head(self.pool.placeholder(levels, DETECTIONS)))
