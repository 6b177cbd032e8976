"""What every backbone is: images in, a list of feature levels out."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from pet.utils.module import run_on_meta


class Backbone(nn.Module):
    """A library's model (or one of ours) behind one interface.

    Attributes:
        channels: of each level that ``forward`` returns.
        classifier: name of the linear layer that was taken off the library's model, ``""`` if there was none.
        published_classifier: weight (classes, channels) and bias (classes,) of that layer when published weights were
            loaded, for a head with as many classes; else ``None``.
    """

    def __init__(self, body: nn.Module, channels: Iterable[int], classifier: str = "", channels_last: bool = False) -> None:
        """See ``pet.models.backbones.build_backbone``.

        Args:
            body: returns one tensor, or a list or dict of tensors.
            channels_last: whether its maps are (N, H, W, C).
        """
        super().__init__()
        self.body = body
        self.channels = tuple(channels)
        self.classifier = classifier
        self.channels_last = channels_last
        self.published_classifier: tuple[Tensor, Tensor] | None = None

    def forward(self, images: Tensor) -> list[Tensor]:
        """Features of normalised images.

        Args:
            images: (N, 3, H, W) float.

        Returns:
            One tensor for each level: a map (N, C, H, W), tokens (N, L, C), or the pooled vector (N, C).
        """
        levels = as_levels(self.body(images))
        return [level.permute(0, 3, 1, 2) for level in levels] if self.channels_last else levels


def as_levels(output: object) -> list[Tensor]:
    """A tensor, a dict or a sequence of tensors as a list."""
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, dict):
        return list(output.values())
    if isinstance(output, list | tuple):
        return list(output)
    raise TypeError(f"a backbone returned {type(output).__name__}; expected a tensor, or a list or dict of tensors")


def level_channels(body: nn.Module, size: int, channels_last: bool = False) -> list[int]:
    """Channels of the levels that ``body`` returns for an image of ``size`` x ``size``; nothing is computed."""
    levels = as_levels(run_on_meta(body, torch.empty(1, 3, size, size)))
    return [level.shape[-1 if level.ndim == 3 or channels_last else 1] for level in levels]
