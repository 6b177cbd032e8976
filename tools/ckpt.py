"""Look into checkpoints (.pth, .pt, .safetensors, sharded .dcp): whether they are whole, what they hold, how two of them differ.

python tools/ckpt.py verify ckpts/vision/custom/bccd/model_latest.pth
python tools/ckpt.py show ckpts/vision/custom/bccd/model_latest.pth --tree
python tools/ckpt.py diff ckpts/vision/custom/bccd/model_iter500.pth ckpts/vision/custom/bccd/model_iter1000.pth
python tools/ckpt.py merge ckpts/vision/custom/bccd/model_iter1000.dcp whole.pth
Exit status: 0; 1 if a file is damaged (verify) or two differ (diff); 2 if the command is wrong.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pet.engine.command import run_tool, tool_parser


def verify(args):
    """One line for each file; 1 if one is damaged."""
    from pet.engine import checkpoint_info
    from pet.engine.checkpoint_file import DamagedCheckpoint

    damaged = 0
    for path in args.files:
        try:
            print(f"good     {path}: {checkpoint_info.verify(path)}")
        except DamagedCheckpoint as error:
            damaged += 1
            print(f"damaged  {error}")
    return 1 if damaged else 0


def show(args):
    """What each file holds."""
    from pet.engine import checkpoint_info

    print("\n\n".join(checkpoint_info.show(path, args.tree, args.meta) for path in args.files))


def diff(args):
    """The differences; 1 if there are any."""
    from pet.engine import checkpoint_info

    found = checkpoint_info.diff(args.first, args.second, everything=args.all, tolerance=args.tolerance)
    print(found.describe())
    return 1 if found else 0


def merge(args):
    """Write a sharded checkpoint as one file."""
    from pet.engine import checkpoint_info

    checkpoint_info.merge(args.folder, args.out)
    print(f"{args.out}: all that {args.folder} holds")


if __name__ == "__main__":
    parser = tool_parser(__doc__, config=False)
    commands = parser.add_subparsers(required=True, metavar="{verify,show,diff,merge}")
    for function in (verify, show):
        command = commands.add_parser(function.__name__, help=function.__doc__, allow_abbrev=False)
        command.add_argument("files", nargs="+", type=Path, metavar="FILE", help="checkpoints")
        command.set_defaults(run=function)
    command.add_argument("--tree", action="store_true", help="modules with their numbers of parameters, instead of tensors")
    command.add_argument("--meta", default="", metavar="NAME", help="one value of meta, such as config, and nothing else")
    command = commands.add_parser("diff", help=diff.__doc__, allow_abbrev=False)
    command.add_argument("first", type=Path, metavar="A", help="checkpoint")
    command.add_argument("second", type=Path, metavar="B", help="checkpoint")
    command.add_argument("--all", action="store_true", help="all tensors (optimizer, averages, ...), not the weights alone")
    command.add_argument("--tolerance", type=float, default=0.0, metavar="D", help="absolute differences that do not count")
    command.set_defaults(run=diff)
    command = commands.add_parser("merge", help=merge.__doc__, allow_abbrev=False)
    command.add_argument("folder", type=Path, metavar="FOLDER", help="sharded checkpoint, such as model_iter1000.dcp")
    command.add_argument("out", type=Path, metavar="OUT.pth", help="the new file")
    command.set_defaults(run=merge)
    run_tool(lambda args: args.run(args), parser)
