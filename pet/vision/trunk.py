"""What the networks of all domains begin with: pixels, backbone and neck."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from torch import nn

from pet.config import CfgNode
from pet.models.backbones import build_backbone
from pet.models.freeze import freeze, keep_frozen_in_eval
from pet.models.necks import build_neck
from pet.models.pixels import PixelNormalizer


class Trunk(nn.Module):
    """Pixels -> backbone -> neck, from a config; a network derives from it and adds heads.

    Tensors in a checkpoint are called ``backbone.*`` and ``neck.*``.

    Args:
        cfg: the config of a domain.
        is_train: whether training follows. ``False`` fetches no published weights, because those of a checkpoint follow.

    Attributes:
        pretrained: whether published weights are loaded.
        channels: of each level that the heads see.
    """

    def __init__(self, cfg: CfgNode, is_train: bool = True) -> None:
        super().__init__()
        model = cfg.MODEL
        normalize = "normalize" in (cfg.TRAIN.TRANSFORMS or cfg.TEST.TRANSFORMS)
        self.pretrained: bool = model.PRETRAINED and is_train and not cfg.TRAIN.WEIGHTS
        self.pixels = PixelNormalizer(cfg.DATA.PIXEL_MEAN, cfg.DATA.PIXEL_STD, cfg.DATA.FORMAT.IMAGE, normalize)
        self.backbone = build_backbone(
            model.BACKBONE,
            pretrained=self.pretrained,
            options=model.BACKBONE_OPTIONS,
            features=model.FEATURES,
            norm=model.NORM,
            freeze_at=model.FREEZE_AT,
        )
        self.neck = build_neck(model.NECK, self.backbone.channels, model.NECK_OPTIONS)
        self.channels: Sequence[int] = self.backbone.channels if self.neck is None else self.neck.channels
        if model.FREEZE_BACKBONE:
            freeze(self.backbone)
        if model.FREEZE_NECK and self.neck is not None:
            freeze(self.neck)
        keep_frozen_in_eval(self)

    def train(self, mode: bool = True) -> Self:
        """Set the mode; frozen parts stay in evaluation mode."""
        super().train(mode)
        keep_frozen_in_eval(self)
        return self
