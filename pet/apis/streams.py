"""Predictions that do not block an event loop: each runs in a thread, as many at a time as a queue has places."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, TypeVar

import torch

from pet.apis.inference import inference_detector
from pet.apis.predictor import Predictor

Result = TypeVar("Result")
_stream: ContextVar[Any] = ContextVar("stream", default=None)


def stream_queue(model: Predictor, size: int = 3) -> asyncio.Queue[Any]:
    """A queue for ``concurrent`` with ``size`` CUDA streams of the model's device; on a CPU with numbers, one for a thread."""
    if size < 1:
        raise ValueError(f"the size of the queue is {size}; it must be at least 1")
    queue: asyncio.Queue[Any] = asyncio.Queue(size)
    on_gpu = model.device.type == "cuda"
    for number in range(size):
        queue.put_nowait(torch.cuda.Stream(device=model.device) if on_gpu else number)
    return queue


@asynccontextmanager
async def concurrent(streamqueue: asyncio.Queue[Any]) -> AsyncIterator[Any]:
    """Wait for a place in the queue, and give it back at the end.

    Predictions awaited inside run on the CUDA stream that was taken, if it is one. It belongs to the task, so tasks that take
    turns on the event loop do not disturb one another.

    Args:
        streamqueue: of ``stream_queue``, or any queue that holds CUDA streams (or, on a CPU, anything).

    Yields:
        What was taken from the queue.
    """
    taken = await streamqueue.get()
    token = _stream.set(taken)
    try:
        yield taken
    finally:
        _stream.reset(token)
        streamqueue.put_nowait(taken)


async def async_inference_detector(model: Predictor, imgs: Any) -> Any:
    """``inference_detector`` that lets the event loop go on meanwhile; use it inside ``concurrent``.

    ``asyncio.gather`` returns the results in the order of its arguments.
    """
    return await async_call(inference_detector, model, imgs)


async def async_call(function: Callable[..., Result], *arguments: Any) -> Result:
    """Call a function that predicts in a thread, on the CUDA stream that ``concurrent`` has taken; e.g. a ``Predictor``."""
    return await asyncio.to_thread(_on_stream, _stream.get(), function, *arguments)


def _on_stream(stream: Any, function: Callable[..., Result], *arguments: Any) -> Result:
    """Predictions are on the CPU when it returns, so nothing is left to wait for."""
    with torch.cuda.stream(stream) if isinstance(stream, torch.cuda.Stream) else nullcontext():
        return function(*arguments)
