"""The network of detection, segmentation, keypoints and classification, built from a config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from pet.config import CfgNode, keywords
from pet.models.fuse import fuse_conv_bn as fuse_conv_bn
from pet.models.heads.cls import build_cls_head
from pet.models.heads.det import build_det_head
from pet.models.heads.panoptic import build_panoptic_head
from pet.models.heads.roi import build_box_head, build_keypoint_head, build_mask_head
from pet.models.heads.semseg import build_semseg_head
from pet.models.losses import build_cls_loss
from pet.models.losses.classification import top1
from pet.models.losses.semantic import SemanticLoss
from pet.models.torchvision_names import rename_torchvision
from pet.vision.trunk import Trunk

Size = tuple[int, int]  # (height, width)
INSTANCE_TARGETS = ("boxes", "labels", "masks", "keypoints")


class GeneralizedCNN(Trunk):
    """Pixels -> backbone -> neck -> global heads -> RoI heads.

    Tensors in a checkpoint are called ``backbone.*``, ``neck.*``, ``global_head.{det,semseg,aux,cls}.*`` and
    ``roi_head.{box,mask,keypoint}.*``.

    Args:
        cfg: the config of the domain.
        is_train: whether training follows. ``False`` fetches no published weights, because those of a checkpoint follow.
    """

    def __init__(self, cfg: CfgNode, is_train: bool = True) -> None:
        super().__init__(cfg, is_train)
        heads, losses = _build_global_heads(cfg, self.channels, self.backbone.channels)
        self.global_head, self.losses = nn.ModuleDict(heads), nn.ModuleDict(losses)
        self.roi_head = nn.ModuleDict(_build_roi_heads(cfg, self.channels, self.pretrained))
        self.aux_level = cfg.MODEL.GLOBAL_HEAD.SEMSEG.AUX.LEVEL
        self.merge = _build_merge(cfg.MODEL)

    def levels(self, images: Tensor, sizes: Sequence[Size] | None = None) -> tuple[list[Tensor], list[Tensor]]:
        """Feature levels of (N, 3, H, W) uint8 RGB images: of the backbone, and of the neck (the same without one).

        Args:
            images: the batch.
            sizes: the valid (height, width) of each image; what is padded beyond it becomes 0 after normalisation.
        """
        pixels = self.pixels(images)
        for image, (height, width) in zip(pixels, sizes or (), strict=bool(sizes)):
            image[:, height:] = 0
            image[:, :, width:] = 0
        levels = self.backbone(pixels)
        return levels, levels if self.neck is None else self.neck(levels)

    def forward(self, images: Tensor, targets: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Losses in training mode, predictions in evaluation mode.

        Args:
            images: (N, 3, H, W) uint8, RGB, padded at the right and at the bottom.
            targets: ``sizes``, the valid (height, width) of each image (default: all of it); in training also what the heads
                learn from: lists ``boxes`` (K, 4), ``labels`` (K,), ``masks`` (K, h, w), ``keypoints`` (K, P, 3);
                ``semseg`` (N, H, W); ``label`` (N,).

        Returns:
            In training ``{"losses": {name: scalar}, "metrics": {name: scalar}}``. In evaluation, by name, what the heads
            predict, in pixels of the input: ``instances`` (one dict an image: boxes, scores, labels from 0, masks (K, 1, M, M)
            inside the boxes, keypoints (K, P, 3)), or ``proposals`` of an RPN alone; ``semseg`` logits (N, C, h, w); ``scores``
            (N, C).
        """
        if images.is_meta:
            return self._dry_run(images)
        if self.training and targets is None:
            raise ValueError("GeneralizedCNN in training mode needs targets; call eval() on it for predictions")
        given: list[Size] | None = list(targets["sizes"]) if targets is not None and "sizes" in targets else None
        backbone_levels, levels = self.levels(images, given)
        sizes = given or _whole(images)
        if self.training:
            return self._losses(backbone_levels, levels, ImageList(images, sizes), targets or {})
        outputs = self.find(levels, ImageList(images, sizes))
        for head in self.region_heads().values():
            outputs["instances"] = head(levels, ImageList(images, sizes), outputs["instances"])[0]
        return outputs

    def _losses(
        self, backbone_levels: list[Tensor], levels: list[Tensor], images: ImageList, targets: Mapping[str, Any]
    ) -> dict[str, Any]:
        losses: dict[str, Tensor] = {}
        metrics: dict[str, Tensor] = {}
        if "det" in self.global_head:
            truth = _instance_targets(targets)
            instances, losses = self.global_head["det"](levels, images, truth)
            losses = dict(losses)
            if "box" in self.roi_head:
                proposals = [found["boxes"] for found in instances]
                instances, more = self.roi_head["box"](levels, images, proposals, truth)
                losses.update(more)
            for head in self.region_heads().values():
                losses.update(head(levels, images, instances, truth)[1])
        if "semseg" in self.global_head:
            losses["loss_semseg"] = self.losses["semseg"](self.global_head["semseg"](levels), targets["semseg"])
        if "aux" in self.global_head:
            logits = self.global_head["aux"](backbone_levels[: self.aux_level + 1 or None])
            losses["loss_aux"] = self.losses["aux"](logits, targets["semseg"])
        if "cls" in self.global_head:
            logits = self.global_head["cls"](levels)
            target = targets["scores"] if "scores" in targets else targets["label"]
            losses["loss_image"] = self.losses["cls"](logits, target)
            metrics["acc1"] = top1(logits, target)
        return {"losses": losses, "metrics": metrics}

    def region_heads(self) -> dict[str, nn.Module]:
        """The heads that look at instances whose boxes are known, by name."""
        return {name: self.roi_head[name] for name in ("mask", "keypoint") if name in self.roi_head}

    def final_boxes(self) -> nn.Module:
        """The head whose boxes are the instances or proposals of ``find``."""
        return self.roi_head["box"] if "box" in self.roi_head else self.global_head["det"]

    def find(self, levels: list[Tensor], images: ImageList) -> dict[str, Any]:
        """Predictions of all heads but ``region_heads``, as ``forward`` returns them.

        Args:
            levels: of the neck, see ``levels``.
            images: the batch, of which the padded and unpadded sizes matter.
        """
        outputs: dict[str, Any] = {}
        if "det" in self.global_head:
            instances, _ = self.global_head["det"](levels, images)
            if "box" in self.roi_head:
                instances, _ = self.roi_head["box"](levels, images, [found["boxes"] for found in instances])
            proposals_only = getattr(self.global_head["det"], "makes_proposals", False) and "box" not in self.roi_head
            outputs["proposals" if proposals_only else "instances"] = instances
        if "semseg" in self.global_head:
            outputs["semseg"] = self.global_head["semseg"](levels)
        if "cls" in self.global_head:
            outputs["scores"] = self.losses["cls"].scores(self.global_head["cls"](levels))
        return outputs

    def _dry_run(self, images: Tensor) -> dict[str, Any]:
        """Run what has a cost on shapes alone, for the analyser; boxes cannot be chosen there, so their numbers are assumed."""
        _, levels = self.levels(images)
        heads = {**self.global_head, **self.roi_head}
        heads.pop("aux", None)  # it takes part in training only
        for head in heads.values():
            getattr(head, "dry_run", head)(levels)
        return {}

    def from_library(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename the tensors of a file in the names of torchvision or timm to the names used here.

        Detection and segmentation models of torchvision are recognised by their names (see ``pet.models.torchvision_names``);
        anything else is taken for the backbone's own model and gets the prefix ``backbone.body.``.
        """
        if weights.keys() & {name for name in self.state_dict() if not name.startswith("backbone.")}:
            return weights
        renamed = rename_torchvision(weights)
        if renamed is not None:
            return renamed
        if any(name.startswith("backbone.body.") for name in weights):
            return weights
        own = self.state_dict()
        # On C4 the last stage of the backbone belongs to the box head.
        places = {name: f"roi_head.box.head.{name}" for name in weights}
        return {places[name] if places[name] in own else f"backbone.body.{name}": tensor for name, tensor in weights.items()}


def _whole(images: Tensor) -> list[Size]:
    return [(images.shape[2], images.shape[3])] * images.shape[0]


def _instance_targets(targets: Mapping[str, Any]) -> list[dict[str, Tensor]]:
    """Lists by name to one dict an image."""
    names = [name for name in INSTANCE_TARGETS if name in targets]
    return [dict(zip(names, values, strict=True)) for values in zip(*(targets[name] for name in names), strict=True)]


def _options(section: CfgNode, name: str) -> dict[str, Any]:
    """The section of a head as keyword arguments; a head outside Pet (an import path) has none."""
    return keywords(section[name.upper()]) if name.upper() in section else {}


def _semantic_options(semseg: CfgNode, name: str) -> dict[str, Any]:
    """As ``_options``; the heads that are made of batch normalisation also get SEMSEG.NORM."""
    norm = {"norm": semseg.NORM} if name in ("fcn", "deeplabv3", "pspnet") else {}
    return {**_options(semseg, name), **norm}


def _build_global_heads(
    cfg: CfgNode, channels: Sequence[int], backbone_channels: Sequence[int]
) -> tuple[dict[str, nn.Module], dict[str, nn.Module]]:
    heads, model = cfg.MODEL.GLOBAL_HEAD, cfg.MODEL
    built: dict[str, nn.Module] = {}
    losses: dict[str, nn.Module] = {}
    if heads.DET.TYPE:
        built["det"] = build_det_head(heads.DET.TYPE, channels, model.NUM_CLASSES, _options(heads.DET, heads.DET.TYPE))
    semseg = heads.SEMSEG
    if semseg.TYPE:
        built["semseg"] = build_semseg_head(semseg.TYPE, channels, semseg.NUM_CLASSES, _semantic_options(semseg, semseg.TYPE))
        losses["semseg"] = SemanticLoss(semseg.LOSS_WEIGHT, semseg.IGNORE_LABEL)
    if semseg.AUX.TYPE:
        seen = backbone_channels[: semseg.AUX.LEVEL + 1 or None]
        if not -len(backbone_channels) <= semseg.AUX.LEVEL < len(backbone_channels):
            raise ValueError(
                f"MODEL.GLOBAL_HEAD.SEMSEG.AUX.LEVEL is {semseg.AUX.LEVEL}, but the backbone has {len(backbone_channels)} levels "
                f"(MODEL.FEATURES); allowed are {-len(backbone_channels)} to {len(backbone_channels) - 1}"
            )
        built["aux"] = build_semseg_head(semseg.AUX.TYPE, seen, semseg.NUM_CLASSES, _semantic_options(semseg, semseg.AUX.TYPE))
        losses["aux"] = SemanticLoss(semseg.AUX.LOSS_WEIGHT, semseg.IGNORE_LABEL)
    image = heads.CLS
    if image.TYPE:
        built["cls"] = build_cls_head(image.TYPE, channels, image.NUM_CLASSES, image.DROPOUT, image.OPTIONS)
        losses["cls"] = build_cls_loss(image.LOSS, label_smoothing=image.LABEL_SMOOTHING, target_threshold=image.TARGET_THRESHOLD)
    return built, losses


def _build_roi_heads(cfg: CfgNode, channels: Sequence[int], pretrained: bool) -> dict[str, nn.Module]:
    model, roi = cfg.MODEL, cfg.MODEL.ROI_HEAD
    built: dict[str, nn.Module] = {}
    if roi.TYPE:
        options = _options(roi, roi.TYPE)
        if options.get("head") == "res5":
            stage = {"backbone": model.BACKBONE, "backbone_options": model.BACKBONE_OPTIONS, "norm": model.NORM}
            options |= {**stage, "pretrained": pretrained}
        built["box"] = build_box_head(roi.TYPE, channels, model.NUM_CLASSES, options)
    if roi.MASK.TYPE:
        built["mask"] = build_mask_head(roi.MASK.TYPE, channels, model.NUM_CLASSES, _head_options(roi.MASK), built.get("box"))
    if roi.KEYPOINT.TYPE:
        built["keypoint"] = build_keypoint_head(roi.KEYPOINT.TYPE, channels, 1, _head_options(roi.KEYPOINT))
    return built


def _head_options(section: CfgNode) -> dict[str, Any]:
    return {name: value for name, value in keywords(section).items() if name != "type"}


def _build_merge(model: CfgNode) -> Any:
    panoseg = model.GLOBAL_HEAD.PANOSEG
    if not panoseg.TYPE:
        return None
    stuff = model.GLOBAL_HEAD.SEMSEG.NUM_CLASSES - 1  # its last class stands for all things
    return build_panoptic_head(panoseg.TYPE, model.NUM_CLASSES, stuff, _options(panoseg, panoseg.TYPE))
