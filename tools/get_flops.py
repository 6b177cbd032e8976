"""Print the size and the cost of a network; nothing is computed, so that any size takes a moment.

python tools/get_flops.py cfgs/tasks/cls/ImageNet/resnet50.yaml
python tools/get_flops.py cfgs/vision/COCO/retinanet_R-50-FPN_1x.yaml --shape 800 1216
One multiplication with its addition counts as one FLOP, as in papers; NVIDIA and torch's own counter show twice as much.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pet.engine.command import open_config, run_tool, tool_parser


def main(args):
    """Print the table."""
    import torch

    from pet.engine.sizes import size_of_input

    opened = open_config(args.config, args.cfg_options)
    domain, cfg = opened.domain_module, opened.cfg
    size = size_of_input(cfg, domain, args.shape)
    with torch.device("meta"):
        model = domain.GeneralizedCNN(cfg, is_train=False)
    print(domain.Analyser(cfg, model, args.details).table(*size))


if __name__ == "__main__":
    parser = tool_parser(__doc__)
    parser.add_argument("config", metavar="CONFIG", help="YAML of the experiment")
    parser.add_argument(
        "--shape", type=int, nargs="+", metavar="N", help="side, or height and width, of the picture; default: that of a test"
    )
    parser.add_argument("--details", action="store_true", help="the parameters of every module too")
    run_tool(main, parser)
