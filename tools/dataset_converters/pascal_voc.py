"""Pascal VOC to COCO JSON files: voc07_*, voc12_* and, if both years are there, voc0712_* for train, val, trainval and test.

python tools/dataset_converters/pascal_voc.py data/VOCdevkit -o data/voc_coco --out-format coco
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pet.engine.command import run_tool


def main(args: argparse.Namespace) -> None:
    """Convert and say what was written."""
    from pet.data.convert.pascal_voc import convert_voc

    print("\n".join(convert_voc(Path(args.devkit), Path(args.out_dir) if args.out_dir else None, args.out_format)))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = result.add_argument
    add("devkit", metavar="DEVKIT", help="folder that holds VOC2007, VOC2012 or both; or one folder in their layout")
    add("--out-dir", "-o", metavar="OUT", help="where to; default: DEVKIT")
    add("--out-format", default="coco", metavar="FORMAT", help="coco (default) or pkl, the lists that mmdetection 2 reads")
    return result


if __name__ == "__main__":
    run_tool(main, parser())
