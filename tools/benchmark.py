"""Measure how many pictures a second a network or its data loader takes.

python tools/benchmark.py cfgs/vision/shapes/faster_rcnn_quickstart.yaml --task inference --max-iter 50
python tools/benchmark.py cfgs/tasks/cls/ImageNet/resnet50.yaml --shape 224 --batch-size 16 --fuse-conv-bn --amp
python tools/benchmark.py cfgs/vision/shapes/faster_rcnn_quickstart.yaml --task dataloader
Inference times the network and what follows it, on pictures of the test set (--shape: on noise, without any data); dataloader
times the training loader alone. Without a checkpoint the weights are random; speed hardly depends on them, except of detectors.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pet.engine.command import open_config, run_tool, tool_parser


def inference(args, opened):
    """Time the model."""
    from pet.apis.benchmark import time_inference

    cfg, domain, counts = opened.cfg, opened.domain_module, (args.max_iter, args.warm_up)
    return time_inference(cfg, domain, args.checkpoint, args.shape, *counts, fuse=args.fuse_conv_bn)


def dataloader(args, opened):
    """Time the training loader."""
    from pet.apis.benchmark import time_training_data

    return time_training_data(opened.cfg, opened.domain_module, args.max_iter, args.warm_up)


def main(args):
    """Measure and print."""
    if args.max_iter < 1 or args.warm_up < 0:
        raise ValueError(f"--max-iter is {args.max_iter} and --warm-up {args.warm_up}; at least 1 and 0 are needed")
    options = list(args.cfg_options)
    if args.batch_size is not None:
        options += ["TRAIN.BATCH_SIZE" if args.task is dataloader else "TEST.IMS_PER_GPU", args.batch_size]
    if args.amp:
        options += ["SOLVER.AMP.ENABLED", True]
    timings, what = args.task(args, open_config(args.config, options))
    print(f"{what}\n{timings.describe()}")


if __name__ == "__main__":
    tasks = {"inference": inference, "dataloader": dataloader}
    parser = tool_parser(__doc__)
    add = parser.add_argument
    add("config", metavar="CONFIG", help="YAML of the experiment")
    add("checkpoint", nargs="?", default="", metavar="CHECKPOINT", help="weights; default: random ones")
    add("--task", choices=tasks, default="inference", help="what to measure; default: inference")
    add("--max-iter", type=int, default=50, metavar="N", help="batches to measure; default: 50")
    add("--warm-up", type=int, default=5, metavar="N", help="batches before that; default: 5")
    add("--batch-size", type=int, metavar="N", help="pictures of a batch")
    add("--shape", type=int, nargs="+", metavar="N", help="noise of this height and width instead of pictures of the test set")
    add("--fuse-conv-bn", action="store_true", help="fold batch normalisation into convolutions")
    add("--amp", action="store_true", help="mixed precision")
    run_tool(lambda args: main(argparse.Namespace(**{**vars(args), "task": tasks[args.task]})), parser)
