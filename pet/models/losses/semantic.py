"""Loss of semantic segmentation, and the way from logits to a map."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_BUDGET = 16 * 2**20  # values of upsampled logits in memory at once: 64 MB of float32
_VOID = 255  # what data sets and padding say where nothing is judged


class SemanticLoss(nn.Module):
    """Softmax cross entropy over the pixels that are judged, at the size of the target.

    Args:
        weight: factor of the loss.
        ignore_label: label of pixels that are not judged; those of 255, such as the padding of a batch, never are.
        label_smoothing: share of the target that is spread evenly over all classes, 0 to 1.
        class_weights: factor of each class; the mean is then weighted, as in ``torch.nn.functional.cross_entropy``.
        ohem_thresh: pixels whose right class is more probable than this do not count; 0: all count. Online hard example
            mining, arXiv 1604.03540.
        ohem_min_kept: pixels of the batch that count at least, the hardest; only with ``ohem_thresh``.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        weight: float = 1.0,
        ignore_label: int = 255,
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | None = None,
        ohem_thresh: float = 0.0,
        ohem_min_kept: int = 100_000,
    ) -> None:
        super().__init__()
        self.weight, self.ignore_label, self.label_smoothing = weight, ignore_label, label_smoothing
        self.ohem_thresh, self.ohem_min_kept = ohem_thresh, ohem_min_kept
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """A float32 scalar; 0, with gradients of 0, when no pixel is judged.

        Args:
            logits: (N, C, h, w), at any stride.
            target: (N, H, W), class indices, ``ignore_label`` or 255; any integer type.
        """
        logits = upsample_logits(logits.float(), target.shape[-2:])
        target = target.long()
        if self.ignore_label != _VOID:
            target = target.masked_fill(target == _VOID, self.ignore_label)
        if self.ohem_thresh > 0:
            target = self._hard_only(logits.detach(), target)
        judged = target != self.ignore_label
        total = F.cross_entropy(
            logits,
            target,
            weight=self.class_weights,
            ignore_index=self.ignore_label,
            reduction="sum",
            label_smoothing=self.label_smoothing,
        )
        if self.class_weights is None:
            return self.weight * total / judged.sum().clamp(min=1)
        return self.weight * total / self.class_weights[target[judged]].sum().clamp(min=torch.finfo(torch.float32).tiny)

    def _hard_only(self, logits: Tensor, target: Tensor) -> Tensor:
        """The target with its easy pixels ignored."""
        losses = F.cross_entropy(logits, target, ignore_index=self.ignore_label, reduction="none")
        probability = (-losses).exp()
        judged = target != self.ignore_label
        hardest = probability[judged].sort().values[: self.ohem_min_kept]
        if not len(hardest):
            return target
        easy = judged & (probability > hardest[-1].clamp(min=self.ohem_thresh))
        return target.masked_fill(easy, self.ignore_label)


def upsample_logits(logits: Tensor, size: Sequence[int]) -> Tensor:
    """(N, C, h, w) to (N, C, *size) by bilinear interpolation between the centres of the cells; as it is if it has that size."""
    if tuple(logits.shape[-2:]) == tuple(size):
        return logits
    return F.interpolate(logits, tuple(size), mode="bilinear", align_corners=False)


@torch.no_grad()
def semantic_map(logits: Tensor, input_size: Sequence[int], valid: Sequence[int], original_size: Sequence[int]) -> Tensor:
    """The most probable class of each pixel of the picture in its file.

    The logits are brought to the size of the network's input, lose the padding, and are brought to the original size;
    a few classes at a time, so that 150 classes of a large picture need megabytes and not gigabytes.

    Args:
        logits: (C, h, w) of one picture, at any stride.
        input_size: (height, width) of the batch the network saw, padding included.
        valid: (height, width) of the picture in that batch; the padding is to the right and below.
        original_size: (height, width) of the result.

    Returns:
        (H, W), uint8 for up to 256 classes, else int64; of equal logits the first class wins.
    """
    return merged_semantic_map([SemanticView(logits, input_size, valid)], original_size)


@dataclass(frozen=True)
class SemanticView:
    """Logits of one view of a picture.

    Attributes:
        logits: (C, h, w), at any stride.
        input_size: (height, width) of the batch the network saw, padding included.
        valid: (height, width) of the picture in that batch.
        mirrored: axes (-2 vertical, -1 horizontal) along which the view was mirrored.
    """

    logits: Tensor
    input_size: Sequence[int]
    valid: Sequence[int]
    mirrored: tuple[int, ...] = ()

    def at(self, size: Sequence[int], part: slice) -> Tensor:
        """(c, *size) float32: the logits of the classes ``part`` of the picture, not mirrored."""
        whole = upsample_logits(self.logits[None, part].float(), self.input_size)[..., : self.valid[0], : self.valid[1]]
        return upsample_logits(whole.flip(self.mirrored) if self.mirrored else whole, size)[0]


@torch.no_grad()
def merged_semantic_map(views: Sequence[SemanticView], original_size: Sequence[int]) -> Tensor:
    """As ``semantic_map``, of the mean of the probabilities that several views give at the original size.

    The mean is that of probabilities, as mmsegmentation takes it (``aug_test`` of its EncoderDecoder): logits of views of
    different scale differ in their range.
    """
    if len(views) == 1:  # of one view the logits say as much
        return _most_probable(views, original_size, partial(views[0].at, original_size))
    totals = []
    for view in views:
        total = torch.full(tuple(original_size), -torch.inf, device=view.logits.device)
        for part in _parts([view], original_size):
            total = torch.logaddexp(total, view.at(original_size, part).logsumexp(dim=0))
        totals.append(total)

    def probability(part: slice) -> Tensor:
        of_views = [(view.at(original_size, part) - total).exp() for view, total in zip(views, totals, strict=True)]
        return torch.stack(of_views).sum(dim=0)

    return _most_probable(views, original_size, probability)


def _parts(views: Sequence[SemanticView], original_size: Sequence[int]) -> Iterator[slice]:
    """Classes, as many at a time as memory should hold at full size."""
    pixels = max(height * width for height, width in [original_size, *(view.input_size for view in views)])
    step = max(1, _BUDGET // (pixels * len(views)))
    return (slice(start, start + step) for start in range(0, len(views[0].logits), step))


def _most_probable(views: Sequence[SemanticView], size: Sequence[int], score: Callable[[slice], Tensor]) -> Tensor:
    """The class with the highest ``score`` of each pixel, the first of equal ones."""
    classes, device = len(views[0].logits), views[0].logits.device
    best = torch.full(tuple(size), -torch.inf, device=device)
    winner = torch.zeros(tuple(size), dtype=torch.int64, device=device)
    for part in _parts(views, size):
        values, found = score(part).max(dim=0)
        better = values > best
        best = torch.where(better, values, best)
        winner = torch.where(better, found + part.start, winner)
    return winner.to(torch.uint8) if classes <= 256 else winner
