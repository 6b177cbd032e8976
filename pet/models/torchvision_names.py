"""Names of tensors in torchvision's detection and segmentation files, and what they are called here."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

# Files published before torchvision 0.13 name the convolutions of some parts without the index of their block.
OLD_NAMES = (
    (r"(backbone\.fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)", r"\1.0.\2"),
    (r"rpn\.head\.conv\.(weight|bias)", r"rpn.head.conv.0.0.\1"),
    (r"roi_heads\.mask_head\.mask_fcn1\.(.*)", r"roi_heads.mask_head.0.0.\1"),
    (r"roi_heads\.mask_head\.mask_fcn2\.(.*)", r"roi_heads.mask_head.1.0.\1"),
    (r"roi_heads\.mask_head\.mask_fcn3\.(.*)", r"roi_heads.mask_head.2.0.\1"),
    (r"roi_heads\.mask_head\.mask_fcn4\.(.*)", r"roi_heads.mask_head.3.0.\1"),
)

# Faster R-CNN, Mask R-CNN, Keypoint R-CNN: beginning of the name there, and here.
TWO_STAGE = {
    "backbone.body.": "backbone.body.",
    "backbone.fpn.": "neck.",
    "rpn.": "global_head.det.",
    "roi_heads.box_head.": "roi_head.box.head.",
    "roi_heads.box_predictor.": "roi_head.box.predictor.",
    "roi_heads.mask_head.": "roi_head.mask.head.",
    "roi_heads.mask_predictor.": "roi_head.mask.predictor.",
    "roi_heads.keypoint_head.": "roi_head.keypoint.head.",
    "roi_heads.keypoint_predictor.": "roi_head.keypoint.predictor.",
}


def from_torchvision_detection(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of a torchvision Faster, Mask or Keypoint R-CNN, files of any version.

    Raises:
        ValueError: a name that such a model does not have.
    """
    return {_rename(name, TWO_STAGE): tensor for name, tensor in state.items()}


def _rename(name: str, table: Mapping[str, str]) -> str:
    for pattern, replacement in OLD_NAMES:
        name = re.sub(f"^{pattern}$", replacement, name)
    for theirs, ours in table.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    raise ValueError(f"no tensor of such a torchvision model is named '{name}'; their names begin with {', '.join(table)}")


# RetinaNet, FCOS, SSD (whose backbone has no pyramid).
ONE_STAGE = {
    "backbone.body.": "backbone.body.",
    "backbone.fpn.": "neck.",
    "backbone.": "backbone.body.",
    "head.": "global_head.det.head.",
}

# FCN, DeepLabV3.
SEMANTIC = {
    "backbone.": "backbone.body.",
    "classifier.": "global_head.semseg.",
    "aux_classifier.": "global_head.aux.",
}

_OLD_RETINANET_CONV = re.compile(r"^(head\.(?:classification|regression)_head\.conv)\.([0246])\.(weight|bias)$")


def from_torchvision_one_stage(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of a torchvision RetinaNet, FCOS or SSD, files of any version.

    Raises:
        ValueError: a name that such a model does not have.
    """
    # RetinaNet files from before 0.13 count its activations as layers; FCOS always did.
    old = not any("bbox_ctrness" in name for name in state)
    renamed = {_without_activations(name) if old else name: tensor for name, tensor in state.items()}
    return {_rename(name, ONE_STAGE): tensor for name, tensor in renamed.items()}


def from_torchvision_semantic(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of a torchvision FCN or DeepLabV3, with or without auxiliary head.

    Raises:
        ValueError: a name that such a model does not have.
    """
    return {_rename(name, SEMANTIC): tensor for name, tensor in state.items()}


def _without_activations(name: str) -> str:
    return _OLD_RETINANET_CONV.sub(lambda found: f"{found[1]}.{int(found[2]) // 2}.0.{found[3]}", name)


def rename_torchvision(state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """The tensors of a torchvision detection or segmentation model under our names; ``None`` if it is neither."""
    first = {name.partition(".")[0] for name in state}
    if "rpn" in first:
        return from_torchvision_detection(state)
    if first == {"backbone", "head"}:
        return from_torchvision_one_stage(state)
    if {"backbone", "classifier"} <= first:
        return from_torchvision_semantic(state)
    return None
