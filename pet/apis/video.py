"""Videos and cameras: frames in, drawn frames out. Frames are (H, W, 3) uint8 RGB."""

from __future__ import annotations

import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

import cv2
import numpy as np

from pet.data.structures import Image
from pet.utils.display import require_display
from pet.utils.files import TEMPORARY, check_suffix, prepare_file
from pet.utils.logger import LOGGER, logging_rank
from pet.visualization.window import close_windows, show_picture

if TYPE_CHECKING:
    from pet.apis.predictor import Predictor

Channels = Literal["rgb", "bgr"]
VIDEO_EXTENSIONS = frozenset(
    (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".mts", ".3gp")
)
_CODECS = {".mp4": "mp4v", ".m4v": "mp4v", ".mov": "mp4v", ".mkv": "mp4v", ".avi": "MJPG"}
_UNKNOWN_FPS = 25.0
_PROGRESS = 100  # frames
_RESERVE = 16 * 2**20  # bytes that stay free for what a format writes at the end
_BLOCK = 2**20  # bytes, more than a library writes at once


class FrameReader(ABC):
    """A video that is being read. Close it, or use it in a ``with``.

    Attributes:
        source: path, address or camera, for messages.
        fps: frames a second.
        size: (height, width).
        num_frames: as the file states it; 0 if it does not, and for a camera.
        decoder: what decodes it, ``cpu`` or ``cuda``.
        channels: order of the channels of the frames that it gives: ``rgb``, or ``bgr`` as OpenCV and OpenMMLab have it.
    """

    decoder = "cpu"
    channels: Channels = "rgb"
    source: str
    fps: float
    size: tuple[int, int]
    num_frames: int

    @abstractmethod
    def frames(self) -> Iterator[Image]:
        """The frames that have not been read yet, RGB."""

    @abstractmethod
    def close(self) -> None:
        """Give the file or the camera back."""

    def __iter__(self) -> Iterator[Image]:
        count = 0
        for count, frame in enumerate(self.frames(), start=1):  # noqa: B007 - the last one counts
            yield frame if self.channels == "rgb" else frame[..., ::-1].copy()
        if count < self.num_frames:
            lost = "the others are missing or damaged"
            LOGGER.warning(f"{self.source}: {count} of {self.num_frames} frames can be decoded; {lost}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class VideoReader(FrameReader):
    """The frames of a video file, an address or a camera, upright, decoded by OpenCV.

    Args:
        source: path, address such as ``rtsp://...``, or the number of a camera.
        channels: order of the channels of the frames; ``bgr`` for functions that expect pictures of OpenCV, such as
            ``inference_detector``.

    Raises:
        FileNotFoundError: no such file.
        OSError: no such camera, or nothing answers at the address.
        ValueError: the file is no video, or not one frame of it can be decoded.
    """

    def __init__(self, source: str | os.PathLike[str] | int, channels: Channels = "rgb") -> None:
        if channels not in ("rgb", "bgr"):
            raise ValueError(f"channels is '{channels}'; allowed: rgb, bgr")
        self.channels = channels
        self.is_camera = isinstance(source, int)
        self.source = f"camera {source}" if isinstance(source, int) else os.fspath(source)
        if not self.is_camera and "://" not in self.source:
            _check_file(self.source)
        with _quiet_opencv():
            self._capture = cv2.VideoCapture(source if isinstance(source, int) else self.source)
            read, self._first = self._capture.read() if self._capture.isOpened() else (False, None)
        if not read:
            self.close()
            raise self._unreadable()
        self.fps = self._capture.get(cv2.CAP_PROP_FPS) or _UNKNOWN_FPS
        self.size = (int(self._first.shape[0]), int(self._first.shape[1]))
        self.num_frames = 0 if self.is_camera else max(int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)

    def _unreadable(self) -> Exception:
        if self.is_camera:
            return OSError(f"{self.source} gives no picture: it is absent or in use. A video file serves, too")
        if "://" in self.source:
            return OSError(f"no video can be read from {self.source}")
        return _not_a_video(self.source)

    def frames(self) -> Iterator[Image]:
        frame, self._first = self._first, None
        while frame is not None:
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
            read, frame = self._capture.read()
            frame = frame if read else None

    def close(self) -> None:
        self._capture.release()


class HardwareVideoReader(FrameReader):
    """The frames of a video file, upright, decoded by PyAV: on the GPU if it can, else, with a warning, on the CPU.

    Args:
        source: path of the video.
        hardware: try the decoder of the GPU.

    Raises:
        ImportError: PyAV is not installed.
        FileNotFoundError, ValueError: as for ``VideoReader``.
    """

    def __init__(self, source: str | os.PathLike[str], hardware: bool = True) -> None:
        self.source = os.fspath(source)
        _check_file(self.source)
        av = _import_av()
        try:
            if not (hardware and self._open_on_gpu(av)):
                self._open(av.open(self.source))
        except (av.FFmpegError, IndexError, StopIteration) as error:
            raise _not_a_video(self.source) from error

    def _open_on_gpu(self, av: Any) -> bool:
        from av.codec.hwaccel import HWAccel

        try:
            self._open(av.open(self.source, hwaccel=HWAccel(device_type="cuda", allow_software_fallback=False)))
        except (av.FFmpegError, RuntimeError) as error:
            LOGGER.warning(f"{self.source} is decoded on the CPU: the decoder of a GPU cannot be used here ({error})")
            return False
        self.decoder = "cuda"
        return True

    def _open(self, container: Any) -> None:
        """Start decoding; an error closes the container."""
        try:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            self._decoded = container.decode(stream)
            self._first = _upright(next(self._decoded))
        except BaseException:
            container.close()
            raise
        self._container, self.num_frames = container, int(stream.frames)
        self.fps = float(stream.average_rate or _UNKNOWN_FPS)
        self.size = (self._first.shape[0], self._first.shape[1])

    def frames(self) -> Iterator[Image]:
        av = _import_av()
        first, self._first = self._first, None
        if first is not None:
            yield first
        # What follows a damaged place is lost; FrameReader counts.
        with suppress(av.FFmpegError):
            yield from map(_upright, self._decoded)

    def close(self) -> None:
        self._container.close()


@contextmanager
def _quiet_opencv() -> Iterator[None]:
    """No messages of OpenCV about what is told in words of our own."""
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)


