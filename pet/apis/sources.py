"""Where pictures to predict on come from: arrays, files, folders, patterns, videos, cameras."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pet.apis.video import VIDEO_EXTENSIONS, Channels, FrameReader, VideoReader
from pet.data.image import EXTENSIONS, read_image
from pet.data.structures import BadImageError, Image
from pet.utils.suggest import did_you_mean


@dataclass(frozen=True)
class Picture:
    """One picture to predict on.

    Attributes:
        source: the file, or another description.
        image: (H, W, 3) uint8 RGB.
    """

    source: str
    image: Image


@dataclass(frozen=True)
class Source:
    """Pictures in their order, read when they are needed.

    Attributes:
        kind: ``one`` picture, a ``list`` of them, or a ``stream`` of unknown length.
        pictures: each can be had once.
    """

    kind: Literal["one", "list", "stream"]
    pictures: Iterator[Picture]


def open_source(source: Any, channels: Channels = "rgb") -> Source:
    """Find out what ``source`` is; whatever is not there is an error now, what is damaged when it is read.

    Args:
        source: an array (H, W, 3) or (H, W) uint8; the path of a picture or of a video; a list of arrays and paths of pictures;
            a folder (its pictures, in the order of their names); a pattern such as ``photos/*.jpg``; the number of a camera, as
            int or text; an address such as ``rtsp://...``; a reader of ``pet.apis.video``.
        channels: order of the channels of arrays. Pet's own are RGB, those of ``cv2.imread`` BGR.

    Raises:
        FileNotFoundError: no such file, no picture in the folder, or nothing fits the pattern.
        ValueError: a picture cannot be decoded, or an array is no picture.
        TypeError: ``source`` is something else.
        OSError: no such camera.
    """
    if channels not in ("rgb", "bgr"):
        raise ValueError(f"channels is '{channels}'; allowed: rgb, bgr")
    if isinstance(source, list | tuple):
        readers = [_one(item, f"image {number}", channels) for number, item in enumerate(source)]
        return Source("list", (read() for read in readers))
    if isinstance(source, FrameReader):
        return Source("stream", _frames(source))
    if isinstance(source, int) and not isinstance(source, bool):
        return Source("stream", _closing_frames(VideoReader(source)))
    if isinstance(source, str | os.PathLike):
        return _from_path(os.fspath(source))
    read = _one(source, "image", channels)
    return Source("one", iter([read()]))


def _from_path(text: str) -> Source:
    path = Path(text).expanduser()
    if text.isdecimal() and not path.exists():
        return Source("stream", _closing_frames(VideoReader(int(text))))
    if "://" in text:
        return Source("stream", _closing_frames(VideoReader(text)))
    if path.is_dir():
        files = sorted(entry for entry in path.iterdir() if entry.suffix.lower() in EXTENSIONS and not entry.name.startswith("."))
        return Source("stream", _files(files, f"{text} holds no pictures (files named {', '.join(sorted(EXTENSIONS))})"))
    if path.suffix.lower() in VIDEO_EXTENSIONS:
        return Source("stream", _closing_frames(VideoReader(path)))
    if not path.exists() and glob.has_magic(text):
        files = [Path(name) for name in sorted(glob.glob(str(path), recursive=True)) if os.path.isfile(name)]
        return Source("stream", _files(files, f"no file fits the pattern {text} (working folder {os.getcwd()})"))
    return Source("one", iter([_one(path, "", "rgb")()]))


def _one(item: Any, name: str, channels: Channels) -> Callable[[], Picture]:
    """A function that reads one picture; what can be checked before is checked now."""
    if isinstance(item, str | os.PathLike):
        path = Path(item).expanduser()
        _check_file(path)
        return lambda: read_picture(path)
    if not isinstance(item, np.ndarray):
        raise TypeError(f"{name} is a {type(item).__name__}; expected a path or an array (H, W, 3) uint8")
    picture = Picture(name, as_rgb(item, channels))
    return lambda: picture


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, not a picture")
    if not path.exists():
        beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = did_you_mean(path.name, beside)
        raise FileNotFoundError(f"the picture {path} does not exist (working folder {os.getcwd()}).{hint}")


def read_picture(path: Path) -> Picture:
    """Read a picture; one that cannot be decoded is a ``ValueError`` that says why."""
    try:
        return Picture(str(path), read_image(path))
    except BadImageError as error:
        raise ValueError(str(error)) from error


def as_rgb(array: NDArray[Any], channels: Channels) -> Image:
    """An array of a user as (H, W, 3) uint8 RGB; grey ones get three equal channels.

    Raises:
        ValueError: another shape or type; the text says which.
    """
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or 0 in array.shape or array.shape[2:] not in ((), (3,)):
        raise ValueError(f"a picture is an array (H, W, 3) or (H, W) of uint8, not {array.shape} of {array.dtype}")
    if array.ndim == 2:
        array = np.repeat(array[..., None], 3, axis=2)
    return np.ascontiguousarray(array[..., ::-1] if channels == "bgr" else array)


def _files(files: Iterable[Path], complaint: str) -> Iterator[Picture]:
    files = list(files)
    if not files:
        raise FileNotFoundError(complaint)
    return map(read_picture, files)


def _frames(reader: FrameReader) -> Iterator[Picture]:
    for number, frame in enumerate(reader):
        yield Picture(f"{reader.source}, frame {number}", as_rgb(frame, reader.channels))


def _closing_frames(reader: FrameReader) -> Iterator[Picture]:
    with reader:
        yield from _frames(reader)
