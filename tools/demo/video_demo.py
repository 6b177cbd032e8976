"""Predict on every frame of a video, and write or show the drawn frames.

python tools/demo/video_demo.py clip.mp4 CONFIG CHECKPOINT --out result.mp4
The written video has the size, the speed and the number of frames of the source.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pet.apis.demo import add_video_arguments, demo_parser, run_video
from pet.engine.command import run_tool


def main(args):
    """Read, predict, draw, write."""
    from pet.apis import VideoReader

    print(run_video(args, lambda: VideoReader(args.video)))


if __name__ == "__main__":
    run_tool(main, add_video_arguments(demo_parser(__doc__, "video", "the video file")))
