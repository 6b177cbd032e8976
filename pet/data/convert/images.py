"""A folder of pictures to a COCO JSON file without annotations, to test on."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from pet.data.convert.coco_file import CocoFile
from pet.data.datasets.image_folder import find_images, read_class_names
from pet.data.datasets.label_maps import picture_size
from pet.data.structures import BadImageError

_SHOWN = 5


def convert_images(images: Path, classes: Path, out: str, exclude: Iterable[str] = ()) -> list[str]:
    """List the pictures of a folder with their sizes, which are read from the headers of the files.

    Args:
        images: folder, searched with all folders below; paths in the file start here.
        classes: text file with one class a line.
        out: name of the file in the folder ``annotations`` beside ``images``; or a path from the root.
        exclude: ends of names to leave out, with or without a dot, in any case.

    Returns:
        Lines of text: what was written, and what was left out.

    Raises:
        ValueError: ``out`` does not end in .json, or nothing is left.
        FileNotFoundError: no such folder or file.
    """
    if not out.endswith(".json"):
        raise ValueError(f"OUT is '{out}'; it must end in .json")
    if not images.is_dir():
        raise FileNotFoundError(f"IMG_PATH is {images.absolute()}, which is not a folder")
    if not classes.is_file():
        raise FileNotFoundError(f"CLASSES is {classes}, which is no file; it must be a text file with one class a line")
    names = read_class_names(str(classes), str(classes), Path())
    if not names:
        raise ValueError(f"CLASSES is {classes}, which is empty; it must have one class a line")
    ends = tuple(f".{end.lower().lstrip('.')}" for end in exclude)
    file = CocoFile(enumerate(names, start=1), labelled=False)
    found, damaged = find_images(images), []
    for name in (name for name in found if not name.lower().endswith(ends)):
        try:
            file.add_image(name, picture_size(images / name))
        except BadImageError as error:
            damaged.append(str(error))
    others = sum(len(files) for _, _, files in os.walk(images, followlinks=True)) - len(found)
    excluded = len(found) - len(file.images) - len(damaged)
    left = [f"{_count(others, 'file')} of other kinds"] if others else []
    left += [f"{_count(excluded, 'picture')} ending in {', '.join(ends)}"] if excluded else []
    left += damaged[:_SHOWN]
    left += [f"{_count(len(damaged) - _SHOWN, 'more picture')} that cannot be read"] if len(damaged) > _SHOWN else []
    if not file.images:
        raise ValueError("\n  left out: ".join([f"{images.absolute()} holds no picture to list", *left]))
    lines = [file.write(images.absolute().parent / "annotations" / out)]
    return lines + [f"  left out: {what}" for what in left]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number != 1 else ''}"
