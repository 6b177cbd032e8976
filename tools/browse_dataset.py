"""Look at the data of an experiment: boxes, masks, keypoints, maps and classes drawn on the pictures.

Modes: original (as stored), transformed (as the model sees it), pipeline (after each transform), mosaic (many in one picture).

    python tools/browse_dataset.py cfgs/tasks/cls/shapes/resnet_quickstart.yaml -m pipeline -n 4 --not-show -o ckpts/look
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pet.engine.command import open_config, run_tool, tool_parser


def main(args: argparse.Namespace) -> None:
    """Draw the pictures; write them, show them, or both."""
    from pet.apis.browse import browse
    from pet.utils.display import require_display
    from pet.utils.images import write_png
    from pet.utils.logger import setup_logging
    from pet.visualization.window import close_windows, show_picture

    if args.not_show and not args.output_dir:
        raise ValueError("--not-show without --output-dir would do nothing; name a folder with --output-dir DIR")
    if not args.not_show:
        require_display("write the pictures with --not-show --output-dir DIR")
    opened = open_config(args.config, args.cfg_options)
    setup_logging()
    pictures = browse(opened.cfg, opened.domain_module, args.split, args.mode, args.show_number, args.skip_type)
    wait_ms = max(round(1000 * args.show_interval), 1) if args.show_interval > 0 else 0
    count = 0
    for name, picture in pictures:
        count += 1
        if args.output_dir:
            write_png(Path(args.output_dir) / f"{name}.png", picture)
        if not args.not_show and show_picture("Pet: any key for the next picture, q or Esc ends", picture, wait_ms):
            break
    if not args.not_show:
        close_windows()
    print(f"{count} pictures" + (f" in {args.output_dir}" if args.output_dir else ""))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = tool_parser(__doc__)
    add = result.add_argument
    add("config", metavar="CONFIG", help="YAML of the experiment")
    add("--split", "--phase", "-p", choices=("train", "test"), default="train", help="which data; default: train")
    add("--mode", "-m", default="transformed", metavar="MODE", help="original, transformed (default), pipeline or mosaic")
    add("--output-dir", "-o", metavar="DIR", help="write <name of the picture>.png here")
    add("--not-show", action="store_true", help="open no window; needs --output-dir")
    add("--show-number", "-n", type=int, default=0, metavar="N", help="the first so many pictures; default: all")
    add(
        "--show-interval", "-i", type=float, default=2, metavar="S", help="seconds a picture is shown; 0: until a key; default: 2"
    )
    add("--skip-type", nargs="+", default=[], metavar="T", help="leave out these transforms, e.g. random_horizontal_flip")
    return result


if __name__ == "__main__":
    run_tool(main, parser())
