"""Region proposals, the first of two stages."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead

from pet.models.layers.regions import Anchors
from pet.models.registry import DET_HEADS


class Float32RPNHead(RPNHead):
    """torchvision's head with results in float32: as bfloat16 the decoded boxes would be off by several pixels."""

    def forward(self, levels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Objectness logits (N, A, H, W) and box codes (N, 4 A, H, W) of each level."""
        logits, codes = super().forward(levels)
        return [level.float() for level in logits], [level.float() for level in codes]


@DET_HEADS.register("rpn")
class RPN(RegionProposalNetwork):
    """Region Proposal Network of torchvision. Source: arXiv 1506.01497, section 3.1; on a pyramid: 1612.03144, section 4.1.

    Args:
        channels: of each level; all equal.
        num_classes: not used, proposals have no class.
        anchor_sizes: one tuple a level, pixels. With a single level (C4) all sizes in one tuple.
        aspect_ratios: height / width of the anchors.
        fg_iou, bg_iou: an anchor with at least / less than that overlap with an object is one / is background.
        batch_size_per_image, positive_fraction: anchors of an image that the losses see; share of objects among them.
        pre_nms_top_n_train, pre_nms_top_n_test: best anchors of each level before non-maximum suppression.
        post_nms_top_n_train, post_nms_top_n_test: proposals of an image.
        nms_thresh: overlap of two proposals of a level above which the worse one goes.
        score_thresh: lowest objectness, 0 to 1.
        conv_depth: convolutions before the predictions (torchvision's v2 has 2).
    """

    makes_proposals = True

    def __init__(
        self,
        channels: Sequence[int],
        num_classes: int = 1,
        *,
        anchor_sizes: Sequence[Sequence[float]] = ((32,), (64,), (128,), (256,), (512,)),
        aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0),
        fg_iou: float = 0.7,
        bg_iou: float = 0.3,
        batch_size_per_image: int = 256,
        positive_fraction: float = 0.5,
        pre_nms_top_n_train: int = 2000,
        pre_nms_top_n_test: int = 1000,
        post_nms_top_n_train: int = 1000,
        post_nms_top_n_test: int = 1000,
        nms_thresh: float = 0.7,
        score_thresh: float = 0.0,
        conv_depth: int = 1,
    ) -> None:
        _check_levels(channels, anchor_sizes)
        super().__init__(
            Anchors(anchor_sizes, aspect_ratios),
            Float32RPNHead(channels[0], len(anchor_sizes[0]) * len(aspect_ratios), conv_depth),
            fg_iou,
            bg_iou,
            batch_size_per_image,
            positive_fraction,
            {"training": pre_nms_top_n_train, "testing": pre_nms_top_n_test},
            {"training": post_nms_top_n_train, "testing": post_nms_top_n_test},
            nms_thresh,
            score_thresh,
        )

    @property
    def detections_per_img(self) -> int:
        """Proposals of an image, at most, in the present mode."""
        return int(self.post_nms_top_n())

    def forward(
        self, levels: list[Tensor], images: ImageList, targets: list[dict[str, Tensor]] | None = None
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Propose regions.

        Args:
            levels: maps, as many as ``channels``.
            images: their padded and unpadded sizes matter.
            targets: in training, ``boxes`` (K, 4) xyxy of each image, pixels.

        Returns:
            For each image ``boxes`` (P, 4) xyxy, inside the image, and ``scores`` (P,), best first; in training the losses
            ``loss_objectness`` and ``loss_rpn_box_reg``.
        """
        return super().forward(images, {str(index): level for index, level in enumerate(levels)}, targets)

    def filter_proposals(self, *args: object) -> tuple[list[dict[str, Tensor]], list[Tensor]]:
        """The proposals of each image; torchvision's ``forward`` returns the first list and forgets the scores."""
        boxes, scores = super().filter_proposals(*args)
        return [{"boxes": box, "scores": score} for box, score in zip(boxes, scores, strict=True)], scores

    def dry_run(self, levels: list[Tensor]) -> None:
        """Run the convolutions, for the analyser."""
        self.head(levels)


def _check_levels(channels: Sequence[int], anchor_sizes: Sequence[Sequence[float]]) -> None:
    where = "MODEL.GLOBAL_HEAD.DET.RPN"
    if len(set(channels)) != 1:
        raise ValueError(f"{where}: all levels need equal channels, got {tuple(channels)}; add a neck (MODEL.NECK fpn)")
    if len(anchor_sizes) != len(channels):
        raise ValueError(
            f"{where}.ANCHOR_SIZES has {len(anchor_sizes)} tuples, but there are {len(channels)} feature levels; give one tuple "
            "a level, e.g. ((32,64,128,256,512),) for a single level"
        )
    if len({len(sizes) for sizes in anchor_sizes}) != 1:
        raise ValueError(f"{where}.ANCHOR_SIZES {tuple(anchor_sizes)}: all levels need the same number of sizes")
