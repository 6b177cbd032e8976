"""The size and cost of a model, without running it."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from pet.analyser.counter import OperatorCounter, count_operators
from pet.config import CfgNode
from pet.utils.module import run_on_meta

MODES = ("flops", "activations")


class Analyser:
    """Parameters, FLOPs and activations of a model.

    Works on shapes alone (torch's ``meta`` device): weights, statistics, modes and the random state stay as they are,
    and no second model is built. See ``pet.analyser.counter`` for what counts.

    Args:
        cfg: the config; ANALYSER.DETAILS is read.
        model: called with images (1, 3, H, W) uint8.
        param_details: list the parameters of every module, like ANALYSER.DETAILS.
        size: (height, width) of the image that ``describe`` assumes, pixels; ``None``: unknown, it tells the parameters only.
    """

    def __init__(
        self, cfg: CfgNode, model: nn.Module, param_details: bool = False, size: tuple[int, int] | None = (224, 224)
    ) -> None:
        self.model, self.size = model, size
        self.details = param_details or cfg.ANALYSER.DETAILS
        self._counters: dict[tuple[int, int], OperatorCounter] = {}

    def get_params(self, max_depth: int = 6) -> tuple[list[tuple[str, int]], str]:
        """Number of parameters.

        Args:
            max_depth: depth of the table.

        Returns:
            Rows (name of the module, its parameters), the whole model first under the name "model"; and the total as text,
            e.g. ``"25.56M"``. A parameter that several modules share counts in each of them, but once in their parents.
        """
        rows = [(name, sum(p.numel() for p in part.parameters())) for name, part in _modules(self.model, max_depth)]
        return rows, f"{rows[0][1] / 1e6:.2f}M"

    def get_flops_activs(self, height: int, width: int, mode: str = "flops") -> tuple[float, float]:
        """Work for one image.

        Args:
            height, width: of the image, pixels.
            mode: ``flops`` (multiply-adds) or ``activations`` (elements written by convolutions and matrix products).

        Returns:
            Convolutions alone, and everything counted; in millions.
        """
        if mode not in MODES:
            raise ValueError(f"mode is '{mode}'; allowed: {', '.join(MODES)}")
        counter = self._count(height, width)
        counts = counter.flops if mode == "flops" else counter.activations
        return counts["conv"] / 1e6, sum(counts.values()) / 1e6

    def uncounted(self, height: int, width: int) -> dict[str, int]:
        """Operators that do work which is not counted, with their number of calls."""
        return dict(self._count(height, width).uncounted.most_common())

    def describe(self) -> str:
        """Lines for the log."""
        rows, total = self.get_params()
        trained = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        lines = [
            f"model: {total} parameters ({trained / 1e6:.2f}M trained)" + (self._describe_work(*self.size) if self.size else "")
        ]
        return "\n".join(lines + self._module_lines(rows))

    def table(self, height: int, width: int) -> str:
        """Parameters and cost of an image, one a line; raises what the model raises if it cannot take the size."""
        rows, _ = self.get_params()
        trained = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        (conv_flops, flops), (conv_activs, activs) = (self.get_flops_activs(height, width, mode) for mode in MODES)
        skipped = ", ".join(f"{name} x{calls}" for name, calls in self.uncounted(height, width).items())
        lines = [
            f"input shape    1 x 3 x {height} x {width}",
            f"parameters     {rows[0][1] / 1e6:.3f} M ({trained / 1e6:.3f} M trained)",
            f"FLOPs          {flops / 1e3:.3f} G multiply-adds ({conv_flops / 1e3:.3f} G in convolutions)",
            f"activations    {activs:.3f} M ({conv_activs:.3f} M of convolutions)",
            f"not counted    {skipped or 'nothing'}",
        ]
        return "\n".join(lines + self._module_lines(rows))

    def _module_lines(self, rows: list[tuple[str, int]]) -> list[str]:
        return [f"{'  ' * (name.count('.') + 1)}{name}: {count:,}" for name, count in rows] if self.details else []

    def _describe_work(self, height: int, width: int) -> str:
        conv_flops, flops = self.get_flops_activs(height, width, "flops")
        conv_activs, activs = self.get_flops_activs(height, width, "activations")
        skipped = ", ".join(f"{name} x{calls}" for name, calls in self.uncounted(height, width).items())
        return (
            f"; an image of {height} x {width} takes {flops:.1f}M multiply-adds ({conv_flops:.1f}M in convolutions) and "
            f"{activs:.2f}M activations ({conv_activs:.2f}M)\nmodel: operators that are not counted: {skipped or 'none'}"
        )

    def _count(self, height: int, width: int) -> OperatorCounter:
        if (height, width) not in self._counters:
            images = torch.empty(1, 3, height, width, dtype=torch.uint8, device="meta")
            try:
                with torch.random.fork_rng(devices=[]):
                    self._counters[height, width] = count_operators(lambda: run_on_meta(self.model, images))
            except (RuntimeError, AssertionError) as error:
                raise ValueError(f"the network does not take an image of {height} x {width}: {error}") from error
        return self._counters[height, width]


RCNNAnalyser = Analyser  # the name in Pet v0.7


def _modules(model: nn.Module, max_depth: int) -> Iterator[tuple[str, nn.Module]]:
    yield "model", model
    for name, part in model.named_modules():
        if name and name.count(".") < max_depth and next(part.parameters(), None) is not None:
            yield name, part
