"""Data sets by name: those built in, and those that ``DATA.CATALOG`` declares."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pet.data.datasets import DATASETS, ConcatDataset, FirstPictures, VisionDataset
from pet.data.download import RemoteFile, fetch
from pet.data.known_sets import KnownSet, annotated_sets
from pet.utils.suggest import did_you_mean


def _idx_files(folder: str, mirrors: Sequence[str], is_train: bool, md5: tuple[str, str]) -> tuple[RemoteFile, ...]:
    prefix = "train" if is_train else "t10k"
    names = (f"{prefix}-images-idx3-ubyte.gz", f"{prefix}-labels-idx1-ubyte.gz")
    return tuple(RemoteFile(tuple(m + n for m in mirrors), f"{folder}/{n}", digest) for n, digest in zip(names, md5, strict=True))


def _idx_set(
    folder: str, other: tuple[str, ...], is_train: bool, mirrors: Sequence[str], md5: tuple[str, str], classes: Sequence[str]
) -> KnownSet:
    prefix = "train" if is_train else "t10k"
    kinds = (f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte")
    files = tuple(f"{k}.gz|{k}|{k.replace('-idx', '.idx')}|{k.replace('-idx', '.idx')}.gz" for k in kinds)
    options = {"classes": tuple(classes)} if classes else {}
    return KnownSet(
        "mnist_dataset", is_train, (folder, *other), files, options=options, remote=_idx_files(folder, mirrors, is_train, md5)
    )


# Checksums as torchvision 0.29 publishes them (torchvision/datasets/mnist.py, cifar.py).
_MNIST_MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/")
_MNIST_MD5 = {
    True: ("f68b3c2dcbeaaa9fbdd348bbdeb94873", "d53e105ee54ea40749a09fcbcd1e9432"),
    False: ("9fb629c4189551a2d022fa330f9573f3", "ec29112dd5afa0611ce80d1b7f02629c"),
}
_FASHION_MIRRORS = (
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
)
_FASHION_MD5 = {
    True: ("8d4fb7e6c68d591d4c3dfef9ec88bf0d", "25c81989df183df01b3e8a0aad5dffbe"),
    False: ("bef4ecab320f06d8554ea6380940ec79", "bb300cfdad3c16e7a12a480ee83cd310"),
}
_FASHION_CLASSES = ("t-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
_CIFAR_URL = "https://www.cs.toronto.edu/~kriz/"


def _cifar_set(classes: int, is_train: bool) -> KnownSet:
    if classes == 10:
        names, versions, md5 = (
            ("data_batch_1" if is_train else "test_batch"),
            ("cifar-10-batches-py", "cifar-10-batches-bin"),
            "c58f30108f718f92721af3b95e74349a",
        )
    else:
        names, versions, md5 = (
            ("train" if is_train else "test"),
            ("cifar-100-python", "cifar-100-binary"),
            "eb9058c3a382ffc7106e4002c42a8d85",
        )
    parents = (f"cifar{classes}/", "", "cifar/", f"CIFAR{classes}/", f"cifar-{classes}/")
    folders = tuple(p + v for v in versions for p in parents) + (f"cifar{classes}",)
    archive = f"cifar-{classes}-python.tar.gz"
    remote = RemoteFile((_CIFAR_URL + archive,), f"cifar{classes}/{archive}", md5, unpacks_to=versions[0])
    return KnownSet("cifar_dataset", is_train, folders, (f"{names}|{names}.bin",), remote=(remote,))


def _imagenet_set(is_train: bool) -> KnownSet:
    split = "train" if is_train else "val"
    parents = ("imagenet", "ImageNet", "ILSVRC2012", "imagenet/ILSVRC/Data/CLS-LOC")
    folders = tuple(f"{p}/{split}" for p in parents)
    return KnownSet("image_folder_dataset", is_train, folders, annotations="" if is_train else "meta/val.txt")


BUILT_IN: dict[str, KnownSet] = {
    "shapes_train": KnownSet("shapes_dataset", True),
    "shapes_val": KnownSet("shapes_dataset", False),
    "imagenet_train": _imagenet_set(True),
    "imagenet_val": _imagenet_set(False),
    **annotated_sets(),
}
for _split, _train in (("train", True), ("test", False)):
    BUILT_IN[f"mnist_{_split}"] = _idx_set(
        "mnist", ("MNIST", "MNIST/raw", "mnist/raw"), _train, _MNIST_MIRRORS, _MNIST_MD5[_train], ()
    )
    BUILT_IN[f"fashion_mnist_{_split}"] = _idx_set(
        "fashion_mnist",
        ("FashionMNIST", "FashionMNIST/raw", "fashion-mnist"),
        _train,
        _FASHION_MIRRORS,
        _FASHION_MD5[_train],
        _FASHION_CLASSES,
    )
    BUILT_IN[f"cifar10_{_split}"] = _cifar_set(10, _train)
    BUILT_IN[f"cifar100_{_split}"] = _cifar_set(100, _train)


def data_root(root: str | Path = "") -> Path:
    """The folder that relative data paths start from: ``root``, else the environment variable PET_DATA, else ``data``."""
    return Path(root or os.environ.get("PET_DATA", "") or "data").expanduser()


def build_dataset(
    names: Sequence[str],
    is_train: bool,
    *,
    catalog: Mapping[str, Mapping[str, Any]] | None = None,
    root: str | Path = "",
    dataset_type: str = "",
    download: bool = False,
) -> VisionDataset:
    """The data set of this name, or several as one.

    Args:
        names: names of the catalog; entries of ``catalog`` win over built-in ones.
        is_train: split of entries that do not state it themselves.
        catalog: ``DATA.CATALOG``: name to ``{TYPE, IMAGES, ANNOTATIONS, SPLIT, <option>: value}``.
        root: ``DATA.ROOT``.
        dataset_type: TYPE of entries that state none.
        download: fetch built-in sets that are missing.

    Raises:
        KeyError: unknown name or TYPE. TypeError: unknown option. ValueError: bad value, or classes that differ.
        FileNotFoundError: data that are not there; says what was looked for, and where.
    """
    if not names:
        key = "TRAIN.DATASETS" if is_train else "TEST.DATASETS"
        raise ValueError(
            f"{key} is empty; name at least one data set, e.g. {key} \"('shapes_{'train' if is_train else 'val'}',)\""
        )
    catalog, base = catalog or {}, data_root(root)
    datasets = []
    for name in names:
        if name in catalog:
            datasets.append(_build_entry(name, catalog[name], is_train, base, dataset_type))
        elif name in BUILT_IN:
            datasets.append(_build_known(name, BUILT_IN[name], base, download))
        else:
            known = [*catalog, *BUILT_IN]
            raise KeyError(
                f"no data set is named '{name}'.{did_you_mean(name, known)} Known: {', '.join(sorted(known))}. "
                "Declare your own in DATA.CATALOG: {" + name + ": {TYPE: image_folder_dataset, IMAGES: folder}}"
            )
    return datasets[0] if len(datasets) == 1 else ConcatDataset(datasets)


def _build_known(name: str, known: KnownSet, base: Path, download: bool) -> VisionDataset:
    build = DATASETS.get(known.type)
    if not known.folders:
        return build(name, None, None, known.is_train, **known.options)
    folder = next((base / f for f in known.folders if _complete(base / f, known.files)), None)
    if folder is None and download and known.remote:
        for file in known.remote:
            folder = fetch(file, base)
        folder = base / known.folders[0]
    if folder is None:
        raise FileNotFoundError(missing_data_message(name, known, base))
    if known.labels:
        labels = next(folder / place for place in known.labels.split("|") if (folder / place).exists())
        return build(name, folder / known.images, labels, known.is_train, root=str(folder), **known.options)
    annotations = folder.parent / known.annotations if known.annotations else None
    options = dict(known.options)
    if annotations is not None and annotations.is_file() and (folder.parent / "train").is_dir():
        options["classes"] = str((folder.parent / "train").absolute())
    return build(
        name, folder, annotations if annotations is not None and annotations.is_file() else None, known.is_train, **options
    )


def _complete(folder: Path, files: Sequence[str]) -> bool:
    return folder.is_dir() and all(any((folder / f).exists() for f in choice.split("|")) for choice in files)


def missing_data_message(name: str, known: KnownSet, base: Path) -> str:
    """What was expected below the data root, what is there, and what to do."""
    # A folder that is there but incomplete is the one the user means.
    folder = next((base / f for f in known.folders if (base / f).is_dir()), base / known.folders[0])
    expected = [f"  {folder}/", *(expected_tree(folder, known.files) or ["    <class>/<image>.JPEG"])]
    if known.annotations:
        expected.append(f"  or a list of 'path label' at {folder.parent / known.annotations}")
    also = ", ".join(f for f in known.folders if base / f != folder)
    addresses = [f"  {url}" for file in known.remote for url in file.urls]
    lines = [f"the data set '{name}' is not there. Expected:", *expected, f"(also looked in {also})"]
    if folder.is_dir() and known.files:
        lines += [f"Found in {folder.absolute()}:", *list_folder(folder)]
    lines += [f"Found in {base.absolute()}:", *list_folder(base, depth=1)]
    lines.append("Set DATA.ROOT, or the environment variable PET_DATA, to the folder that holds the data.")
    if addresses:
        lines += ["Or let Pet fetch it with DATA.DOWNLOAD True, or fetch it by hand from:", *addresses]
    return "\n".join(lines)


def expected_tree(folder: Path, files: Sequence[str]) -> list[str]:
    """What ``folder`` must hold as an indented tree, with a mark at what is missing."""
    lines: list[str] = []
    shown: list[str] = []
    for choice in sorted(files):
        first, *others = choice.split("|")
        *parents, leaf = first.rstrip("/").split("/")
        common = next((i for i, pair in enumerate(zip(parents, shown, strict=False)) if pair[0] != pair[1]), len(parents))
        common = min(common, len(shown))
        lines += [f"{'  ' * (depth + 2)}{parents[depth]}/" for depth in range(common, len(parents))]
        shown = parents
        missing = not any((folder / path).exists() for path in choice.split("|"))
        text = leaf + ("/" if first.endswith("/") else "") + "".join(f"  or  {other}" for other in others)
        lines.append(f"{'  ' * (len(parents) + 2)}{text}{'   <- missing' if missing else ''}")
    return lines


def list_folder(folder: Path, depth: int = 2, limit: int = 12) -> list[str]:
    """A short tree of a folder, indented; sub-folders first."""
    if not folder.is_dir():
        return ["  (the folder does not exist)"]

    def walk(parent: Path, level: int) -> list[str]:
        try:
            entries = sorted(os.scandir(parent), key=lambda e: (not e.is_dir(), e.name))
        except OSError as error:
            return [f"{'  ' * level}({error.strerror})"]
        lines = []
        for entry in entries[:limit]:
            lines.append(f"{'  ' * level}{entry.name}{'/' if entry.is_dir() else ''}")
            if entry.is_dir() and level < depth:
                lines += walk(Path(entry.path), level + 1)
        return lines + ([f"{'  ' * level}... {len(entries) - limit} more"] if len(entries) > limit else [])

    return walk(folder, 1) or ["  (empty)"]


def _build_entry(name: str, entry: Mapping[str, Any], is_train: bool, base: Path, dataset_type: str) -> VisionDataset:
    if not isinstance(entry, Mapping):
        raise TypeError(f"DATA.CATALOG.{name} is {entry!r}; expected keys such as {{TYPE: image_folder_dataset, IMAGES: folder}}")
    options = {str(key).lower(): value for key, value in entry.items()}
    kind = options.pop("type", "") or dataset_type
    if not kind:
        raise KeyError(f"DATA.CATALOG.{name} has no TYPE, and DATA.DATASET_TYPE is empty. TYPEs: {', '.join(DATASETS.names())}")
    build = DATASETS.find(str(kind))
    split = options.pop("split", "train" if is_train else "test")
    if split not in ("train", "test"):
        raise ValueError(f"DATA.CATALOG.{name}.SPLIT is {split!r}; allowed are train and test")
    limit = options.pop("limit", 0)
    if type(limit) is not int or limit < 0:
        raise ValueError(f"DATA.CATALOG.{name}.LIMIT is {limit!r}; expected how many pictures to take, the first ones; 0: all")
    images = _existing(name, "IMAGES", options.pop("images", None), base)
    annotations = options.pop("annotations", None)
    if isinstance(annotations, (list, tuple)):
        located: Any = [_existing(name, "ANNOTATIONS", a, base) for a in annotations]
    else:
        located = _existing(name, "ANNOTATIONS", annotations, base)
    _check_options(name, str(kind), build, options)
    if "root" in inspect.signature(build).parameters:
        options["root"] = str(base)
    dataset = build(name, images, located, split == "train", **options)
    return FirstPictures(dataset, limit) if limit else dataset


def _existing(name: str, key: str, value: Any, base: Path) -> Path | None:
    if value is None or value == "":
        return None
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"DATA.CATALOG.{name}.{key} is {value!r}; expected a path")
    path = base / Path(value).expanduser()
    if path.exists():
        return path
    parent = next((p for p in path.parents if p.exists()), Path("."))
    beside = sorted(e.name for e in os.scandir(parent)) if os.access(parent, os.R_OK | os.X_OK) and parent.is_dir() else []
    raise FileNotFoundError(
        f"DATA.CATALOG.{name}.{key} is '{value}', but {path.absolute()} does not exist (relative paths start at the data root "
        f"{base.absolute()}: "
        f"DATA.ROOT, or the environment variable PET_DATA, or data/). {parent.absolute()} exists"
        + (
            f" and holds {', '.join(beside[:8])}{', ...' if len(beside) > 8 else ''}.{did_you_mean(path.name, beside)}"
            if beside
            else "."
        )
    )


def _check_options(name: str, kind: str, build: Callable[..., VisionDataset], options: Mapping[str, Any]) -> None:
    parameters = inspect.signature(build).parameters
    known = [p for p in parameters if p not in ("name", "images", "annotations", "is_train", "root")]
    for option, value in options.items():
        if option not in known:
            allowed = ["TYPE", "IMAGES", "ANNOTATIONS", "SPLIT", "LIMIT", *(k.upper() for k in known)]
            raise TypeError(
                f"DATA.CATALOG.{name} has the key {option.upper()}, which {kind} does not "
                f"know.{did_you_mean(option.upper(), allowed)} Keys: {', '.join(allowed)}"
            )
        default = parameters[option].default
        wanted = (int, float) if type(default) is float else type(default)
        if type(default) in (bool, int, float, str) and (
            not isinstance(value, wanted) or isinstance(value, bool) != isinstance(default, bool)
        ):
            raise TypeError(
                f"DATA.CATALOG.{name}.{option.upper()} is {value!r}; expected {type(default).__name__}, e.g. {default!r}"
            )
