"""CIFAR-10 and CIFAR-100, in the Python and the binary version."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pet.data.datasets.base import DATASETS, Labels, VisionDataset
from pet.data.structures import Image, Sample

_PIXELS = 3 * 32 * 32
_TRAIN_10 = tuple(f"data_batch_{i}" for i in range(1, 6))

# CIFAR files were pickled by Python 2; an array in them needs these and nothing else.
_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"): ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"): ("numpy", "ndarray"),
    ("numpy", "dtype"): ("numpy", "dtype"),
    ("_codecs", "encode"): ("_codecs", "encode"),
}


class _ArrayUnpickler(pickle.Unpickler):
    """Reads arrays, lists, dictionaries and plain values; anything that could run code is refused."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no CIFAR file needs")
        return super().find_class(*_ALLOWED[module, name])


def read_pickle(path: Path) -> Mapping[str, Any]:
    """The dictionary in a CIFAR file of the Python version; a file with anything but data in it is a ``ValueError``."""
    try:
        content = _ArrayUnpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except (pickle.UnpicklingError, EOFError, ValueError, AttributeError, ImportError, IndexError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is not a CIFAR file of the Python version: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} is not a CIFAR file of the Python version: it holds a {type(content).__name__}, not a dictionary"
        )
    return content


def _read_python(path: Path, coarse: bool) -> tuple[npt.NDArray[np.uint8], Labels]:
    content = read_pickle(path)
    names = ("coarse_labels",) if coarse else ("fine_labels", "labels")
    label_name = next((n for n in names if n in content), None)
    if label_name is None or "data" not in content:
        raise ValueError(f"{path} has the entries {', '.join(map(str, content))}; expected data and {' or '.join(names)}")
    data, labels = np.asarray(content["data"]), np.asarray(content[label_name])
    if data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != _PIXELS or labels.shape != (len(data),):
        raise ValueError(
            f"{path}: data is {data.dtype} {data.shape} with {labels.shape} labels; expected uint8 (N, {_PIXELS}) and (N,)"
        )
    return data, labels.astype(np.int64)


def _read_binary(path: Path, coarse: bool, label_bytes: int) -> tuple[npt.NDArray[np.uint8], Labels]:
    raw = np.fromfile(path, np.uint8)
    row = label_bytes + _PIXELS
    if not raw.size or raw.size % row:
        raise ValueError(
            f"{path} holds {raw.size} bytes, not a multiple of {row}: damaged, or not a "
            f"CIFAR-{10 if label_bytes == 1 else 100} binary file"
        )
    rows = raw.reshape(-1, row)
    return rows[:, label_bytes:], rows[:, 0 if coarse else label_bytes - 1].astype(np.int64)


@DATASETS.register("cifar_dataset")
class CifarDataset(VisionDataset):
    """CIFAR-10 or CIFAR-100, kept in memory. The version is recognised by the names of the files.

    Args:
        name: name in the catalog.
        images: the unpacked folder (``cifar-10-batches-py``, ``cifar-10-batches-bin``, ``cifar-100-python``,
        ``cifar-100-binary``), or one
            file of it.
        annotations: not used; must be ``None``.
        is_train: the training or the test files of a folder.
        coarse: the 20 super-classes of CIFAR-100.

    Source: https://www.cs.toronto.edu/~kriz/cifar.html.
    """

    def __init__(
        self, name: str, images: Path | None, annotations: Path | None = None, is_train: bool = True, *, coarse: bool = False
    ) -> None:
        if images is None or annotations is not None:
            raise ValueError(f"{name}: cifar_dataset needs IMAGES, the folder of its files, and no ANNOTATIONS")
        files = find_cifar_files(name, images, is_train)
        folder = images if images.is_dir() else images.parent
        hundred = files[0].name.split(".")[0] in ("train", "test")
        if coarse and not hundred:
            raise ValueError(f"{name}: COARSE is for CIFAR-100; {folder} holds CIFAR-10")
        parts = [_read_binary(f, coarse, 1 + hundred) if f.suffix == ".bin" else _read_python(f, coarse) for f in files]
        data = np.concatenate([d for d, _ in parts]).reshape(-1, 3, 32, 32)
        self._images: Image = np.ascontiguousarray(data.transpose(0, 2, 3, 1))
        self._labels: Labels = np.concatenate([labels for _, labels in parts])
        count = (20 if coarse else 100) if hundred else 10
        super().__init__(name, _class_names(folder, hundred, coarse) or [str(i) for i in range(count)], images)

    def __len__(self) -> int:
        return len(self._labels)

    def read(self, index: int) -> Sample:
        return Sample(self._images[index], {"label": int(self._labels[index])}, index)

    def labels(self) -> Labels:
        return self._labels

    def describe(self, index: int) -> str:
        return f"{self.source}[{index}]"


def find_cifar_files(name: str, images: Path, is_train: bool) -> list[Path]:
    """The files of one split in a folder, of whichever version it holds; all five training files of CIFAR-10 must be there."""
    if images.is_file():
        return [images]
    split = ("train",) if is_train else ("test",)
    versions = [
        [images / n for n in (_TRAIN_10 if is_train else ("test_batch",))],
        [images / f"{n}.bin" for n in (_TRAIN_10 if is_train else ("test_batch",))],
        [images / n for n in split],
        [images / f"{n}.bin" for n in split],
    ]
    for files in versions:
        if files[0].is_file():
            missing = [f.name for f in files if not f.is_file()]
            if missing:
                raise FileNotFoundError(f"{name}: {images} lacks {', '.join(missing)}")
            return files
    expected = "; ".join(", ".join(f.name for f in files) for files in versions)
    raise FileNotFoundError(f"{name}: {images} holds no CIFAR files; expected one of these sets: {expected}")


def _class_names(folder: Path, hundred: bool, coarse: bool) -> list[str]:
    """Class names from the description that comes with the data; empty if it is missing."""
    key = ("coarse_label_names" if coarse else "fine_label_names") if hundred else "label_names"
    meta = folder / ("meta" if hundred else "batches.meta")
    if meta.is_file():
        return [str(n) for n in read_pickle(meta)[key]]
    text = folder / (f"{key}.txt" if hundred else "batches.meta.txt")
    return [line.strip() for line in text.read_text().splitlines() if line.strip()] if text.is_file() else []
