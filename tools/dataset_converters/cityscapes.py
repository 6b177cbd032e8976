"""Cityscapes to COCO JSON files of instances, with the label ids as category ids and masks as run lengths.

Writes instancesonly_filtered_gtFine_{train,val,test}.json for the splits that are there; no other package is needed.

    python tools/dataset_converters/cityscapes.py data/cityscapes --nproc 8 --out-dir data/cityscapes/annotations
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pet.engine.command import run_tool


def main(args: argparse.Namespace) -> None:
    """Convert and say what was written."""
    from pet.data.convert.cityscapes import convert_cityscapes

    out = Path(args.out_dir) if args.out_dir else None
    print("\n".join(convert_cityscapes(Path(args.root), out, args.img_dir, args.gt_dir, args.nproc)))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = result.add_argument
    add("root", metavar="ROOT", help="folder of Cityscapes")
    add("--img-dir", default="leftImg8bit", metavar="DIR", help="folder of the pictures in ROOT; default: leftImg8bit")
    add("--gt-dir", default="gtFine", metavar="DIR", help="folder of the label pictures in ROOT; default: gtFine")
    add("--out-dir", "-o", metavar="DIR", help="where to; default: annotations in ROOT, where Pet looks")
    add("--nproc", type=int, default=1, metavar="N", help="processes; the files are the same; default: 1")
    return result


if __name__ == "__main__":
    run_tool(main, parser())
