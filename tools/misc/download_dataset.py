"""Fetch public data sets: several files at once, verified, and continued where a connection broke off.

The files go where Pet looks for them, below the data root (the environment variable PET_DATA, or data/); --save-dir names another
folder. What is there already is not fetched again.

    python tools/misc/download_dataset.py --list
    python tools/misc/download_dataset.py --dataset-name coco2017 --save-dir data/coco --unzip --delete --threads 4
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pet.data.download import check_space, fetch_all, space_needed
from pet.data.known_sets import data_root
from pet.data.remote_sets import choose_sets, describe_sets, files_to_fetch
from pet.engine.command import run_tool
from pet.utils.logger import setup_logging


def main(args: argparse.Namespace) -> int:
    """Fetch what was asked for; the exit status."""
    if args.list:
        print("\n".join(describe_sets()))
        return 0
    if args.names:
        raise ValueError(f"'{args.names[0]}' belongs to no flag. Did you mean --dataset-name {' '.join(args.names)}?")
    if not args.dataset_name:
        raise ValueError("--dataset-name is missing; --list shows the names")
    if args.delete and not args.unzip:
        raise ValueError("--delete removes archives that were unpacked, so it needs --unzip")
    if args.threads < 1:
        raise ValueError(f"--threads is {args.threads}; it must be at least 1")
    chosen = choose_sets(args.dataset_name)
    folder = Path(args.save_dir).expanduser() if args.save_dir else data_root()
    files = files_to_fetch(chosen, not args.save_dir, args.mirror)
    options = {"unpacked": args.unzip, "delete": args.delete, "threads": args.threads}
    setup_logging()
    print(f"{len(files)} files into {folder.absolute()}: {check_space(space_needed(files, folder, **options), folder)}")
    problems = fetch_all(files, folder, **options)
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    print(f"{len(files) - len(problems)} of {len(files)} files are there")
    return 1 if problems else 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = result.add_argument
    add("names", nargs="*", help=argparse.SUPPRESS)
    add("--dataset-name", "--dataset_name", nargs="+", default=[], metavar="NAME", help="what to fetch; see --list")
    add("--save-dir", "--save_dir", metavar="DIR", help="where to; default: where Pet looks, e.g. data/coco for coco2017")
    add("--unzip", action="store_true", help="unpack archives; one that leaves the folder, or is too large, is refused")
    add("--delete", action="store_true", help="delete an archive after it was unpacked")
    add("--threads", type=int, default=4, metavar="N", help="files at once; default: 4")
    add("--mirror", default="", metavar="URL", help="address that holds files of the same names, tried first")
    add("--list", action="store_true", help="show the data sets, their sizes and places, then stop")
    return result


if __name__ == "__main__":
    run_tool(main, parser())
