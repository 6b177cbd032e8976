"""Batch normalisation folded into the convolution before it, for inference."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pet.utils.module import run_on_meta

SIZE = (224, 224)


@torch.inference_mode(mode=False)  # where operators would arrive whole, and parameters could not be trained any more
def fuse_conv_bn(model: nn.Module, size: tuple[int, int] | None = None) -> int:
    """Fold batch normalisation, frozen or not, into convolutions, in place; the model computes the same, and cannot be trained.

    Which layers belong together is not read from names: the model runs once on shapes alone, and a convolution is folded with the
    normalisation that is the only reader of its output. Both may run several times (a head shared by all levels), as long as they
    always do so together. Activations that timm fuses into a normalisation stay in its place.

    Args:
        model: in evaluation mode; called with images (1, 3, H, W).
        size: (height, width) of the images, pixels; default 224 x 224.

    Returns:
        The number of pairs.

    Raises:
        ValueError: the model is in training mode, where statistics change with every batch, or does not take images of that size.
    """
    training = next((name or "the model" for name, part in model.named_modules() if part.training), None)
    if training is not None:
        raise ValueError(
            f"{training} is in training mode, in which batch normalisation is not constant; call eval() before fusing"
        )
    pairs = find_pairs(model, *(size or SIZE))
    for conv, norm in pairs:
        _fold(conv, norm)
        _replace(model, norm, _what_remains(norm))
    return len(pairs)


def find_pairs(model: nn.Module, height: int, width: int) -> list[tuple[nn.Module, nn.Module]]:
    """Convolutions, and the normalisation of each that alone reads what it computes."""
    images = torch.empty(1, 3, height, width, device="meta")
    with _Trace(model) as trace:
        try:
            outputs = run_on_meta(model, images)
        except RuntimeError as error:
            raise ValueError(f"{type(model).__name__} cannot run on images of {height} x {width} pixels: {error}") from error
        trace.read(outputs)
    return trace.pairs()


def _is_constant_norm(module: nn.Module) -> bool:
    """Batch normalisation with fixed statistics: PyTorch's, timm's and torchvision's frozen one."""
    from timm.layers import FrozenBatchNormAct2d
    from torchvision.ops import FrozenBatchNorm2d

    if isinstance(module, _BatchNorm):
        return module.running_mean is not None
    return isinstance(module, FrozenBatchNorm2d | FrozenBatchNormAct2d)


class _Trace(TorchDispatchMode):
    """Sees every operator: who made a tensor, and inside which normalisation it is read.

    A convolution counts if what its module returns is one ``aten.convolution`` with the module's own weight, so that layers which
    change their weight or their output first (weight standardisation, fused activations) are left alone.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._convs = [part for part in model.modules() if isinstance(part, nn.Conv2d)]
        self._norms = [part for part in model.modules() if _is_constant_norm(part)]
        self._inside: list[nn.Module] = []
        self._made_by: dict[int, tuple[Tensor, nn.Module]] = {}  # the tensor is held, so that no other gets its id
        self._raw: dict[int, tuple[Tensor, Any]] = {}
        self._readers: dict[nn.Module, set[nn.Module | None]] = defaultdict(set)
        self._sources: dict[nn.Module, set[nn.Module | None]] = defaultdict(set)

    def __enter__(self) -> _Trace:
        self._handles: list[Any] = []
        for conv in self._convs:
            self._handles.append(conv.register_forward_hook(self._after_conv))
        for norm in self._norms:
            self._handles.append(norm.register_forward_pre_hook(self._before_norm))
            self._handles.append(norm.register_forward_hook(self._after_norm))
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for handle in self._handles:
            handle.remove()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        self.read((args, kwargs))
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.convolution.default:
            self._raw[id(result)] = (result, args[1])
        return result

    def read(self, values: Any) -> None:
        """Note that the tensors in ``values`` are read at the present place."""
        place = self._inside[-1] if self._inside else None
        for tensor in tree_leaves(values):
            if id(tensor) in self._made_by:
                self._readers[self._made_by[id(tensor)][1]].add(place)

    def pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        """Convolutions and normalisations that belong to nobody but each other."""
        found = []
        for conv, readers in self._readers.items():
            norm = next(iter(readers))
            if len(readers) == 1 and norm is not None and self._sources[norm] == {conv}:
                found.append((conv, norm))
        return found

    def _after_conv(self, conv: nn.Module, inputs: Any, output: Any) -> None:
        _, weight = self._raw.get(id(output), (None, None))
        if weight is not None and weight is conv._parameters.get("weight"):
            self._made_by[id(output)] = (output, conv)
        else:
            self._readers[conv].add(None)

    def _before_norm(self, norm: nn.Module, inputs: tuple[Any, ...]) -> None:
        _, conv = self._made_by.get(id(inputs[0]), (None, None))
        self._sources[norm].add(conv)
        self._inside.append(norm)

    def _after_norm(self, norm: nn.Module, inputs: Any, output: Any) -> None:
        self._inside.pop()


@torch.no_grad()
def _fold(conv: Any, norm: Any) -> None:
    statistics = (norm.running_mean, norm.running_var, norm.eps)
    conv.weight, conv.bias = fuse_conv_bn_weights(conv.weight, conv.bias, *statistics, norm.weight, norm.bias)


def _what_remains(norm: nn.Module) -> nn.Module:
    """What a normalisation does besides: timm's have dropout and activation as children, in this order."""
    rest = [part for part in norm.children() if not isinstance(part, nn.Identity)]
    return nn.Sequential(*rest) if rest else nn.Identity()


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put ``new`` wherever ``old`` is."""
    new.eval()
    for part in list(model.modules()):
        for name, child in part._modules.items():
            if child is old:
                part._modules[name] = new
