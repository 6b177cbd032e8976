"""What detectors without a second stage share: predictions on every cell of every level, against anchors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

# Names of torchvision's losses, and ours.
LOSSES = {"classification": "loss_cls", "bbox_regression": "loss_box_reg", "bbox_ctrness": "loss_ctrness"}

GROUPS = 32  # of the group normalisation in torchvision's heads


class LevelsOnly(nn.Module):
    """Stands in for the backbone that torchvision's detectors want; they only ask for its channels."""

    def __init__(self, out_channels: int | list[int]) -> None:
        super().__init__()
        self.out_channels = out_channels


class DenseHead(nn.Module):
    """Mixed in before one of torchvision's detectors, of which it keeps the head, the losses and the postprocessing.

    Coordinates and losses are float32 also under autocast: a float16 cannot tell neighbouring anchors apart.
    """

    makes_proposals = False
    head: nn.Module
    anchor_generator: nn.Module

    def forward(
        self, levels: list[Tensor], images: ImageList, targets: list[dict[str, Tensor]] | None = None
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Losses in training mode, detections in evaluation mode.

        Args:
            levels: (N, C, H_i, W_i), finest first, as many as the head has sets of anchors.
            images: the batch; its tensors' size gives the strides, its image_sizes clip the boxes.
            targets: in training, for each image ``boxes`` (K, 4) xyxy pixels and ``labels`` (K,) int64 from 0.

        Returns:
            ``([], {"loss_cls", "loss_box_reg", ...})``, or for each image ``boxes`` (K, 4) xyxy pixels, ``scores`` (K,)
            and ``labels`` (K,), best first, with no losses. The losses are divided by the number of positive anchors
            (at least 1), so that images without boxes have finite ones.
        """
        outputs = {name: output.float() for name, output in self.head(levels).items()}
        anchors: list[Tensor] = self.anchor_generator(images, _float_shapes(levels))
        counts = self._anchors_per_level(levels)
        if not self.training:
            return self._detections(outputs, anchors, images, counts), {}
        if targets is None:
            raise ValueError(f"{type(self).__name__} in training mode needs targets; call eval() on it for detections")
        losses = self._losses(outputs, anchors, targets, counts)
        return [], {LOSSES[name]: loss for name, loss in losses.items()}

    def dry_run(self, levels: list[Tensor]) -> None:
        """Run the convolutions alone, also on the ``meta`` device."""
        self.head(levels)

    def _anchors_per_level(self, levels: list[Tensor]) -> list[int]:
        generator: Any = self.anchor_generator
        return [a * x.shape[-2] * x.shape[-1] for a, x in zip(generator.num_anchors_per_location(), levels, strict=True)]

    def _losses(
        self, outputs: dict[str, Tensor], anchors: list[Tensor], targets: list[dict[str, Tensor]], counts: list[int]
    ) -> dict[str, Tensor]:
        detector: Any = self
        losses: dict[str, Tensor] = detector.compute_loss(targets, outputs, anchors)
        return losses

    def _detections(
        self, outputs: dict[str, Tensor], anchors: list[Tensor], images: ImageList, counts: list[int]
    ) -> list[dict[str, Tensor]]:
        detector: Any = self
        split = {name: list(output.split(counts, dim=1)) for name, output in outputs.items()}
        by_level = [list(of_image.split(counts)) for of_image in anchors]
        detections: list[dict[str, Tensor]] = detector.postprocess_detections(split, by_level, images.image_sizes)
        return detections


def keep_head_only(detector: nn.Module) -> None:
    """Take off torchvision's image transform and the stand-in for its backbone."""
    del detector.backbone, detector.transform


def shared_channels(what: str, channels: Sequence[int], anchor_sizes: Sequence[Any]) -> int:
    """The channels that all levels have.

    Raises:
        ValueError: levels that differ, or not as many as there are anchor sizes.
    """
    if len(channels) != len(anchor_sizes):
        raise ValueError(
            f"{what} has ANCHOR_SIZES for {len(anchor_sizes)} levels, {tuple(anchor_sizes)}, but gets {len(channels)} levels; "
            "give one for each level (MODEL.NECK_OPTIONS of fpn: extra 'p6p7' adds two levels)"
        )
    if len(set(channels)) != 1:
        raise ValueError(f"{what} looks at all levels with the same layers, but they have {tuple(channels)} channels; add a neck")
    return channels[0]


def check_groups(what: str, channels: int) -> None:
    """Refuse channels that torchvision's group normalisation of 32 groups cannot part.

    Raises:
        ValueError: names both numbers.
    """
    if channels % GROUPS:
        raise ValueError(
            f"{what} normalises in {GROUPS} groups, but its levels have {channels} channels; make them a multiple of {GROUPS} "
            "(MODEL.NECK_OPTIONS of fpn: out_channels)"
        )


def _float_shapes(levels: list[Tensor]) -> list[Tensor]:
    """Empty tensors of the size of the levels: anchor generators read the size, and compute in the type they see."""
    return [level.new_empty((0, 0, *level.shape[-2:]), dtype=torch.float32) for level in levels]
