"""Compute metrics from predictions that a test wrote, without the model; the numbers are those of the test.

python tools/offline_eval.py cfgs/vision/shapes/faster_rcnn_quickstart.yaml predictions.pkl [--metrics M ...] [KEY VALUE ...]

PREDICTIONS is the file of --out or --save-preds, a file such as P.bbox.json, P.segm.json or P.panoptic.json, P itself for all of
them, a folder of label maps or of Cityscapes' text files, or one of the text files of Pascal VOC.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pet.engine.arguments import apply_eval_options
from pet.engine.command import open_config, run_tool, tool_parser


def make_parser():
    """The arguments of this tool."""
    parser = tool_parser(__doc__)
    parser.add_argument("config", metavar="CONFIG", help="YAML of the experiment")
    parser.add_argument("predictions", metavar="PREDICTIONS", help="what the test wrote")
    parser.add_argument("--metrics", "--eval", nargs="+", metavar="M", help="metrics instead of EVAL.METRICS")
    parser.add_argument(
        "--eval-options", "--metric-options", nargs="+", action="extend", default=[], metavar="K=V", help="as in a test"
    )
    return parser


def main(args):
    """Read, compute, print."""
    config = open_config(args.config, args.cfg_options)
    config.cfg.defrost()
    apply_eval_options(config.cfg, args.eval_options)
    config.cfg.freeze()

    from pet.apis.offline import evaluate_offline  # torch only when the command is right

    _, text = evaluate_offline(config.cfg, config.domain_module, args.predictions, args.metrics, args.eval_options)
    print(text)


if __name__ == "__main__":
    run_tool(main, make_parser())
