"""How many pictures a second a model or a loader takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pet.engine.evaluation import inference_mode_of


@dataclass(frozen=True)
class Timings:
    """Seconds of each measured batch, and the pictures in it."""

    seconds: list[float]
    images: list[int]

    @property
    def rates(self) -> NDArray[np.float64]:
        """(N,) images/s of each batch."""
        rates: NDArray[np.float64] = np.array(self.images) / np.array(self.seconds)
        return rates

    def describe(self) -> str:
        """Median, spread and mean as lines."""
        low, middle, high = np.percentile(self.rates, (10, 50, 90))
        each = 1000 * float(np.median(np.array(self.seconds) / np.array(self.images)))
        whole = sum(self.images) / sum(self.seconds)
        return (
            f"images/s   median {middle:.5g}, p10 {low:.5g}, p90 {high:.5g}, all together {whole:.5g}\n"
            f"an image   {each:.4g} ms (median), in batches of {max(self.images)}\n"
            f"measured   {sum(self.images)} images in {len(self.seconds)} batches, {sum(self.seconds):.3g} s"
        )


def time_model(
    model: nn.Module,
    forward: Callable[[nn.Module, Any], Any],
    batches: Iterator[Any],
    count: int,
    warm_up: int = 5,
    *,
    device: torch.device,
    amp_dtype: torch.dtype | None = None,
) -> Timings:
    """Time ``forward(model, batch)`` alone: the batch is on the device before the clock starts, which waits for the device's end.

    Args:
        model: on ``device``; runs in evaluation mode.
        forward: e.g. ``forward_test`` of a domain, which includes what follows the network.
        batches: things with ``to`` and a length, at least ``warm_up + count``.
        count: batches to measure.
        warm_up: batches before that.
        device, amp_dtype: as for ``run_evaluation``.
    """
    autocast = torch.autocast(device.type, dtype=amp_dtype) if amp_dtype is not None else nullcontext()
    seconds, images = [], []
    with inference_mode_of(model), autocast:
        for number in range(warm_up + count):
            batch = next(batches).to(device)
            wait_for(device)
            start = perf_counter()
            forward(model, batch)
            wait_for(device)
            if number >= warm_up:
                seconds.append(perf_counter() - start)
                images.append(len(batch))
    return Timings(seconds, images)


def time_loader(windows: Iterator[list[Any]], count: int, warm_up: int = 5) -> Timings:
    """Time how long each window of batches is waited for while nothing else runs."""
    seconds, images = [], []
    for number in range(warm_up + count):
        start = perf_counter()
        window = next(windows)
        if number >= warm_up:
            seconds.append(perf_counter() - start)
            images.append(sum(len(batch) for batch in window))
    return Timings(seconds, images)


def wait_for(device: torch.device) -> None:
    """Until everything that was given to the device is done; the CPU is done already."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def endless(loader: Any) -> Iterator[Any]:
    """The batches of a loader again and again."""
    while True:
        yield from loader
