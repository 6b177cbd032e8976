"""Image files with one class each: by folder, or by a list."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pet.data.datasets.base import DATASETS, Labels, PackedStrings, VisionDataset
from pet.data.image import EXTENSIONS, read_image
from pet.data.structures import Sample
from pet.utils.suggest import did_you_mean


def find_images(folder: Path) -> list[str]:
    """Paths of the image files below ``folder``, relative to it, sorted; soft links are followed, hidden names left out."""
    found = []
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        inside = os.path.relpath(parent, folder)
        names = [f for f in files if not f.startswith(".") and os.path.splitext(f)[1].lower() in EXTENSIONS]
        found += names if inside == "." else [os.path.join(inside, name) for name in names]
    return sorted(found)


def class_folders(folder: Path) -> list[str]:
    """Names of the sub-folders, sorted: one for each class."""
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))


def read_lines(path: Path) -> list[str]:
    """Lines of a UTF-8 text file without blank ones and without trailing spaces."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text (byte {error.start}); convert it, e.g. with iconv") from error
    return [line.rstrip() for line in text.splitlines() if line.strip()]


def read_class_names(name: str, classes: Sequence[str] | str, base: Path) -> list[str]:
    """Class names given as a list, as a text file with one name a line, or as a folder with a sub-folder for each class."""
    if not isinstance(classes, str):
        names = [str(c) for c in classes]
    else:
        path = base / classes
        if not path.exists():
            raise FileNotFoundError(
                f"{name}: CLASSES is '{classes}', but {path} does not exist; give a list, a text file or a folder of class "
                "folders"
            )
        names = class_folders(path) if path.is_dir() else [line.strip() for line in read_lines(path)]
    repeated = sorted({c for c in names if names.count(c) > 1}) if len(set(names)) < len(names) else []
    if repeated:
        raise ValueError(f"{name}: CLASSES names {', '.join(repeated[:5])} more than once")
    return names


def parse_label(text: str, number: dict[str, int], where: str) -> int:
    """Class index from a class name or a whole number; names win, so that classes may be called "3"."""
    if text in number:
        return number[text]
    if text.isdecimal():
        return int(text)
    raise ValueError(f"{where}: label '{text}' is neither a whole number nor a known class.{did_you_mean(text, number)}")


@DATASETS.register("image_folder_dataset")
class ImageFolderDataset(VisionDataset):
    """Image files with one class each.

    Without ANNOTATIONS, IMAGES holds one folder for each class (any depth below); the sorted folder names are the classes.
    With ANNOTATIONS, a text file of lines ``path label``: the path is relative to IMAGES and may contain spaces, the label
    is what follows the last white space, a class index or a class name. A list of paths alone (its first line names
    an existing file) is an unlabelled set: it can be predicted, not trained on.

    Args:
        name: name in the catalog.
        images: folder.
        annotations: list file.
        is_train: not used; folders and lists say themselves what they hold.
        classes: class names in the order of the labels: a list, a text file, or a folder of class folders (relative to the data
            root). Default: the folder names; for a list, its sorted names, or "0", "1", ... for indices.
        root: where a relative ``classes`` path starts; filled in by the catalog.
    """

    def __init__(
        self,
        name: str,
        images: Path | None,
        annotations: Path | None = None,
        is_train: bool = True,
        *,
        classes: Sequence[str] | str = (),
        root: str = "",
    ) -> None:
        if images is None or not images.is_dir():
            raise FileNotFoundError(f"{name}: image_folder_dataset needs IMAGES, an existing folder; got {images}")
        names = read_class_names(name, classes, Path(root)) if classes else []
        if annotations is None:
            files, labels, names = _scan_folders(name, images, names)
        else:
            files, labels, names = _read_list(images, annotations, names)
        if not files:
            raise FileNotFoundError(
                f"{name}: no image in {annotations or images}; extensions looked for: {' '.join(sorted(EXTENSIONS))}"
            )
        super().__init__(name, names, images)
        self._folder, self._files = images, PackedStrings(files)
        self._labels: Labels = np.array(labels, np.int64)

    def __len__(self) -> int:
        return len(self._files)

    def path(self, index: int) -> str:
        """File of sample ``index``."""
        return os.path.join(self._folder, self._files[index])

    def read(self, index: int) -> Sample:
        label = int(self._labels[index])
        return Sample(read_image(self.path(index)), {"label": label} if label >= 0 else {}, index)

    def labels(self) -> Labels:
        return self._labels

    def describe(self, index: int) -> str:
        return self.path(index)


def _scan_folders(name: str, images: Path, names: list[str]) -> tuple[list[str], list[int], list[str]]:
    folders = class_folders(images)
    if not folders:
        raise FileNotFoundError(
            f"{name}: {images} has no sub-folders; put the images of each class into a folder of its own, or give ANNOTATIONS, "
            "a list of 'path label'"
        )
    if names and not set(folders) <= set(names):
        surplus = sorted(set(folders) - set(names))
        raise ValueError(
            f"{name}: {images} holds folders that CLASSES does not name: "
            f"{', '.join(surplus[:8])}.{did_you_mean(surplus[0], names)}"
        )
    names = names or folders
    files, labels = [], []
    for folder in folders:
        inside = find_images(images / folder)
        files += [os.path.join(folder, f) for f in inside]
        labels += [names.index(folder)] * len(inside)
    return files, labels, names


def _read_list(images: Path, annotations: Path, names: list[str]) -> tuple[list[str], list[int], list[str]]:
    lines = read_lines(annotations)
    if lines and (images / lines[0].strip()).is_file():
        return [line.strip() for line in lines], [-1] * len(lines), names
    pairs = []
    for number, line in enumerate(lines, start=1):
        parts = line.strip().rsplit(None, 1)
        if len(parts) < 2:
            raise ValueError(f"{annotations}, line {number}: expected 'path label', found '{line}'")
        pairs.append((parts[0], parts[1]))
    if not names:
        texts = {text for _, text in pairs}
        largest = max((int(t) for t in texts if t.isdecimal()), default=-1)
        names = [str(i) for i in range(largest + 1)] if all(t.isdecimal() for t in texts) else sorted(texts)
    number_of = {c: i for i, c in enumerate(names)}
    labels = [parse_label(text, number_of, f"{annotations} ({path})") for path, text in pairs]
    if pairs and not (images / pairs[0][0]).exists():
        raise FileNotFoundError(
            f"{annotations} lists '{pairs[0][0]}', but {images / pairs[0][0]} does not exist; IMAGES must be the folder these "
            "paths start from"
        )
    return [path for path, _ in pairs], labels, names
