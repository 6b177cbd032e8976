from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import async_inference
from pet.apis import Predictor, async_call, async_inference_detector, concurrent, inference_detector, stream_queue
from tests.apis.models import Saved

Made = Callable[[str], Predictor]


def test_six_predictions_at_once_keep_their_order(predictor: Made, photos: Path) -> None:
    model = predictor("boxes")
    paths = [str(photos / f"{number % 5}.png") for number in (3, 0, 4, 1, 5, 2)]

    async def one(queue: asyncio.Queue[object], path: str) -> object:
        async with concurrent(queue):
            return await async_inference_detector(model, path)

    async def everything() -> list[object]:
        queue = stream_queue(model, 3)
        results = await asyncio.gather(*(one(queue, path) for path in paths))
        assert queue.qsize() == 3
        return results

    found = asyncio.run(everything())
    for result, path in zip(found, paths, strict=True):
        for part, expected in zip(result, inference_detector(model, path), strict=True):
            np.testing.assert_array_equal(part, expected)
    assert torch.is_grad_enabled()


def test_the_queue_bounds_how_many_run_and_the_loop_goes_on(predictor: Made) -> None:
    running, most, ticks = 0, 0, 0
    lock = threading.Lock()

    def work(number: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.05)
        with lock:
            running -= 1
        return number

    async def one(queue: asyncio.Queue[object], number: int) -> int:
        async with concurrent(queue):
            return await async_call(work, number)

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0.005)

    async def everything() -> list[int]:
        queue, ticking = stream_queue(predictor("boxes"), 2), asyncio.create_task(tick())
        numbers = await asyncio.gather(*(one(queue, number) for number in range(6)))
        ticking.cancel()
        return numbers

    assert asyncio.run(everything()) == list(range(6))
    assert most == 2
    assert ticks > 10


def test_an_error_gives_the_place_back(predictor: Made) -> None:
    async def fail() -> int:
        queue = stream_queue(predictor("boxes"), 1)
        with pytest.raises(FileNotFoundError):
            async with concurrent(queue):
                await async_inference_detector(predictor("boxes"), "nothing.png")
        return queue.qsize()

    assert asyncio.run(fail()) == 1
    with pytest.raises(ValueError, match="at least 1"):
        stream_queue(predictor("boxes"), 0)


@pytest.mark.gpu
def test_predictions_run_on_the_stream_that_was_taken(predictor: Made) -> None:
    async def current() -> tuple[object, object]:
        stream = torch.cuda.Stream()
        queue: asyncio.Queue[object] = asyncio.Queue()
        queue.put_nowait(stream)
        async with concurrent(queue) as taken:
            return taken, await async_call(torch.cuda.current_stream)

    taken, used = asyncio.run(current())
    assert taken == used


def test_the_benchmark_prints_both_times_and_finds_the_same(
    saved: Callable[[str], Saved], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--config", str(saved("masks").config), "--checkpoint", str(saved("masks").checkpoint), "--device", "cpu"]
    assert async_inference.main([*words, "--images", "4", "--size", "48", "--streams", "2"]) == 0
    printed = capsys.readouterr().out
    sync, asynchronous, ratio = (
        float(re.search(pattern, printed)[1])
        for pattern in (r"sync +([\d.]+) s", r"async +([\d.]+) s", r"async / sync: ([\d.]+)")
    )
    assert min(sync, asynchronous) > 0
    assert ratio == pytest.approx(asynchronous / sync, abs=0.02)
    assert "the detections are the same" in printed
    assert async_inference.same([np.ones(2)], [np.ones(2)])
    assert not async_inference.same(([np.ones(2)], ["a"]), ([np.ones(2)], ["b"]))
