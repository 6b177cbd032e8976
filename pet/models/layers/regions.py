"""Anchors, and the pooling of regions: torchvision's, safe under autocast and for any size of picture."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import MultiScaleRoIAlign, batched_nms


class Anchors(AnchorGenerator):
    """Anchors in float32, whatever the type of the features.

    torchvision gives them the type of the features; as bfloat16 a coordinate of 1000 would be rounded to a multiple of 4.

    Args:
        sizes: one tuple a level, pixels.
        aspect_ratios: height / width, the same for all levels.
    """

    def __init__(self, sizes: Sequence[Sequence[float]], aspect_ratios: Sequence[float]) -> None:
        super().__init__(tuple(tuple(level) for level in sizes), (tuple(aspect_ratios),) * len(sizes))

    def forward(self, images: ImageList, levels: list[Tensor]) -> list[Tensor]:
        """Anchors (A, 4) xyxy of each image, pixels; only the shapes of the levels matter."""
        return super().forward(images, [level.new_empty(level.shape[-2:], dtype=torch.float32) for level in levels])


def merge_detections(found: Sequence[dict[str, Tensor]], nms_thresh: float, limit: int) -> dict[str, Tensor]:
    """Detections or proposals of several views of a picture as one set, best first.

    Those of one view have been through the suppression of their head and stay as they are.

    Args:
        found: of each view ``boxes`` (K, 4) xyxy in common pixels, ``scores`` (K,), and of detections ``labels`` (K,).
        nms_thresh: overlap of two boxes of a class above which the worse one goes.
        limit: boxes that are kept.
    """
    if len(found) == 1:
        return found[0]
    joined = {name: torch.cat([one[name] for one in found]) for name in found[0]}
    labels = joined["labels"] if "labels" in joined else torch.zeros_like(joined["scores"], dtype=torch.int64)
    keep = batched_nms(joined["boxes"].float(), joined["scores"].float(), labels, nms_thresh)[:limit]
    return {name: values[keep] for name, values in joined.items()}


class RegionPool(nn.Module):
    """RoIAlign from the level that fits the size of the region. Source: arXiv 1612.03144, eq. 1.

    torchvision derives the strides of the levels once, from the size of the first pictures without their padding: a
    picture much smaller than its padding would leave wrong strides behind for good. Here they follow from the padded
    size, every time, and nothing is kept, so that threads may share a model.

    Args:
        channels: of each level, finest first; those that are used must be equal.
        resolution: height and width of the result.
        sampling_ratio: samples in a cell along each side; 0: as many as the region is large.
        levels: regions are pooled from that many levels, finest first; further ones (P6) serve proposals only.
    """

    def __init__(self, channels: Sequence[int], resolution: int, sampling_ratio: int, levels: int = 4) -> None:
        used = channels[:levels]
        if len(set(used)) != 1:
            raise ValueError(
                f"regions are pooled from {len(used)} levels, but these have {', '.join(map(str, used))} channels; "
                "they must be equal: add a neck (MODEL.NECK fpn) or use one level (MODEL.FEATURES)"
            )
        super().__init__()
        self.channels, self.resolution, self.sampling_ratio = used[0], resolution, sampling_ratio
        self.names = [str(index) for index in range(len(used))]

    def forward(self, levels: list[Tensor], boxes: list[Tensor], images: ImageList) -> Tensor:
        """Features (sum of P, C, resolution, resolution) of boxes: for each image (P, 4) float32 xyxy, pixels."""
        height, width = images.tensors.shape[-2:]
        pool = MultiScaleRoIAlign(self.names, self.resolution, self.sampling_ratio)
        features: Tensor = pool(dict(zip(self.names, levels, strict=False)), boxes, [(height, width)])
        return features

    def extra_repr(self) -> str:
        """What is pooled, and to what size."""
        return f"levels={len(self.names)}, resolution={self.resolution}, sampling_ratio={self.sampling_ratio}"

    def placeholder(self, levels: list[Tensor], count: int) -> Tensor:
        """What ``forward`` returns for ``count`` regions, without values: to run a head for its shapes and cost."""
        return levels[0].new_empty(count, self.channels, self.resolution, self.resolution)
