"""Losses of image classification.

Targets are class indices (N,) int64, or (N, C) float: shares of the classes that sum to 1 (mixup, cutmix), or for
several labels 1 for each that is present, 0 for each that is absent and a negative number for each that is not judged.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pet.models.registry import CLS_LOSSES


@CLS_LOSSES.register("cross_entropy")
class CrossEntropy(nn.Module):
    """Softmax cross entropy, with soft targets and label smoothing (arXiv 1512.00567, section 7).

    Args:
        label_smoothing: share of the target that is spread evenly over all classes, 0 to 1.
        target_threshold: must be ``None``; only ``bce`` makes targets hard.
    """

    def __init__(self, label_smoothing: float = 0.0, target_threshold: float | None = None) -> None:
        super().__init__()
        if target_threshold is not None:
            raise ValueError("MODEL.GLOBAL_HEAD.CLS.TARGET_THRESHOLD belongs to the loss bce; leave it empty for cross_entropy")
        self.label_smoothing = label_smoothing

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean over the images of logits (N, C)."""
        return F.cross_entropy(logits.float(), targets, label_smoothing=self.label_smoothing)

    @staticmethod
    def scores(logits: Tensor) -> Tensor:
        """Probabilities (N, C) float32 that sum to 1."""
        return logits.float().softmax(dim=1)


@CLS_LOSSES.register("bce")
class BinaryCrossEntropy(nn.Module):
    """Sigmoid cross entropy, every class for itself: for several labels, or one (arXiv 2110.00476, section 4).

    Args:
        label_smoothing: share s of the target that is spread evenly over the C classes: t becomes t (1 - s) + s / C.
        target_threshold: soft targets above it count as 1 and the others as 0; ``None``: they stay soft.
    """

    def __init__(self, label_smoothing: float = 0.0, target_threshold: float | None = None) -> None:
        super().__init__()
        self.label_smoothing, self.target_threshold = label_smoothing, target_threshold

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean over images and classes of logits (N, C); classes with a negative target are not judged."""
        if targets.ndim == 1:
            targets = F.one_hot(targets, logits.shape[1])
        judged = targets >= 0
        smooth = targets.float() * (1.0 - self.label_smoothing) + self.label_smoothing / logits.shape[1]
        if self.target_threshold is not None:
            smooth = (smooth > self.target_threshold).float()
        losses = F.binary_cross_entropy_with_logits(logits.float(), smooth, reduction="none")
        return (losses * judged).sum() / judged.sum().clamp(min=1)

    @staticmethod
    def scores(logits: Tensor) -> Tensor:
        """Probabilities (N, C) float32, each for itself."""
        return logits.float().sigmoid()


@torch.no_grad()
def top1(logits: Tensor, targets: Tensor) -> Tensor:
    """Percentage of images whose highest logit is right, as a tensor on the device.

    With shares the class of the largest share is right, with several labels each of them is.
    """
    predicted = logits.argmax(dim=1)
    if targets.ndim == 1:
        right = predicted == targets
    else:
        right = targets.gather(1, predicted[:, None])[:, 0] == targets.amax(dim=1)
    return right.float().mean() * 100.0
