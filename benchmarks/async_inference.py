"""One picture after the other against several at a time: the same detections, in how many seconds?

OMP_NUM_THREADS=1 python benchmarks/async_inference.py [--images 24] [--streams 3] [--config FILE] [--checkpoint FILE]
Without --checkpoint the weights are those of the run, or random; the time hardly depends on them. On a GPU each picture in flight
has a CUDA stream, on a CPU a thread: there time is gained only on cores that OMP_NUM_THREADS leaves idle.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pet.apis import Predictor, async_inference_detector, concurrent, inference_detector, stream_queue
from pet.data.catalog import build_dataset

CONFIG = "cfgs/vision/shapes/faster_rcnn_quickstart.yaml"


def drawn_pictures(count: int, side: int) -> list[np.ndarray]:
    """Pictures of shapes, (side, side, 3) uint8."""
    catalog = {"drawn": {"TYPE": "shapes_dataset", "NUM_IMAGES": count, "IMAGE_SIZE": side, "NUM_SHAPES": 8}}
    dataset = build_dataset(("drawn",), False, catalog=catalog)
    return [dataset.read(index).image for index in range(count)]


def run_sync(model: Predictor, images: Sequence[np.ndarray]) -> list[Any]:
    """One after the other."""
    return [inference_detector(model, image) for image in images]


def run_async(model: Predictor, images: Sequence[np.ndarray], streams: int) -> list[Any]:
    """Up to ``streams`` at a time."""

    async def one(queue: asyncio.Queue[Any], image: np.ndarray) -> Any:
        async with concurrent(queue):
            return await async_inference_detector(model, image)

    async def everything() -> list[Any]:
        queue = stream_queue(model, streams)
        return list(await asyncio.gather(*(one(queue, image) for image in images)))

    return asyncio.run(everything())


def same(one: Any, other: Any) -> bool:
    """Whether results agree in every number."""
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 1 if the detections differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default=str(Path(__file__).resolve().parents[1] / CONFIG), metavar="FILE")
    parser.add_argument("--checkpoint", default="", metavar="FILE")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--images", type=int, default=24, metavar="N")
    parser.add_argument("--size", type=int, default=256, metavar="PIXELS", help="side of the pictures")
    parser.add_argument("--streams", type=int, default=3, metavar="N", help="pictures in flight")
    parser.add_argument("--cfg-options", nargs="*", default=[], metavar="K=V")
    args = parser.parse_args(arguments)
    model = Predictor(args.config, args.checkpoint, args.device, args.cfg_options, batch_size=1)
    images = drawn_pictures(args.images, args.size)
    run_sync(model, images[:2])  # warm up
    start = time.perf_counter()
    expected = run_sync(model, images)
    middle = time.perf_counter()
    found = run_async(model, images, args.streams)
    sync, asynchronous = middle - start, time.perf_counter() - middle
    equal = same(found, expected)
    print(f"{args.images} pictures of {args.size} x {args.size} on {model.device}, {args.streams} in flight")
    print(f"sync  {sync:.3f} s  {args.images / sync:.2f} pictures a second")
    print(f"async {asynchronous:.3f} s  {args.images / asynchronous:.2f} pictures a second")
    print(f"async / sync: {asynchronous / sync:.3f}; the detections are {'the same' if equal else 'DIFFERENT'}")
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
