"""What travels from a data set to a model: one sample, one batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pet.utils.findings import InputError

Image = npt.NDArray[np.uint8]

# Tensors up to this size travel inside the message of a worker: asking it for a file descriptor takes longer than the copy
# (measured: 0.7 instead of 1.0 ms for 0.4 MB).
INLINE_BYTES = 1 << 19


class BadImageError(InputError):
    """An image that cannot be read.

    Args:
        path: the file, or another description of the picture.
        reason: what is wrong with it, in a few words.
    """

    def __init__(self, path: object, reason: str) -> None:
        super().__init__(f"cannot read image {path}: {reason}")
        self.path, self.reason = str(path), reason

    def __reduce__(self) -> tuple[Any, ...]:
        return (BadImageError, (self.path, self.reason))


@dataclass(slots=True)
class Sample:
    """One picture and what is known about it.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        target: labels by name. Classification: ``{"label": int}``, or ``{"scores": (C,) float32}`` for several
            labels or mixed pictures; empty when nothing is known. Annotated data sets, whatever of it they have, for K
            instances: ``boxes`` (K, 4) float32 xyxy in pixels of ``image``, ends exclusive; ``labels`` (K,) int64, classes
            from 0; ``masks`` ``InstanceMasks``; ``keypoints`` (K, P, 3) float32 x, y, visibility 0 to 2; and for the picture
            ``semseg`` (H, W) uint8, 255 where not judged; ``original_size`` (height, width) in the file.
        id: index of the picture in its data set.
    """

    image: Image
    target: dict[str, Any]
    id: int


@dataclass(slots=True)
class Batch:
    """Samples of one forward pass.

    Attributes:
        images: (N, 3, H, W) uint8, RGB; conversion to float and normalisation happen on the device.
        targets: ``label`` (N,) int64, ``scores`` (N, C) float32, other names as tensors or lists of length N. Of padded
            batches (``collate_padded``) also ``sizes``, ``padded_sizes`` and ``original_sizes``, lists of (height, width);
            ``boxes``, ``labels``, ``masks`` (K, h, w) uint8 and ``keypoints``, lists of tensors; ``semseg`` (N, H, W) uint8.
        ids: (N,) int64, indices in the data set, always on the CPU.
        replaced: (index, reason) of pictures that could not be read and were replaced by others.
    """

    images: torch.Tensor
    targets: dict[str, torch.Tensor | list[Any]]
    ids: torch.Tensor
    replaced: list[tuple[int, str]] = field(default_factory=list)

    def __len__(self) -> int:
        return int(self.images.shape[0])

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The batch with images and targets on ``device``; itself if it is there."""
        if self.images.device == device:
            return self
        return self._with(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory, from where copies to a GPU run in the background."""
        return self._with(torch.Tensor.pin_memory)

    def _with(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        """The batch with ``change`` done to all tensors but the ids."""
        targets = {name: _each_tensor(value, change) for name, value in self.targets.items()}
        return Batch(change(self.images), targets, self.ids, self.replaced)

    def __getstate__(self) -> tuple[Any, ...]:
        targets = {name: _to_message(value) for name, value in self.targets.items()}
        return (_to_message(self.images), targets, self.ids.numpy(), self.replaced)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        images, targets, ids, self.replaced = state
        self.images = _from_message(images)
        self.targets = {name: _from_message(value) for name, value in targets.items()}
        self.ids = torch.from_numpy(ids)


def _each_tensor(value: Any, change: Callable[[torch.Tensor], Any]) -> Any:
    """``change`` done to a tensor, or to the tensors of a list; anything else stays."""
    if isinstance(value, list):
        return [_each_tensor(one, change) for one in value]
    return change(value) if isinstance(value, torch.Tensor) else value


def _to_message(value: Any) -> Any:
    tensors = [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, torch.Tensor)]
    small = all(one.device.type == "cpu" for one in tensors) and sum(one.nbytes for one in tensors) <= INLINE_BYTES
    return _each_tensor(value, _Inline) if small else value


def _from_message(value: Any) -> Any:
    if isinstance(value, list):
        return [_from_message(one) for one in value]
    return torch.from_numpy(value.array) if isinstance(value, _Inline) else value


class _Inline:
    """A tensor inside a message; marked so that arrays which were not tensors stay arrays."""

    __slots__ = ("array",)

    def __init__(self, tensor: torch.Tensor) -> None:
        self.array = tensor.numpy()
