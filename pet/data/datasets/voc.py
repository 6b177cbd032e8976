"""Pascal VOC: a picture and an XML file each."""

from __future__ import annotations

import math
import os
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pet.data.datasets.annotation_faults import AnnotationFaults
from pet.data.datasets.base import DATASETS
from pet.data.datasets.class_lists import VOC
from pet.data.datasets.image_folder import read_class_names, read_lines
from pet.data.datasets.instances import InstanceDataset, Listing
from pet.data.datasets.label_maps import FolderListing, picture_size
from pet.data.datasets.packed import InstanceCollector
from pet.data.image import EXTENSIONS
from pet.data.structures import BadImageError
from pet.utils.suggest import did_you_mean

# VOC counts pixels from 1 and its boxes include the last one; ours start at 0 and exclude it.
_OFFSET = (-1.0, -1.0, 0.0, 0.0)


@dataclass
class VocObject:
    """One ``<object>``: class name, x1, y1, x2, y2 as in the file, difficult."""

    name: str
    corners: tuple[float, float, float, float]
    difficult: bool
    position: int


@dataclass
class VocPicture:
    """One XML file; height and width are 0 if it does not state them."""

    file: str
    height: int = 0
    width: int = 0
    objects: list[VocObject] = field(default_factory=list)


def parse_voc(path: Path, faults: AnnotationFaults) -> VocPicture | None:
    """The content of an XML file; ``None``, and a fault, if it cannot be parsed."""
    try:
        root = ET.fromstring(path.read_bytes())
    except (ET.ParseError, ValueError, LookupError) as error:
        faults.add("malformed_xml", f"{path}: {error}")
        return None
    picture = VocPicture((root.findtext("filename") or "").strip(), _whole(root, "size/height"), _whole(root, "size/width"))
    for position, entry in enumerate(root.findall("object"), start=1):
        name, box = (entry.findtext("name") or "").strip(), entry.find("bndbox")
        corners = [_number(box, key) for key in ("xmin", "ymin", "xmax", "ymax")] if box is not None else [None]
        if not name or any(value is None for value in corners):
            faults.add("missing_field", f"{path}, object {position}: a name and a bndbox of four numbers are needed")
            continue
        x1, y1, x2, y2 = (float(value) for value in corners if value is not None)
        picture.objects.append(VocObject(name, (x1, y1, x2, y2), (_number(entry, "difficult") or 0) > 0, position))
    return picture


def _number(parent: ET.Element, key: str) -> float | None:
    try:
        return float(parent.findtext(key) or "")
    except ValueError:
        return None


def _whole(parent: ET.Element, key: str) -> int:
    value = _number(parent, key)
    return int(value) if value is not None and math.isfinite(value) and value > 0 else 0


@DATASETS.register("voc_dataset")
class VocDataset(InstanceDataset):
    """Pascal VOC, or pictures with XML files in its format.

    Boxes in the files count pixels from 1 and include the last one, as VOC defines it: (xmin - 1, ymin - 1, xmax, ymax) is the
    box here. A box whose corners coincide in x or y is a fault: tools that write such boxes mean an empty one.

    Layouts: IMAGES is a folder with ``JPEGImages``, ``Annotations`` and ``ImageSets/Main`` (VOC2007, VOC2012); or IMAGES is a
    folder of pictures and ANNOTATIONS a folder of XML files with the same stems (default: IMAGES itself).

    Args:
        name: name in the catalog.
        images, annotations: see above.
        is_train: pictures without a file, and those FILTER_EMPTY names, are left out.
        image_set: list of the pictures: a name in ``ImageSets/Main`` ("train", "val", "trainval", "test"), or a text file of one
            stem a line, relative to the data root; default: all XML files.
        classes: class names in the order of the labels, see ``ImageFolderDataset``. Default: the 20 classes of VOC if no other
            name occurs in the image set; otherwise the sorted names in all XML files of the folder.
        keep_difficult: train on difficult objects, too.
        filter_empty: for training, leave out pictures without an object to train on.
        root: where relative paths start; filled in by the catalog.
    """

    def __init__(
        self,
        name: str,
        images: Path | None,
        annotations: Path | None = None,
        is_train: bool = True,
        *,
        image_set: str = "",
        classes: Sequence[str] | str = (),
        keep_difficult: bool = False,
        filter_empty: bool = True,
        root: str = "",
    ) -> None:
        folder, xml_folder = find_voc_folders(name, images, annotations)
        listing, faults = FolderListing(), AnnotationFaults()
        stems = _read_image_set(name, folder, xml_folder, image_set, Path(root))
        pictures = _parse_all(xml_folder, stems, listing, faults)
        if not any(pictures.values()):
            raise FileNotFoundError(f"{name}: none of {len(stems)} pictures has a usable XML file in {xml_folder.absolute()}")
        names = read_class_names(name, classes, Path(root)) if classes else _find_names(xml_folder, pictures)
        table = _collect(folder, xml_folder, pictures, names, listing, faults, is_train)
        super().__init__(
            name,
            names,
            folder,
            {"boxes"},
            table,
            faults,
            is_train=is_train,
            filter_empty=filter_empty,
            keep_difficult=keep_difficult,
        )


