"""Write a trained network as ONNX (.onnx) or as a program of torch.export (.pt2), and check that it computes the same.

python tools/export.py cfgs/tasks/cls/shapes/resnet_quickstart.yaml model_best.pth classifier.onnx --dynamic
python tools/export.py cfgs/vision/custom/bccd.yaml model_best.pth detector.onnx --shape 480 640 --image blood.jpg
The input is "images": (N, 3, H, W) uint8, RGB; normalisation is inside. Detectors take one picture of the given shape.
Exit status: 0; 1 if the file computes something else than the network; 2 if the command is wrong.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pet.engine.command import run_tool, tool_parser


def main(args):
    """Load, export, compare."""
    from pet.apis import Predictor
    from pet.apis.export import export
    from pet.engine.sizes import size_of_input
    from pet.models.export import check_target

    check_target(args.out)
    predictor = Predictor(args.config, args.checkpoint, "cpu", args.cfg_options)
    size = size_of_input(predictor.cfg, predictor.domain, args.shape)
    done = export(predictor, args.out, size, dynamic=args.dynamic, opset=args.opset, pictures=args.image)
    print(f"{args.out}: {args.out.stat().st_size / 2**20:.2f} MiB, images {done.shape} -> {', '.join(done.outputs)}")
    print("largest differences: " + ", ".join(f"{name} {value:.2g}" for name, value in done.differences.items()))
    if done.objects is not None:
        hint = "" if done.objects else "; boxes were not compared: name pictures that show some, --image FILE"
        print(f"objects in the pictures of the comparison: {done.objects}{hint}")
    if done.worst > args.tolerance:
        print(f"error: the file differs by {done.worst:.2g}, more than --tolerance {args.tolerance:g}", file=sys.stderr)
    return 1 if done.worst > args.tolerance else 0


if __name__ == "__main__":
    parser = tool_parser(__doc__)
    parser.add_argument("config", metavar="CONFIG", help="YAML of the experiment")
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="checkpoint of a run, or published weights")
    parser.add_argument("out", type=Path, metavar="OUT", help="file to write: .onnx or .pt2")
    parser.add_argument("--shape", type=int, nargs="+", metavar="N", help="height and width of the input; default: of a test")
    parser.add_argument("--dynamic", action="store_true", help="number and size of pictures may vary; not for detectors")
    parser.add_argument("--opset", type=int, default=18, metavar="N", help="version of the ONNX operators; default: 18")
    parser.add_argument("--image", nargs="+", default=[], metavar="FILE", help="pictures to compare on; default: noise")
    parser.add_argument("--tolerance", type=float, default=1e-3, metavar="D", help="largest difference; default: 1e-3")
    run_tool(main, parser)
