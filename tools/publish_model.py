"""Make a checkpoint ready to be shared: weights only, on the CPU, with the checksum in the name.

python tools/publish_model.py ckpts/vision/custom/bccd/model_best.pth bccd_faster_rcnn.pth
writes bccd_faster_rcnn-<8 digits of its SHA-256>.pth; a name that ends in .safetensors gives that format.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pet.engine.command import run_tool, tool_parser  # noqa: E402


def main(args):
    """Publish and print the new name."""
    from pet.engine.publish import publish

    done = publish(args.checkpoint, args.out, args.ema)
    size = done.path.stat().st_size / 2**20
    kind = "averaged weights (EMA)" if done.averaged else "weights"
    print(f"{done.path}: {kind}, {done.parameters / 1e6:.3f} M numbers, {size:.2f} MiB")
    print(f"left out: {', '.join(done.dropped) or 'nothing'}")


if __name__ == "__main__":
    parser = tool_parser(__doc__, config=False)
    parser.add_argument("checkpoint", metavar="IN", help="checkpoint of a run, or weights of another framework")
    parser.add_argument("out", metavar="OUT", help="name of the new file; .pth (default), .pt or .safetensors")
    flag = argparse.BooleanOptionalAction
    parser.add_argument("--ema", action=flag, help="publish the averaged weights, or not; default: as EVAL.EMA of the run says")
    run_tool(main, parser)
