"""How a batch goes through the model, and how predictions get back to the size of the pictures in the files."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.roi_heads import paste_masks_in_image

from pet.data.structures import Batch
from pet.data.views import ViewBatch
from pet.models.losses.semantic import merged_semantic_map
from pet.utils.comm import unwrap
from pet.vision.parts import Size, by_row, equal_parts, valid_sizes, with_geometry
from pet.vision.tta import predict_views

MASK_THRESHOLD = 0.5
_MASK_MEMORY = 1 << 28  # bytes of float masks at full size that are pasted at a time


def forward_train(model: nn.Module, batch: Batch) -> dict[str, Any]:
    """Losses and metrics of a batch; see ``GeneralizedCNN.forward``."""
    outputs: dict[str, Any] = model(batch.images, batch.targets)
    return outputs


def forward_test(model: nn.Module, batch: Batch | ViewBatch) -> dict[str, Any]:
    """Predictions for a batch at the size of the pictures in their files; those of several views of a picture are merged.

    Pictures of different padded sizes are computed in parts, so that no prediction depends on the other pictures of the batch.

    Returns:
        By name, lists with one entry an image: ``instances`` and ``proposals`` dicts of boxes (K, 4) xyxy, scores (K,), labels
        (K,) from 0, masks (K, H, W) bool, keypoints (K, P, 3), ``keypoint_scores`` (K, P); ``semseg`` (H, W) class maps;
        ``panoptic`` pairs of (H, W) segment ids and the list of segments. ``scores`` (N, C) of the whole pictures.
    """
    bare: Any = unwrap(model)
    outputs = predict_views(bare, batch) if isinstance(batch, ViewBatch) else _predict(model, batch)
    sizes = valid_sizes(batch)
    originals = batch.targets.get("original_sizes", sizes)
    for name in ("instances", "proposals"):
        if name in outputs:
            outputs[name] = [to_original(*values) for values in zip(outputs[name], sizes, originals, strict=True)]
    if "semseg" in outputs:
        outputs["semseg"] = [merged_semantic_map(*views) for views in zip(outputs["semseg"], originals, strict=True)]
    if "scores" in outputs:
        outputs["scores"] = torch.stack(outputs["scores"])
    merge = getattr(bare, "merge", None)
    if merge is not None:
        outputs["panoptic"] = [merge(*pair) for pair in zip(outputs["instances"], outputs["semseg"], strict=True)]
    return outputs


def _predict(model: nn.Module, batch: Batch) -> dict[str, Any]:
    """What the model returns, by name a list with one entry for each picture; ``semseg`` lists of one ``SemanticView``."""
    parts = equal_parts(batch)
    found = [with_geometry(model(part.images.tensors, {"sizes": part.images.image_sizes}), part) for part in parts]
    outputs: dict[str, Any] = by_row(parts, found)
    if "semseg" in outputs:
        outputs["semseg"] = [[view] for view in outputs["semseg"]]
    return outputs


def to_original(found: dict[str, Tensor], size: Size, original: Size) -> dict[str, Tensor]:
    """Instances of one image from pixels of the network's input to pixels of the picture in the file.

    Args:
        found: boxes (K, 4), optionally masks (K, 1, M, M) probabilities inside the boxes and keypoints (K, P, 3).
        size: valid (height, width) of the input.
        original: (height, width) of the picture.
    """
    scale_y, scale_x = original[0] / size[0], original[1] / size[1]
    found = dict(found)
    found["boxes"] = found["boxes"] * found["boxes"].new_tensor([scale_x, scale_y, scale_x, scale_y])
    if "masks" in found:
        found["masks"] = paste_masks(found["masks"], found["boxes"], original)
    if "keypoints" in found:
        found["keypoints"] = found["keypoints"] * found["keypoints"].new_tensor([scale_x, scale_y, 1.0])
    return found


def paste_masks(masks: Tensor, boxes: Tensor, size: Size) -> Tensor:
    """Masks inside boxes to masks of the whole picture, in parts so that memory stays bounded.

    Args:
        masks: (K, 1, M, M) probabilities.
        boxes: (K, 4) xyxy, pixels of the picture.
        size: (height, width) of the picture.

    Returns:
        (K, H, W) bool.
    """
    whole = torch.zeros((len(masks), *size), dtype=torch.bool, device=masks.device)
    step = max(_MASK_MEMORY // (4 * size[0] * size[1]), 1)
    for first in range(0, len(masks), step):
        part = slice(first, first + step)
        whole[part] = paste_masks_in_image(masks[part].float(), boxes[part].float(), size)[:, 0] > MASK_THRESHOLD
    return whole
