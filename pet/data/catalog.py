"""Data sets by name: those built in, and those that ``DATA.CATALOG`` declares."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pet.data.datasets import DATASETS, ConcatDataset, Subset, VisionDataset
from pet.data.download import RemoteFile, fetch
from pet.data.known_sets import KnownSet, annotated_sets, data_root
from pet.data.remote_sets import REMOTE_SETS
from pet.utils.suggest import did_you_mean


def _idx_set(
    folder: str, other: tuple[str, ...], is_train: bool, remote: Sequence[RemoteFile], classes: Sequence[str] = ()
) -> KnownSet:
    prefix = "train" if is_train else "t10k"
    kinds = (f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte")
    files = tuple(f"{k}.gz|{k}|{k.replace('-idx', '.idx')}|{k.replace('-idx', '.idx')}.gz" for k in kinds)
    options = {"classes": tuple(classes)} if classes else {}
    own = tuple(file for file in remote if f"/{prefix}-" in file.path)
    return KnownSet("mnist_dataset", is_train, (folder, *other), files, options=options, remote=own)


_FASHION_CLASSES = ("t-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")


def _cifar_set(classes: int, is_train: bool) -> KnownSet:
    if classes == 10:
        names, versions = ("data_batch_1" if is_train else "test_batch"), ("cifar-10-batches-py", "cifar-10-batches-bin")
    else:
        names, versions = ("train" if is_train else "test"), ("cifar-100-python", "cifar-100-binary")
    parents = (f"cifar{classes}/", "", "cifar/", f"CIFAR{classes}/", f"cifar-{classes}/")
    folders = tuple(p + v for v in versions for p in parents) + (f"cifar{classes}",)
    remote = REMOTE_SETS[f"cifar{classes}"].files
    return KnownSet("cifar_dataset", is_train, folders, (f"{names}|{names}.bin",), remote=remote)


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
        "mnist", ("MNIST", "MNIST/raw", "mnist/raw"), _train, REMOTE_SETS["mnist"].files
    )
    BUILT_IN[f"fashion_mnist_{_split}"] = _idx_set(
        "fashion_mnist",
        ("FashionMNIST", "FashionMNIST/raw", "fashion-mnist"),
        _train,
        REMOTE_SETS["fashion-mnist"].files,
        _FASHION_CLASSES,
    )
    BUILT_IN[f"cifar10_{_split}"] = _cifar_set(10, _train)
    BUILT_IN[f"cifar100_{_split}"] = _cifar_set(100, _train)


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
    folder = find_folder(known, base)
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


def find_folder(known: KnownSet, base: Path) -> Path | None:
    """The first of the folders of a set below the data root that holds all its files; ``None`` if none does."""
    return next((base / f for f in known.folders if _complete(base / f, known.files)), None)


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
    fetchable = [remote for remote, one in REMOTE_SETS.items() if name in one.names]
    lines = [f"the data set '{name}' is not there. Expected:", *expected, f"(also looked in {also})"]
    if folder.is_dir() and known.files:
        lines += [f"Found in {folder.absolute()}:", *list_folder(folder)]
    lines += [f"Found in {base.absolute()}:", *list_folder(base, depth=1)]
    lines.append("Set DATA.ROOT, or the environment variable PET_DATA, to the folder that holds the data.")
    if fetchable:
        needed = [*REMOTE_SETS[fetchable[0]].needs, *fetchable]
        lines.append(f"Or fetch it: python tools/misc/download_dataset.py --dataset-name {' '.join(needed)} --unzip")
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
    return Subset(dataset, range(min(limit, len(dataset)))) if limit else dataset


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
