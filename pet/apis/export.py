"""A trained model as a file for other runtimes, compared with the model it was made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pet.apis.predictor import Predictor
from pet.data.image import read_image
from pet.data.structures import BadImageError
from pet.data.transforms.geometry import resize_image
from pet.models.export import OPSET, ExportedModel, compare, export_model

_NOISE_PICTURES = 2


@dataclass(frozen=True)
class Exported:
    """What was written, and how close it is to the model.

    Attributes:
        shape: of the input ``images``; texts stand for what may vary.
        outputs: their names.
        differences: largest difference by output, relative to values above 1; infinite where the shapes differ.
        objects: number of objects found in the pictures of the comparison; ``None`` if the model finds none by its nature.
    """

    shape: list[int | str]
    outputs: list[str]
    differences: dict[str, float]
    objects: int | None

    @property
    def worst(self) -> float:
        """The largest difference."""
        return max(self.differences.values())


def export(
    predictor: Predictor,
    path: str | Path,
    size: tuple[int, int],
    *,
    dynamic: bool = False,
    opset: int = OPSET,
    pictures: Sequence[str | Path] = (),
) -> Exported:
    """Write the model of a predictor to ``path``, read it back and compare.

    Args:
        predictor: on the CPU.
        path: ``.onnx`` or ``.pt2``.
        size: height and width of the input, pixels.
        dynamic, opset: see ``pet.models.export.export_model``.
        pictures: files to compare on, scaled to ``size``; none: noise.

    Raises:
        ValueError: the format cannot hold this model.
    """
    images = torch.stack([_scaled(file, size) for file in pictures]) if pictures else _noise(size)
    names = {name: value for name, value in asdict(predictor.names).items() if value}
    outputs = export_model(predictor.model, images[:1], path, names, dynamic=dynamic, opset=opset)
    exported = ExportedModel(path)
    found = [compare(predictor.model, exported, batch) for batch in _batches(images, exported.shape)]
    differences = {name: max(part[name] for part, _ in found) for name in outputs}
    counts = [count for _, count in found if count is not None]
    return Exported(exported.shape, outputs, differences, sum(counts) if counts else None)


def _batches(images: Tensor, shape: Sequence[int | str]) -> list[Tensor]:
    """Each picture by itself; where the file says that number or size may vary, also a batch, or larger pictures."""
    batches = list(images.split(1))
    if not isinstance(shape[0], int):
        batches.append(images.expand(max(len(images), 3), -1, -1, -1) if len(images) == 1 else images)
    if not isinstance(shape[2], int) and not isinstance(shape[3], int):
        larger = images.shape[2] + 32, images.shape[3] + 64
        batches.append(torch.nn.functional.interpolate(images[:1].float(), larger).to(torch.uint8))
    return batches


def _scaled(file: str | Path, size: tuple[int, int]) -> Tensor:
    """(3, H, W) uint8 of a picture, stretched to ``size``."""
    try:
        image = resize_image(read_image(file), size)
    except BadImageError as error:
        raise ValueError(str(error)) from error
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def _noise(size: tuple[int, int]) -> Tensor:
    """(N, 3, H, W) uint8: coarse blotches under fine noise, always the same."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(_NOISE_PICTURES, 3, 8, 8, generator=generator)
    fine = torch.rand(_NOISE_PICTURES, 3, *size, generator=generator)
    blotches = torch.nn.functional.interpolate(coarse, size, mode="bilinear")
    return ((0.8 * blotches + 0.2 * fine) * 255).to(torch.uint8)
