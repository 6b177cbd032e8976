"""Predict on a picture and draw what was found.

python tools/demo/image_demo.py photo.jpg CONFIG CHECKPOINT --out-file result.jpg
Detectors print how many objects they found, classifiers the class and its score. With --out-file FILE the drawn picture is
written there (FILE.json: boxes, labels and masks as text); without, it is shown in a window, or written to
<picture>_result.png where there is no display.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pet.apis.demo import build_predictor, demo_parser, drawing_options, keep_source, predict_image, present
from pet.engine.command import run_tool


def main(args):
    """Predict, print, draw."""
    options = drawing_options(args, args.out_file)
    keep_source(args.image, args.out_file)
    found = predict_image(build_predictor(args), args.image, args.async_test)
    print(found.summary(args.score_thr))
    print(present(found, args.out_file, **options))


if __name__ == "__main__":
    parser = demo_parser(__doc__, "image", "the picture")
    parser.add_argument("--out-file", metavar="FILE", help="picture, or .json, to write; its folder is made")
    parser.add_argument("--async-test", action="store_true", help="predict in a thread beside an event loop")
    run_tool(main, parser)
