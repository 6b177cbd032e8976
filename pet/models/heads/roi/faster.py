"""The box head of Faster R-CNN."""

from __future__ import annotations

from torch import Tensor
from torchvision.models.detection.image_list import ImageList

from pet.models.heads.roi.stage import BoxStage
from pet.models.registry import BOX_HEADS


@BOX_HEADS.register("faster")
class FasterHead(BoxStage):
    """One stage of classification and box regression. Source: arXiv 1506.01497, 1612.03144; options: see ``BoxStage``."""

    def forward(
        self, levels: list[Tensor], images: ImageList, proposals: list[Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Train on a sample of the proposals, or classify and move all of them.

        Args:
            levels: maps, finest first.
            images: their padded and unpadded sizes matter.
            proposals: (P, 4) float32 xyxy of each image, pixels.
            targets: in training, ``boxes`` and ``labels`` of each image.

        Returns:
            Training: see ``BoxStage.sample`` and ``BoxStage.losses``. Evaluation: see ``BoxStage.detect``, and no losses.
        """
        if not self.training:
            return self.detect(*self.predict(levels, images, proposals), proposals, images), {}
        samples, codes = self.sample(proposals, required(targets))
        prediction = self.predict(levels, images, [sample["boxes"] for sample in samples])
        return samples, self.losses(*prediction, samples, codes)


def required(targets: list[dict[str, Tensor]] | None) -> list[dict[str, Tensor]]:
    """The targets, which training needs."""
    if targets is None:
        raise ValueError("a head in training mode needs targets; call eval() on the model for predictions")
    return targets