def _import_av() -> Any:
    try:
        import av
    except ImportError as error:
        raise ImportError("this decoder needs PyAV; install it with: pip install -e .[video]") from error
    return av


def _upright(frame: Any) -> Image:
    """A decoded frame as RGB, turned as the file says, which OpenCV does by itself."""
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90))


def _check_file(path: str) -> None:
    if not os.path.exists(path):
        raise FileNotFoundError(f"the video {path} does not exist (working folder {os.getcwd()})")
    if not os.path.isfile(path):
        raise ValueError(f"{path} is not a file, so no video can be read from it")


def _not_a_video(path: str) -> ValueError:
    return ValueError(f"{path} is not a video that can be decoded: it is damaged, cut off, or of an unknown format")


class VideoWriter:
    """Writes frames to a video file; the file appears when it is complete. Use it in a ``with``.

    An exception inside the ``with`` leaves no file; Ctrl-C and a disk that fills up leave what was written until then, because
    Ctrl-C is how one ends a recording.

    Args:
        path: ``.mp4``, ``.m4v``, ``.mov``, ``.mkv`` (MPEG-4) or ``.avi`` (Motion JPEG); its folder is made.
        fps: frames a second.
        size: (height, width) of the frames.

    Raises:
        ValueError: the suffix is none of these.
        OSError: the file cannot be written, or there is no space for it any more.
    """

    def __init__(self, path: str | os.PathLike[str], fps: float, size: tuple[int, int]) -> None:
        self.path, self.size, self.num_frames, self._keep = check_video_path(path), size, 0, False
        prepare_file(self.path)
        self._temporary = self.path.with_name(f"{self.path.stem}{TEMPORARY}{os.getpid()}{self.path.suffix}")
        code = cv2.VideoWriter_fourcc(*_CODECS[self.path.suffix.lower()])
        self._writer = cv2.VideoWriter(str(self._temporary), code, fps, (size[1], size[0]))
        if not self._writer.isOpened():
            self._temporary.unlink(missing_ok=True)
            raise OSError(f"the video {self.path} cannot be written ({size[1]} x {size[0]} pixels, {fps:g} frames a second)")

    def write(self, frame: Image) -> None:
        """Add a frame (H, W, 3) uint8 RGB."""
        if frame.shape != (*self.size, 3) or frame.dtype != np.uint8:
            raise ValueError(f"a frame of {self.path} is {(*self.size, 3)} uint8, not {frame.shape} {frame.dtype}")
        if shutil.disk_usage(self.path.parent).free < _RESERVE:
            self._keep = True
            raise self._full(f"the disk is full; the {self.num_frames} frames until here are in the file")
        self._writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        self.num_frames += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._writer.release()
        try:
            if self.num_frames and (kind is None or self._keep or issubclass(kind, KeyboardInterrupt)):
                self._check_space()
                os.replace(self._temporary, self.path)
        finally:
            self._temporary.unlink(missing_ok=True)

    def _check_space(self) -> None:
        """OpenCV does not tell when it could not write; where the file can grow no more, its end may be missing."""
        try:
            with open(self._temporary, "r+b") as handle:
                size = handle.seek(0, os.SEEK_END)
                handle.write(bytes(_BLOCK))
                handle.flush()
                os.fsync(handle.fileno())
                handle.truncate(size)
        except OSError as error:
            raise self._full(error.strerror) from error

    def _full(self, text: str) -> OSError:
        free = shutil.disk_usage(self.path.parent).free / 2**20
        return OSError(
            f"cannot write the video {self.path}: {text}, {free:.0f} MiB free in {self.path.parent}. Free some space, or name a "
            "file on another disk"
        )


