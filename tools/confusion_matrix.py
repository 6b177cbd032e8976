"""Count what each class was taken for, as a picture and as numbers.

python tools/confusion_matrix.py cfgs/tasks/cls/shapes/resnet_quickstart.yaml model_best.pth confusion
python tools/confusion_matrix.py cfgs/vision/shapes/faster_rcnn_quickstart.yaml predictions.bbox.json confusion --score-thr 0.5
Writes confusion.png, confusion.json and confusion.csv; rows are the truth. Boxes are matched by their overlap; those without a
partner are in the row (made up) and in the column (missed) of the background.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pet.engine.command import open_config, run_tool, tool_parser


def main(args):
    """Count, write, print the most frequent mistakes."""
    from pet.apis.confusion import confusion_of

    if not args.source.exists() and args.source.suffix:
        raise FileNotFoundError(f"{args.source} does not exist; name a checkpoint, or predictions that a test wrote (--out)")
    opened = open_config(args.config, args.cfg_options)
    found = confusion_of(opened.cfg, opened.domain_module, args.source, iou=args.iou_thr, score=args.score_thr)
    paths = found.write(args.out_dir)
    total = int(found.counts.sum())
    print(f"{found.title}: {int(found.counts.trace())} of {total} on the diagonal")
    print("\n".join(found.worst()) or "no mistakes")
    print("Written: " + ", ".join(map(str, paths)))


if __name__ == "__main__":
    parser = tool_parser(__doc__)
    parser.add_argument("config", metavar="CONFIG", help="YAML of the experiment")
    parser.add_argument("source", type=Path, metavar="PREDICTIONS|CHECKPOINT", help="what a test wrote, or weights to test")
    parser.add_argument("out_dir", type=Path, metavar="OUT_DIR", help="folder for the files")
    parser.add_argument("--score-thr", type=float, default=0.3, metavar="S", help="score that a box needs; default: 0.3")
    parser.add_argument("--iou-thr", type=float, default=0.5, metavar="I", help="overlap that a match needs; default: 0.5")
    run_tool(main, parser)
