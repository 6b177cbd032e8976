"""MNIST, Fashion-MNIST and anything else stored as two IDX files."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from pet.data.datasets.base import DATASETS, Labels, VisionDataset
from pet.data.structures import Sample

_MAX_BYTES = 1 << 32
_PREFIX = {True: "train", False: "t10k"}


def read_idx(path: Path, dimensions: int) -> npt.NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes, raw or compressed with gzip.

    Args:
        path: the file.
        dimensions: expected number of dimensions: 3 for images (N, H, W), 1 for labels (N,).

    Raises:
        ValueError: not such a file, or shorter or longer than its header says.
        FileNotFoundError: no such file.

    Source: the format description on http://yann.lecun.com/exdb/mnist/.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    with open(path, "rb") as handle:
        packed = handle.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path, "rb") if packed else open(path, "rb") as stream:
            header = stream.read(4 + 4 * dimensions)
            expected = bytes((0, 0, 8, dimensions))
            if header[:4] != expected or len(header) < 4 + 4 * dimensions:
                raise ValueError(
                    f"{path} is not an IDX file of bytes with {dimensions} dimension(s): it starts with {header[:4].hex(' ')}, "
                    f"expected {expected.hex(' ')}"
                )
            shape = struct.unpack(f">{dimensions}I", header[4:])
            size = int(np.prod(shape, dtype=object))
            if size > _MAX_BYTES:
                raise ValueError(
                    f"{path} claims to hold {' x '.join(map(str, shape))} bytes, more than the limit of {_MAX_BYTES}"
                )
            data = stream.read(size + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is damaged or incomplete: {error}. Delete it and fetch it again") from error
    if len(data) != size:
        raise ValueError(
            f"{path} holds {'more' if len(data) > size else len(data)} bytes than the {size} its header announces "
            f"({' x '.join(map(str, shape))}). Delete it and fetch it again"
        )
    return np.frombuffer(data, np.uint8).reshape(shape)


def find_idx(folder: Path, name: str) -> Path:
    """The file ``name`` in ``folder``, raw or ``.gz``, with ``-`` or ``.`` before ``idx``."""
    names = [name, f"{name}.gz", name.replace("-idx", ".idx"), f"{name.replace('-idx', '.idx')}.gz"]
    for candidate in names:
        if (folder / candidate).is_file():
            return folder / candidate
    raise FileNotFoundError(f"{folder} holds none of {', '.join(names)}")


@DATASETS.register("mnist_dataset")
class MnistDataset(VisionDataset):
    """Grey pictures in IDX files, kept in memory.

    Args:
        name: name in the catalog.
        images: the IDX file of the pictures, or the folder that holds both files under their standard names.
        annotations: the IDX file of the labels; not with a folder.
        is_train: which of the two standard pairs to read from a folder.
        classes: class names; default "0" to the largest label, at least "9".
    """

    def __init__(
        self,
        name: str,
        images: Path | None,
        annotations: Path | None = None,
        is_train: bool = True,
        *,
        classes: Sequence[str] = (),
    ) -> None:
        if images is None:
            raise ValueError(f"{name}: mnist_dataset needs IMAGES: the IDX file of the pictures, or the folder with both files")
        if images.is_dir():
            images, annotations = (
                find_idx(images, f"{_PREFIX[is_train]}-images-idx3-ubyte"),
                annotations or find_idx(images, f"{_PREFIX[is_train]}-labels-idx1-ubyte"),
            )
        if annotations is None:
            raise ValueError(f"{name}: mnist_dataset needs ANNOTATIONS, the IDX file of the labels, beside IMAGES {images}")
        self._images, labels = read_idx(images, 3), read_idx(annotations, 1)
        if len(self._images) != len(labels):
            raise ValueError(f"{name}: {images} holds {len(self._images)} pictures, but {annotations} {len(labels)} labels")
        self._labels: Labels = labels.astype(np.int64)
        count = max(10, int(self._labels.max(initial=0)) + 1)
        super().__init__(name, list(classes) or [str(digit) for digit in range(count)], images)

    def __len__(self) -> int:
        return len(self._images)

    def read(self, index: int) -> Sample:
        image = np.asarray(cv2.cvtColor(self._images[index], cv2.COLOR_GRAY2RGB), np.uint8)
        return Sample(image, {"label": int(self._labels[index])}, index)

    def labels(self) -> Labels:
        return self._labels

    def describe(self, index: int) -> str:
        return f"{self.source}[{index}]"