def check_video_path(path: str | os.PathLike[str]) -> Path:
    """The path of a video to be written; ``ValueError`` if its suffix names no format that can be."""
    check_suffix(path, _CODECS)
    return Path(path)


def annotate_video(
    predictor: Predictor,
    reader: FrameReader,
    *,
    out: str | os.PathLike[str] | None = None,
    show: bool = False,
    wait_ms: float = 1,
    score_thr: float = 0.3,
    palette: str = "distinct",
) -> int:
    """Predict and draw every frame of a video; the number of frames.

    Args:
        predictor: of any domain.
        reader: where frames come from.
        out: video to write, with the size and the speed of the source.
        show: show the frames in a window, until its end or until Esc, q or Q is pressed.
        wait_ms: how long a shown frame stays at least, milliseconds.
        score_thr: score that an object needs to be drawn.
        palette: colours, see ``pet.visualization.palette``.

    Raises:
        ValueError: neither ``out`` nor ``show``, or ``out`` is no video.
        OSError: ``show`` without a display.
    """
    check_destination(out, show)
    writing: Any = nullcontext() if out is None else VideoWriter(out, reader.fps, reader.size)
    shown_ms, count = max(round(wait_ms), 1), 0  # 0 would wait for a key
    with writing as writer:
        for count, found in enumerate(predictor.stream(reader), start=1):  # noqa: B007 - the last one counts
            drawn = found.draw(score_thr=score_thr, palette=palette)
            if writer is not None:
                writer.write(drawn)
            if count % _PROGRESS == 0:
                logging_rank(f"{count} of {reader.num_frames or 'unknown'} frames")
            if show and show_picture(reader.source, drawn, shown_ms):
                break
    if show:
        close_windows()
    return count


def check_destination(out: str | os.PathLike[str] | None, show: bool) -> None:
    """Refuse a video that nobody would see, or that could not be written or shown."""
    if out is None and not show:
        raise ValueError("nobody would see the result: name a video to write with --out FILE.mp4, or show it with --show")
    if out is not None:
        check_video_path(out)
    if show:
        require_display("write a video with --out FILE.mp4")
