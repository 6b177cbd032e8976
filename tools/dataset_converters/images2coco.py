"""A folder of pictures to a COCO JSON file without annotations, to test a model on pictures without ground truth.

The file goes to the folder annotations beside IMG_PATH; paths of pictures in it start at IMG_PATH.

    python tools/dataset_converters/images2coco.py data/mine/images classes.txt mine.json --exclude-extensions png
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pet.engine.command import run_tool


def main(args: argparse.Namespace) -> None:
    """Convert and say what was written, and what left out."""
    from pet.data.convert.images import convert_images

    print("\n".join(convert_images(Path(args.img_path), Path(args.classes), args.out, args.exclude_extensions)))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = result.add_argument
    add("img_path", metavar="IMG_PATH", help="folder of pictures, searched with all folders below")
    add("classes", metavar="CLASSES", help="text file with one class a line, in the order of the model's labels")
    add("out", metavar="OUT", help="name of the file, ending in .json")
    add("--exclude-extensions", nargs="+", default=[], metavar="EXT", help="leave out pictures of these kinds, e.g. png bmp")
    return result


if __name__ == "__main__":
    run_tool(main, parser())
