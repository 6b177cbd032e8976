"""The classification network, built from a config."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pet.config import CfgNode
from pet.models.backbones import Backbone
from pet.models.fuse import fuse_conv_bn as fuse_conv_bn
from pet.models.heads.cls import build_cls_head
from pet.models.losses import build_cls_loss
from pet.models.losses.classification import top1
from pet.utils.logger import logging_rank
from pet.vision.trunk import Trunk


class GeneralizedCNN(Trunk):
    """Pixels -> backbone -> neck -> head.

    Tensors in a checkpoint are called ``backbone.*``, ``neck.*`` and ``global_head.cls.*``.

    Args:
        cfg: the config of the domain.
        is_train: whether training follows. ``False`` fetches no published weights, because those of a checkpoint follow.
    """

    def __init__(self, cfg: CfgNode, is_train: bool = True) -> None:
        super().__init__(cfg, is_train)
        head = cfg.MODEL.GLOBAL_HEAD.CLS
        self.global_head = nn.ModuleDict({"cls": _build_head(head, self.channels)})
        self.loss: Any = _build_loss(head)
        _take_published_classifier(self.backbone, self.global_head["cls"])

    def logits(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) uint8 RGB to (N, C)."""
        levels = self.backbone(self.pixels(images))
        if self.neck is not None:
            levels = self.neck(levels)
        logits: Tensor = self.global_head["cls"](levels)
        return logits

    def forward(self, images: Tensor, targets: dict[str, Any] | None = None) -> dict[str, Any]:
        """Losses in training mode, probabilities in evaluation mode.

        Args:
            images: (N, 3, H, W) uint8, RGB.
            targets: in training, ``label`` (N,) int64, or ``scores`` (N, C) float for mixed images and several labels.

        Returns:
            ``{"losses": {"loss_cls": scalar}, "metrics": {"acc1": scalar, percent}}`` or ``{"scores": (N, C) float32}``.
        """
        logits = self.logits(images)
        if not self.training:
            return {"scores": self.loss.scores(logits)}
        if targets is None:
            raise ValueError("GeneralizedCNN in training mode needs targets; call eval() on it for predictions")
        target = targets["scores"] if "scores" in targets else targets["label"]
        return {"losses": {"loss_cls": self.loss(logits, target)}, "metrics": {"acc1": top1(logits, target)}}

    def from_library(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename the tensors of the library's own model (a torchvision or timm file) to the names used here.

        The library's last linear layer becomes the head's; every other tensor gets the prefix ``backbone.body.``. Weights in
        our names come back as they are.
        """
        if weights.keys() & self.state_dict().keys():
            return weights
        last = f"{self.backbone.classifier}." if self.backbone.classifier else None
        renamed = {}
        for name, tensor in weights.items():
            if last and name.startswith(last):
                renamed[f"global_head.cls.fc.{name.removeprefix(last)}"] = tensor
            else:
                renamed[f"backbone.body.{name}"] = tensor
        return renamed


def _build_head(cls: CfgNode, channels: Sequence[int]) -> nn.Module:
    return build_cls_head(cls.TYPE, channels, cls.NUM_CLASSES, cls.DROPOUT, cls.OPTIONS)


def _build_loss(cls: CfgNode) -> nn.Module:
    return build_cls_loss(cls.LOSS, label_smoothing=cls.LABEL_SMOOTHING, target_threshold=cls.TARGET_THRESHOLD)


@torch.no_grad()
def _take_published_classifier(backbone: Backbone, head: nn.Module) -> None:
    """Start a linear head of the same shape from the published classifier."""
    published, backbone.published_classifier = backbone.published_classifier, None
    fc = getattr(head, "fc", None)
    if published is not None and isinstance(fc, nn.Linear) and fc.weight.shape == published[0].shape:
        fc.weight.copy_(published[0])
        fc.bias.copy_(published[1])
        logging_rank(f"the head starts from the published classifier of {len(fc.bias)} classes")
