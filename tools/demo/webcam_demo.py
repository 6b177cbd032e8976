"""Predict on the pictures of a camera, and show or record them. Esc, q, Q or Ctrl-C ends.

python tools/demo/webcam_demo.py CONFIG CHECKPOINT --camera-id 0
A video file, or an address such as rtsp://..., may stand for the camera. Without a display, record with --out FILE.mp4.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pet.apis.demo import add_video_arguments, demo_parser, run_video
from pet.engine.command import run_tool


def main(args):
    """Look, predict, draw, show."""
    from pet.apis import VideoReader

    args.show = args.show or args.out is None
    camera = int(args.camera_id) if args.camera_id.isdecimal() else args.camera_id
    print(run_video(args, lambda: VideoReader(camera)))


if __name__ == "__main__":
    parser = add_video_arguments(demo_parser(__doc__, score_thr=0.5))
    parser.add_argument("--camera-id", default="0", metavar="ID", help="number, video file or address; default: 0")
    run_tool(main, parser)
