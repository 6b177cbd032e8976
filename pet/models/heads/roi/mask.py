"""The mask head of Mask R-CNN."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import maskrcnn_inference, maskrcnn_loss

from pet.models.heads.roi.faster import required
from pet.models.heads.roi.features import LastStage
from pet.models.layers.norm import norm_layer
from pet.models.layers.regions import RegionPool
from pet.models.registry import MASK_HEADS

DETECTIONS = 100  # what a dry run assumes for an image


@MASK_HEADS.register("mask_rcnn")
class MaskHead(nn.Module):
    """A mask of fixed size for each region and class. Source: arXiv 1703.06870, section 3 and figure 4.

    Args:
        in_channels: of each level, finest first.
        num_classes: without background.
        pool_resolution, sampling_ratio: see ``RegionPool``. The masks are twice as large, or as large if layers are shared.
        channels: of each convolution; none on the maps of a C4 model.
        dim_reduced: of the transposed convolution.
        norm: of the convolutions: ``BN`` (torchvision's v2), ``SyncBN``, ``GN`` or empty.
        shared: layers of the box head that come first and stay its own: neither parameters nor modules of this head.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        *,
        pool_resolution: int = 14,
        sampling_ratio: int = 2,
        channels: Sequence[int] = (256, 256, 256, 256),
        dim_reduced: int = 256,
        norm: str = "",
        shared: LastStage | None = None,
    ) -> None:
        super().__init__()
        self.pool = RegionPool(in_channels, pool_resolution, sampling_ratio)
        # in a tuple, so that a checkpoint holds them once
        self._shared: tuple[LastStage, ...] = () if shared is None else (shared,)
        width = self.pool.channels if shared is None else shared.out_channels
        self.head = MaskRCNNHeads(width, channels, 1, norm_layer(norm, "MODEL.ROI_HEAD.MASK.NORM"))
        self.predictor = MaskRCNNPredictor([width, *channels][-1], dim_reduced, num_classes + 1)

    def forward(
        self,
        levels: list[Tensor],
        images: ImageList,
        instances: list[dict[str, Tensor]],
        targets: list[dict[str, Tensor]] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Learn the masks of the sampled objects, or predict those of the detections.

        Args:
            levels: maps, finest first.
            images: their padded size matters.
            instances: what the box head returned.
            targets: in training, ``labels`` (K,) from 0 and ``masks`` (K, h, w) 0 or 1 of each image.

        Returns:
            Training: the instances and ``loss_mask``. Evaluation: the instances with ``masks`` (D, 1, M, M), the probability
            of each cell of a box to belong to the object, and no losses.
        """
        if self.training:
            return instances, {"loss_mask": self._loss(levels, images, positives(instances), required(targets))}
        return self.attach(instances, self.maps(levels, images, instances)), {}

    def maps(self, levels: list[Tensor], images: ImageList, instances: list[dict[str, Tensor]]) -> list[Tensor]:
        """Masks (D, 1, M, M) of the instances of each image: the probability of each cell of a box to belong to the object."""
        logits = self.logits(levels, images, [instance["boxes"] for instance in instances])
        return list(maskrcnn_inference(logits, [instance["labels"] + 1 for instance in instances]))

    def attach(self, instances: list[dict[str, Tensor]], maps: list[Tensor]) -> list[dict[str, Tensor]]:
        """The instances with their ``masks``."""
        return [{**instance, "masks": masks} for instance, masks in zip(instances, maps, strict=True)]

    def logits(self, levels: list[Tensor], images: ImageList, boxes: list[Tensor]) -> Tensor:
        """(sum of P, num_classes + 1, M, M) float32, the first class is background and unused."""
        return self._predict(self.pool(levels, boxes, images)).float()

    def dry_run(self, levels: list[Tensor]) -> None:
        """Run the layers on 100 regions, for the analyser."""
        self._predict(self.pool.placeholder(levels, DETECTIONS))

    def _predict(self, regions: Tensor) -> Tensor:
        for layers in self._shared:
            regions = layers.maps(regions)
        logits: Tensor = self.predictor(self.head(regions))
        return logits

    def _loss(
        self, levels: list[Tensor], images: ImageList, samples: list[dict[str, Tensor]], targets: list[dict[str, Tensor]]
    ) -> Tensor:
        boxes = [sample["boxes"] for sample in samples]
        masks, labels = [target["masks"] for target in targets], [target["labels"] + 1 for target in targets]
        loss: Tensor = maskrcnn_loss(self.logits(levels, images, boxes), boxes, masks, labels, [s["matched"] for s in samples])
        return loss


def positives(samples: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
    """Those of the sampled proposals of each image that are an object."""
    chosen = [sample["labels"] > 0 for sample in samples]
    return [{name: values[keep] for name, values in sample.items()} for sample, keep in zip(samples, chosen, strict=True)]
