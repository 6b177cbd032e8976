"""What the demo scripts share: their command line and their model. Imports no torch until a model is built."""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pet.engine.command import tool_parser
from pet.utils.display import require_display
from pet.utils.images import check_picture_path

if TYPE_CHECKING:
    from pet.apis.prediction import Prediction
    from pet.apis.predictor import Predictor
    from pet.apis.video import FrameReader


def demo_parser(description: str | None, source: str = "", what: str = "", score_thr: float = 0.3) -> argparse.ArgumentParser:
    """The arguments of a demo.

    Args:
        description: the docstring of the script.
        source: name of the first argument, what to predict on; empty: there is none.
        what: its help.
        score_thr: default of ``--score-thr``.
    """
    parser = tool_parser(description)
    if source:
        parser.add_argument(source, metavar=source.upper(), help=what)
    parser.add_argument("config", metavar="CONFIG", help="YAML of the experiment")
    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT", nargs="?", default="", help="weights; default: the best or latest ones of the run"
    )
    parser.add_argument("--device", default="auto", metavar="D", help="auto, cpu, cuda, cuda:1, mps; default: auto")
    parser.add_argument(
        "--score-thr", type=float, default=score_thr, metavar="T", help=f"score an object needs to be drawn; default: {score_thr}"
    )
    parser.add_argument(
        "--palette", default="distinct", metavar="P", help="colours: distinct, coco, voc, citys, random; default: distinct"
    )
    return parser


def add_video_arguments(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Where a drawn video goes."""
    parser.add_argument("--out", metavar="FILE", help="video to write, .mp4, .m4v, .mov, .mkv or .avi")
    parser.add_argument("--show", action="store_true", help="show the frames in a window; Esc, q or Q ends")
    parser.add_argument(
        "--wait-time", type=float, default=1, metavar="MS", help="milliseconds a frame stays in the window; default: 1"
    )
    return parser


def drawing_options(args: argparse.Namespace, out_file: str | None = None) -> dict[str, Any]:
    """Options of ``Prediction.draw``; ``ValueError`` for what could not be drawn or written, before anything is computed."""
    from pet.visualization import palette

    palette(args.palette, 1)
    if out_file is not None and not out_file.endswith(".json"):
        check_picture_path(out_file)
    if not 0 <= args.score_thr <= 1:
        raise ValueError(f"--score-thr is {args.score_thr:g}; a score is between 0 and 1")
    return {"score_thr": args.score_thr, "palette": args.palette}


def keep_source(source: str, out: str | None) -> None:
    """Refuse an output that is the source; ``ValueError``."""
    if out is not None and os.path.exists(out) and os.path.exists(source) and os.path.samefile(source, out):
        raise ValueError(f"{out} is the source itself, which would be lost: write the result to another file")


def build_predictor(args: argparse.Namespace) -> Predictor:
    """The model that the command line names; frames are predicted one at a time, so that each is shown at once."""
    from pet.apis.predictor import Predictor
    from pet.utils.logger import setup_logging

    setup_logging()
    return Predictor(args.config, args.checkpoint, args.device, args.cfg_options, batch_size=1)


def run_video(args: argparse.Namespace, open_reader: Callable[[], FrameReader]) -> str:
    """Predict and draw a video; what happened, as text."""
    from pet.apis.video import annotate_video, check_destination

    check_destination(args.out, args.show)
    options = drawing_options(args)
    if args.wait_time < 0:
        raise ValueError(f"--wait-time is {args.wait_time:g}; it must be at least 0 milliseconds")
    with open_reader() as reader:
        keep_source(reader.source, args.out)
        predictor = build_predictor(args)
        start = time.perf_counter()
        count = annotate_video(predictor, reader, out=args.out, show=args.show, wait_ms=args.wait_time, **options)
        seconds = time.perf_counter() - start
    speed = f"{seconds:.1f} s, {count / seconds:.1f} a second, decoded on {reader.decoder}"
    return f"{count} frames of {reader.source} in {speed}" + (f"; the result is {args.out}" if args.out else "")


def predict_image(predictor: Predictor, path: str, in_thread: bool) -> Prediction:
    """The prediction for one picture, in a thread beside an event loop if asked for."""
    if not in_thread:
        return next(predictor.stream([path]))
    from pet.apis.streams import async_call, concurrent, stream_queue

    async def predict() -> list[Prediction]:
        async with concurrent(stream_queue(predictor)):
            return await async_call(predictor, [path])

    return asyncio.run(predict())[0]


def present(found: Prediction, out_file: str | None, **options: Any) -> str:
    """Write the drawn picture, else show it, else write it beside the user; what was done, as text.

    Args:
        found: what to draw.
        out_file: where to; ``None``: a window, or ``<picture>_result.png`` in the working folder where there is no display.
        options: of ``Prediction.draw``.
    """
    if out_file is not None:
        return f"written: {found.save(out_file, **options)}"
    try:
        require_display("the picture is written")
    except OSError as error:
        return f"{error}: {found.save(f'{Path(found.source).stem}_result.png', **options)} (name another file with --out-file)"
    from pet.visualization.window import show_picture

    show_picture(found.source, found.draw(keep_size=False, **options))
    return "shown"