def find_voc_folders(name: str, images: Path | None, annotations: Path | None) -> tuple[Path, Path]:
    """Folders of the pictures and of the XML files."""
    if images is None or not images.is_dir():
        raise FileNotFoundError(f"{name}: voc_dataset needs IMAGES, an existing folder; got {images}")
    folder = images / "JPEGImages" if (images / "JPEGImages").is_dir() else images
    inside = images / "Annotations"
    xml_folder = annotations or (inside if inside.is_dir() else images)
    if not xml_folder.is_dir() or not any(entry.endswith(".xml") for entry in FolderListing().names(str(xml_folder))):
        years = [entry for entry in sorted(os.listdir(images)) if (images / entry / "JPEGImages").is_dir()]
        hint = f" IMAGES must be one of its folders {', '.join(years)}." if years else ""
        raise FileNotFoundError(
            f"{name}: {xml_folder.absolute()} holds no XML files.{hint} Expected: IMAGES with JPEGImages/, Annotations/ and "
            "ImageSets/Main/, or ANNOTATIONS, a folder of XML files"
        )
    return folder, xml_folder


def _read_image_set(name: str, folder: Path, xml_folder: Path, image_set: str, root: Path) -> list[str]:
    if not image_set:
        return sorted(entry[:-4] for entry in FolderListing().names(str(xml_folder)) if entry.endswith(".xml"))
    places = [base / "ImageSets" / "Main" for base in dict.fromkeys((folder.parent, folder, xml_folder.parent))]
    candidates = [place / f"{image_set}.txt" for place in places] + [root / image_set]
    path = next((candidate for candidate in candidates if candidate.is_file()), None)
    if path is None:
        known = sorted({e[:-4] for place in places for e in FolderListing().names(str(place)) if e.endswith(".txt")})
        raise FileNotFoundError(
            f"{name}: IMAGE_SET is '{image_set}', but none of {', '.join(map(str, candidates))} exists."
            f"{did_you_mean(image_set, known)} Image sets there: {', '.join(known[:12]) or 'none'}"
        )
    # The lists of single classes have a second column: 1, 0 or -1.
    stems = list(dict.fromkeys(line.split()[0] for line in read_lines(path)))
    return [os.path.splitext(s)[0] if os.path.splitext(s)[1].lower() in EXTENSIONS else s for s in stems]


def _parse_all(
    xml_folder: Path, stems: Sequence[str], listing: FolderListing, faults: AnnotationFaults
) -> dict[str, VocPicture | None]:
    """For each stem its XML file; an empty picture if there is none, ``None`` if it cannot be parsed."""
    pictures: dict[str, VocPicture | None] = {}
    for stem in stems:
        path = xml_folder / f"{stem}.xml"
        if listing.exists(str(path)):
            pictures[stem] = parse_voc(path, faults)
        else:
            faults.add("missing_annotation_file", str(path))
            pictures[stem] = VocPicture("", -1, -1)
    return pictures


def _find_names(xml_folder: Path, pictures: dict[str, VocPicture | None]) -> list[str]:
    found = {o.name for picture in pictures.values() if picture for o in picture.objects}
    if found <= set(VOC):
        return list(VOC)
    # The other split must come to the same list, so all files are asked.
    ignored = AnnotationFaults()
    for entry in FolderListing().names(str(xml_folder)):
        if entry.endswith(".xml") and entry[:-4] not in pictures:
            other = parse_voc(xml_folder / entry, ignored)
            found |= {o.name for o in other.objects} if other else set()
    return sorted(found)


def _collect(
    folder: Path,
    xml_folder: Path,
    pictures: dict[str, VocPicture | None],
    names: Sequence[str],
    listing: FolderListing,
    faults: AnnotationFaults,
    is_train: bool,
) -> Listing:
    beside = sorted(listing.names(str(folder)))
    by_stem = {os.path.splitext(f)[0]: f for f in beside if os.path.splitext(f)[1].lower() in EXTENSIONS}
    label_of = {name: label for label, name in enumerate(names)}
    collector, places = InstanceCollector(), []
    files: list[str] = []
    sizes: list[tuple[int, int]] = []
    ids: list[int | str] = []
    number = 0
    for stem, picture in pictures.items():
        if picture is None or (picture.height < 0 and is_train):
            continue
        file = by_stem.get(stem) or picture.file or f"{stem}.jpg"
        size = _size(folder / file, picture)
        if size is None:
            faults.add("missing_field", f"{xml_folder / stem}.xml: no size, and {folder / file} cannot be read")
            continue
        for entry in picture.objects:
            place = f"{xml_folder / stem}.xml, object {entry.position} ({entry.name}, xyxy {entry.corners})"
            if entry.name not in label_of:
                faults.add("unknown_category", place)
                continue
            number += 1
            places.append(place)
            collector.add(len(files), entry.corners, label_of[entry.name], number, difficult=entry.difficult)
        files.append(file)
        sizes.append(size)
        ids.append(stem)
    heights = np.array(sizes, np.int64).reshape(-1, 2)
    return Listing(files, heights, ids, collector.table(heights, faults, places.__getitem__, _OFFSET))


def _size(path: Path, picture: VocPicture) -> tuple[int, int] | None:
    if picture.height > 0 and picture.width > 0:
        return picture.height, picture.width
    try:
        return picture_size(path)
    except BadImageError:
        return None
