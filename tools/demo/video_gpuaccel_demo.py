"""Predict on every frame of a video that the GPU decodes, and write or show the drawn frames.

python tools/demo/video_gpuaccel_demo.py clip.mp4 CONFIG CHECKPOINT --nvdecode --out result.mp4
Needs PyAV (pip install -e .[video]). Without --nvdecode, or where no GPU can decode, the CPU does; the frames are the same.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pet.apis.demo import add_video_arguments, demo_parser, run_video
from pet.engine.command import run_tool


def main(args):
    """Decode, predict, draw, write."""
    from pet.apis import HardwareVideoReader

    print(run_video(args, lambda: HardwareVideoReader(args.video, hardware=args.nvdecode)))


if __name__ == "__main__":
    parser = add_video_arguments(demo_parser(__doc__, "video", "the video file"))
    parser.add_argument("--nvdecode", action="store_true", help="let the GPU decode (NVDEC); falls back to the CPU")
    run_tool(main, parser)
