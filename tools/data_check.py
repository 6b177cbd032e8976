"""Look at the data of an experiment without training: every picture, label and annotation.

Lists what is missing, what cannot be read, what is wrong in annotations and where, how many there are of each class, and whether
that fits the heads. Exit status: 0 clean; 1 errors, data that would be lost or cannot be used; 2 the command or config is wrong.

    python tools/data_check.py cfgs/tasks/cls/shapes/resnet_quickstart.yaml --split train --fast
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pet.engine.command import open_config, run_tool, tool_parser
from pet.utils.files import atomic_json


def main(args: argparse.Namespace) -> int:
    """Check the data and print what was found; the exit status."""
    if bool(args.config) == bool(args.cfg):
        raise ValueError("name one config: data_check.py CONFIG, or --cfg CONFIG")
    # Data are looked at, not fetched, and read by the check itself.
    opened = open_config(args.config or args.cfg, [*args.cfg_options, "DATA.CHECK=fast", "DATA.DOWNLOAD=False"])
    from pet.data.check import check_data

    splits = ("train", "test") if args.split == "all" else (args.split,)
    found = []
    for one in check_data(opened.cfg, opened.domain_module, splits, not args.fast, args.nproc):
        print("\n".join(one.lines()), flush=True)
        found.append(one)
    errors = sum(one.errors for one in found)
    if args.out:
        atomic_json(args.out, {"errors": errors, "datasets": [one.as_dict() for one in found]})
        print(f"written: {args.out}")
    print(f"{len(found)} data sets, {errors} errors")
    return 1 if errors else 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = tool_parser(__doc__)
    add = result.add_argument
    add("config", nargs="?", metavar="CONFIG", help="YAML of the experiment")
    add("--cfg", metavar="FILE", help="the same")
    add("--split", choices=("train", "test", "all"), default="all", help="which data; default: all")
    add("--fast", action="store_true", help="annotations and labels alone, without reading pictures")
    add("--out", metavar="FILE", help="write what was found as JSON, with up to 100 places of each fault")
    add("--nproc", type=int, default=1, metavar="N", help="processes that read pictures; default: 1")
    return result


if __name__ == "__main__":
    run_tool(main, parser())
