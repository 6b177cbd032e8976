"""Count the work of the operators that run.

Convention: a multiply-add counts as one, as in most papers (torch's own counter and NVIDIA count two).

- Convolution, matrix product (linear layers, einsum), attention: their multiply-adds, without bias.
- Deformable convolution: the same, and 4 for each value that is interpolated.
- Batch normalisation: 1 for each element (scale and shift). Layer and group normalisation: 2 (statistics too).
- Everything else is not counted. Element-wise operators, pooling, softmax and so on are listed as uncounted; operators that
  only move or reinterpret data are not mentioned.

Activations are the elements that convolutions and matrix products write (arXiv 2003.13678, section 2).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

_NORM_COST = {
    "batch_norm": 1,
    "layer_norm": 2,
    "group_norm": 2,
}

# Parts of names of operators that create, move or reinterpret data.
_FREE = (
    *("view", "reshape", "permute", "transpose", "expand", "slice", "select", "split", "chunk", "unbind", "squeeze", "cat"),
    *("stack", "clone", "copy", "detach", "alias", "empty", "zeros", "ones", "full", "arange", "flip", "roll", "pad", "index"),
    *("gather", "as_strided", "unfold", "fill", "repeat", "lift", "scalar_tensor", "new_", "eye", "meshgrid", "narrow"),
    *("tril", "triu", "embedding"),
)


class OperatorCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no annotations here
    """While active, counts every operator that runs, on any device.

    Attributes:
        flops: kind of operator (``conv``, ``matmul``, ``attention``, ``norm``) to multiply-adds.
        activations: kind to elements written.
        uncounted: name of an operator that does work which is not counted, to its number of calls.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops: Counter[str] = Counter()
        self.activations: Counter[str] = Counter()
        self.uncounted: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        self._count(func, args, kwargs, out)
        return out

    def _count(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        packet = func._overloadpacket
        name = func.name().partition("::")[2].partition(".")[0]
        first = out[0] if isinstance(out, tuple | list) else out
        if packet in flop_registry:
            kind = _kind(name)
            self._add(kind, flop_registry[packet](*args, **kwargs, out_val=out) // 2, first)
        elif name == "deform_conv2d":
            self._add("conv", _deform_conv_flops(args[0], args[1], out), out)
        elif cost := next((cost for part, cost in _NORM_COST.items() if part in name), 0):
            self.flops["norm"] += cost * first.numel()
        elif not any(part in name for part in _FREE) and name != "t":
            self.uncounted[name.strip("_")] += 1

    def _add(self, kind: str, flops: int, out: Tensor) -> None:
        self.flops[kind] += flops
        self.activations[kind] += out.numel()


def _kind(name: str) -> str:
    if "conv" in name:
        return "conv"
    return "attention" if "attention" in name else "matmul"


def _deform_conv_flops(images: Tensor, weight: Tensor, out: Tensor) -> int:
    """Images (N, C, H, W), weight (O, C / groups, kh, kw), out (N, O, H', W')."""
    taps = weight.shape[2] * weight.shape[3]
    interpolated = out.numel() // out.shape[1] * images.shape[1] * taps
    return out.numel() * weight.shape[1] * taps + 4 * interpolated


def count_operators(run: Callable[[], Any]) -> OperatorCounter:
    """Run a function and return what its operators did."""
    counter = OperatorCounter()
    with counter:
        run()
    return counter
