"""Public data sets that can be fetched: addresses, sizes, checksums, and where the files belong.

Sources: torchvision 0.29 (``datasets/mnist.py``, ``cifar.py``) for the md5 of MNIST, Fashion-MNIST and CIFAR; TensorFlow Datasets
(``url_checksums/{coco,voc,ade20k,mnist,fashion_mnist}.txt``, ``object_detection/lvis/checksums.tsv``) for sha256 and sizes of all
others, and the sizes of MNIST and Fashion-MNIST. No checksum is published for the maps of COCO-Stuff, LVIS v0.5 and Balloon.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from pet.data.download import RemoteFile, in_units
from pet.utils.suggest import did_you_mean


@dataclass(frozen=True)
class RemoteSet:
    """A data set by the name that the command line knows.

    Attributes:
        folder: where its files belong, below the data root; empty: the data root itself.
        files: their paths start at the data root.
        about: what is in it, in a few words.
        names: the built-in names that it serves.
        needs: other sets without which those names have no pictures.
    """

    folder: str
    files: tuple[RemoteFile, ...]
    about: str
    names: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()

    def in_folder(self) -> list[RemoteFile]:
        """The files with paths that start at ``folder``."""
        return [replace(file, path=str(PurePosixPath(file.path).relative_to(self.folder))) for file in self.files]


def _file(path: str, urls: Sequence[str], size: int, digest: str | None, *holds: str, growth: float = 1.1) -> RemoteFile:
    return RemoteFile(tuple(urls), path, digest, holds, size=size, growth=growth)


# ---------------------------------------------------------------------------------------------- small pictures

_MNIST_MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/")
_FASHION_MIRRORS = (
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
)
_IDX = ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz", "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz")
_MNIST = (
    (9912422, "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
    (28881, "d53e105ee54ea40749a09fcbcd1e9432"),
    (1648877, "9fb629c4189551a2d022fa330f9573f3"),
    (4542, "ec29112dd5afa0611ce80d1b7f02629c"),
)
_FASHION = (
    (26421880, "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
    (29515, "25c81989df183df01b3e8a0aad5dffbe"),
    (4422102, "bef4ecab320f06d8554ea6380940ec79"),
    (5148, "bb300cfdad3c16e7a12a480ee83cd310"),
)


def idx_files(folder: str, mirrors: Sequence[str], published: Sequence[tuple[int, str]]) -> tuple[RemoteFile, ...]:
    """The four files of a set in the format of MNIST, from (size, md5) of each: training images, labels, test images, labels."""
    return tuple(
        _file(f"{folder}/{name}", [mirror + name for mirror in mirrors], size, md5)
        for name, (size, md5) in zip(_IDX, published, strict=True)
    )


def _cifar(classes: int, size: int, md5: str, holds: str) -> tuple[RemoteFile, ...]:
    name = f"cifar-{classes}-python.tar.gz"
    return (_file(f"cifar{classes}/{name}", [f"https://www.cs.toronto.edu/~kriz/{name}"], size, md5, holds),)


# -------------------------------------------------------------------------------------------------------- COCO

# The bucket behind images.cocodataset.org; that name itself has no certificate of its own.
_COCO = "https://s3.amazonaws.com/images.cocodataset.org/"
_COCO_ARCHIVE = "https://archive.org/download/MSCoco2017/"
_TEXT = 4.0  # JSON is packed to about a quarter


def _coco(name: str, kind: str, size: int, digest: str, *holds: str, growth: float = 1.1) -> RemoteFile:
    return _file(f"coco/{name}", (f"{_COCO}{kind}/{name}", _COCO_ARCHIVE + name), size, digest, *holds, growth=growth)


def _annotations(*names: str) -> tuple[str, ...]:
    return tuple(f"annotations/{name}.json" for name in names)


_COCO_2017 = (
    _coco("train2017.zip", "zips", 19336861798, "69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929", "train2017"),
    _coco("val2017.zip", "zips", 815585330, "4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05", "val2017"),
    _coco("test2017.zip", "zips", 6646970404, "c7908c3c9f94ba2f3340ebbeec58c25db6be8774f18d68c2f15d0e369d95baba", "test2017"),
    _coco(
        "annotations_trainval2017.zip",
        "annotations",
        252907541,
        "113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
        *_annotations("captions_train2017", "instances_train2017", "person_keypoints_train2017"),
        *_annotations("captions_val2017", "instances_val2017", "person_keypoints_val2017"),
        growth=_TEXT,
    ),
    _coco(
        "image_info_test2017.zip",
        "annotations",
        1144034,
        "e52f412dd7195ac8f98d782b44c6dd30ea10241e9f42521f67610fbe055a74f8",
        *_annotations("image_info_test2017", "image_info_test-dev2017"),
        growth=2 * _TEXT,
    ),
)
_PANOPTIC = replace(
    _coco(
        "panoptic_annotations_trainval2017.zip",
        "annotations",
        860725834,
        "c05f76d2129b6b561eb70efe16e7006df62f73fb92889132d373b9d90e31a370",
        *_annotations("panoptic_train2017", "panoptic_val2017"),
        "annotations/panoptic_train2017",
        "annotations/panoptic_val2017",
        growth=2.5,
    ),
    nested=("annotations/panoptic_train2017.zip", "annotations/panoptic_val2017.zip"),
)
_STUFF_MAPS = "stuffthingmaps_trainval2017.zip"
_STUFF = RemoteFile(
    (f"https://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset/{_STUFF_MAPS}",),
    f"coco/stuffthingmaps/{_STUFF_MAPS}",
    holds=("train2017", "val2017"),
)


def _lvis(name: str, size: int = 0, digest: str | None = None) -> RemoteFile:
    hosts = ("https://dl.fbaipublicfiles.com/", "https://s3-us-west-2.amazonaws.com/dl.fbaipublicfiles.com/")
    archive = f"{name}.json.zip"
    return _file(f"coco/annotations/{archive}", [f"{h}LVIS/{archive}" for h in hosts], size, digest, f"{name}.json", growth=_TEXT)


_LVIS = (
    _lvis("lvis_v1_train", 350264821, "334a4caa374030a7817cf050364525e910f7960f9b6968cef47cffbf3893f8ba"),
    _lvis("lvis_v1_val", 64026968, "5cae9a3c79aadb667550c2b5dcf7f4d86e059a41ec91ef690225b667e28e9ba5"),
    _lvis("lvis_v0.5_train"),
    _lvis("lvis_v0.5_val"),
)


# ------------------------------------------------------------------------------------------------------ others


def _voc(name: str, year: int, split: str, size: int, digest: str) -> RemoteFile:
    urls = (f"https://thor.robots.ox.ac.uk/pascal/VOC/voc{year}/{name}", f"https://data.pjreddie.com/files/{name}")
    folder = f"VOCdevkit/VOC{year}"
    holds = (f"{folder}/JPEGImages", f"{folder}/Annotations", f"{folder}/ImageSets/Main/{split}.txt")
    return _file(name, urls, size, digest, *holds)


_VOC_2007 = (
    _voc(
        "VOCtrainval_06-Nov-2007.tar",
        2007,
        "trainval",
        460032000,
        "7d8cd951101b0957ddfd7a530bdc8a94f06121cfc1e511bb5937e973020c7508",
    ),
    _voc("VOCtest_06-Nov-2007.tar", 2007, "test", 451020800, "6836888e2e01dca84577a849d339fa4f73e1e4f135d312430c4856b5609b4892"),
)
_VOC_2012 = (
    _voc(
        "VOCtrainval_11-May-2012.tar",
        2012,
        "trainval",
        1999639040,
        "e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb",
    ),
)
_ADE = "ADEChallengeData2016"
_ADE20K = _file(
    f"ade20k/{_ADE}.zip",
    [f"https://data.csail.mit.edu/places/ADEchallenge/{_ADE}.zip"],
    967382037,
    "7ff1be44964418441f542a7cc1e1a650e7dc0fc275f5d23252bc9bbdbc977b29",
    f"{_ADE}/images",
    f"{_ADE}/annotations",
)
_BALLOON = _file(
    "balloon_dataset.zip",
    ["https://github.com/matterport/Mask_RCNN/releases/download/v2.1/balloon_dataset.zip"],
    38741381,
    None,
    "balloon/train",
    "balloon/val",
)


def _names(prefixes: str, *splits: str) -> tuple[str, ...]:
    return tuple(f"{prefix}_{split}" for prefix in prefixes.split() for split in splits)


_TRAIN_VAL, _TRAIN_TEST = ("train", "val"), ("train", "test")
REMOTE_SETS: dict[str, RemoteSet] = {
    "coco2017": RemoteSet(
        "coco",
        _COCO_2017,
        "pictures (train, val, test), boxes, masks, keypoints, captions",
        _names("coco_2017 coco_2017_keypoints", *_TRAIN_VAL),
    ),
    "coco2017-panoptic": RemoteSet(
        "coco", (_PANOPTIC,), "panoptic annotations of COCO 2017", _names("coco_2017_panoptic", *_TRAIN_VAL), ("coco2017",)
    ),
    "coco2017-stuff": RemoteSet(
        "coco", (_STUFF,), "maps of things and stuff of COCO 2017", _names("coco_2017_stuff", *_TRAIN_VAL), ("coco2017",)
    ),
    "lvis": RemoteSet(
        "coco", _LVIS, "annotations v1 and v0.5 of pictures of COCO 2017", _names("lvis_v1 lvis_v05", *_TRAIN_VAL), ("coco2017",)
    ),
    "voc2007": RemoteSet("", _VOC_2007, "trainval and test", _names("voc_2007", *_TRAIN_VAL, "trainval", "test")),
    "voc2012": RemoteSet("", _VOC_2012, "trainval; shares no picture with 2007", _names("voc_2012", *_TRAIN_VAL, "trainval")),
    "ade20k": RemoteSet("ade20k", (_ADE20K,), "ADEChallengeData2016, 150 classes", _names("ade20k", *_TRAIN_VAL)),
    "cifar10": RemoteSet(
        "cifar10",
        _cifar(10, 170498071, "c58f30108f718f92721af3b95e74349a", "cifar-10-batches-py"),
        "Python version",
        _names("cifar10", *_TRAIN_TEST),
    ),
    "cifar100": RemoteSet(
        "cifar100",
        _cifar(100, 169001437, "eb9058c3a382ffc7106e4002c42a8d85", "cifar-100-python"),
        "Python version",
        _names("cifar100", *_TRAIN_TEST),
    ),
    "mnist": RemoteSet(
        "mnist", idx_files("mnist", _MNIST_MIRRORS, _MNIST), "four IDX files, read packed", _names("mnist", *_TRAIN_TEST)
    ),
    "fashion-mnist": RemoteSet(
        "fashion_mnist",
        idx_files("fashion_mnist", _FASHION_MIRRORS, _FASHION),
        "four IDX files, read packed",
        _names("fashion_mnist", *_TRAIN_TEST),
    ),
    "balloon": RemoteSet("", (_BALLOON,), "74 pictures with polygons in the format of VIA; no built-in name reads it"),
}

BY_HAND = {
    "imagenet": "Sign in at https://image-net.org/challenges/LSVRC/2012/2012-downloads.php, fetch ILSVRC2012_img_train.tar "
    "(138 GB) and ILSVRC2012_img_val.tar (6.3 GB), and unpack them to data/imagenet/train/<class>/*.JPEG (each class is an "
    "archive inside the first) and data/imagenet/val/. Which class a picture of val/ has is in val.txt of "
    "https://dl.caffe.berkeleyvision.org/caffe_ilsvrc12.tar.gz; it belongs to data/imagenet/meta/val.txt",
    "cityscapes": "Sign in at https://www.cityscapes-dataset.com/downloads, fetch leftImg8bit_trainvaltest.zip and "
    "gtFine_trainvaltest.zip, and unpack both in data/cityscapes",
    "objects365v2": "Accept its terms at https://www.objects365.org and fetch it there. Its JSON files are in the format of "
    "COCO: an entry of DATA.CATALOG with TYPE coco_dataset reads them",
}


def choose_sets(names: Iterable[str]) -> list[RemoteSet]:
    """The sets of these names, each once.

    Raises:
        KeyError: there is no such name. ValueError: it must be fetched by hand.
    """
    chosen = []
    for name in dict.fromkeys(name.lower().replace("_", "-") for name in names):
        if name in BY_HAND:
            raise ValueError(f"{name} cannot be fetched by a program. {BY_HAND[name]}")
        if name not in REMOTE_SETS:
            known = [*REMOTE_SETS, *BY_HAND]
            raise KeyError(f"there is no data set '{name}' to fetch.{did_you_mean(name, known)} Known: {', '.join(REMOTE_SETS)}")
        chosen.append(REMOTE_SETS[name])
    return chosen


def files_to_fetch(sets: Sequence[RemoteSet], below_root: bool, mirror: str = "") -> list[RemoteFile]:
    """The files of some sets, each once.

    Args:
        sets: see ``choose_sets``.
        below_root: paths start at the data root; otherwise at one folder that the user has named for all of them.
        mirror: an address that holds files of the same names, tried before all others.

    Raises:
        ValueError: two different files would have one path.
    """
    chosen: dict[str, RemoteFile] = {}
    for file in (file for one in sets for file in (one.files if below_root else one.in_folder())):
        if chosen.setdefault(file.path, file) != file:
            raise ValueError(f"two of these data sets have a file '{file.path}'; give each a --save-dir of its own")
    if not mirror:
        return list(chosen.values())
    start = mirror.rstrip("/")
    return [replace(file, urls=(f"{start}/{PurePosixPath(file.path).name}", *file.urls)) for file in chosen.values()]


def describe_sets() -> list[str]:
    """Lines of text about all sets."""
    lines = []
    for name, one in REMOTE_SETS.items():
        known = sum(file.size for file in one.files)
        size = in_units(known) + ("" if all(file.size for file in one.files) else " +") if known else "unknown"
        lines.append(f"{name:18} {size:>12}  {one.about}; goes to {one.folder or 'the data root'}")
        if one.names:
            lines.append(f"{'':32}  read as {', '.join(one.names)}")
        unchecked = [PurePosixPath(file.path).name for file in one.files if not file.digest]
        if unchecked:
            lines.append(f"{'':32}  no checksum is published for {', '.join(unchecked)}")
    return [*lines, f"to be fetched by hand: {', '.join(BY_HAND)}"]
