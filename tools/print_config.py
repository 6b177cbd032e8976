"""Print the finished config of an experiment as YAML: defaults, its _BASE_ files, the file, and the command line.

python tools/print_config.py cfgs/tasks/cls/ImageNet/resnet50.yaml TRAIN.BATCH_SIZE 128
python tools/print_config.py cfgs/tasks/cls/ImageNet/resnet50.yaml --explain TRAIN.BATCH_SIZE
The output is a config itself: written to a file, any tool reads it.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pet.config import domain_header
from pet.engine.command import open_config, run_tool, tool_parser


def main(args):
    """Print the config, the part of it that differs from the defaults, or what is known about a key."""
    opened = open_config(args.config, args.cfg_options)
    if args.explain is not None:
        print(opened.cfg.explain(args.explain))
    elif args.diff:
        print("\n".join(f"{key} = {value!r}  ({origin})" for key, _, value, origin in opened.cfg.diff_from_defaults()))
    else:
        print(opened.cfg.dump_resolved(domain_header(opened.domain_name, args.config)), end="")


if __name__ == "__main__":
    parser = tool_parser(__doc__)
    parser.add_argument("config", metavar="CONFIG", help="YAML of the experiment")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--explain", metavar="KEY", help="value, origin and meaning of a key, or of all keys of a section")
    choice.add_argument("--diff", action="store_true", help="only what differs from the defaults, and where it was set")
    run_tool(main, parser)
