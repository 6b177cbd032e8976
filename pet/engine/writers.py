"""Writers: console lines, JSON lines, TensorBoard."""

from __future__ import annotations

import json
import os
import struct
import time
from collections import deque
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import IO, Any

import torch

from pet.engine.events import EventStorage
from pet.utils.files import atomic_json, finite, naming_full_disk
from pet.utils.images import write_png
from pet.utils.logger import LOGGER

_TIMES = ("time", "data_time")
_LOG_STEPS_TOGETHER, _DELAY_S = 20, 30.0


class EventWriter:
    """Base of writers; ``write_scalars`` is called on log steps, ``write_results`` when there are evaluations or pictures."""

    def write_scalars(self, storage: EventStorage) -> None:
        """Write the newest scalars."""

    def write_results(self, storage: EventStorage) -> None:
        """Write ``storage.evaluations`` and ``storage.images``."""

    def close(self) -> None:
        """Flush and close."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to continue the output."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore."""


class ConsoleWriter(EventWriter):
    """One line each time: position, ETA, learning rate, losses, metrics, times, memory.

    Args:
        name: what is trained, at the head of the line.
        window: log lines over which the speed for the ETA is averaged.
    """

    def __init__(self, name: str, window: int = 20) -> None:
        self._name = name
        self._marks: deque[tuple[int, float]] = deque(maxlen=window)

    def write_scalars(self, storage: EventStorage) -> None:
        """Log the line."""
        values = storage.latest_with_smoothing_hint()
        self._marks.append((storage.iteration, time.perf_counter()))
        losses = [n for n in values if "loss" in n and n != "total_loss"]
        other = [n for n in values if n not in losses and n not in ("lr", "total_loss", *_TIMES)]
        parts = [f"{self._name}  {self._position(storage)}", f"eta {self._eta(storage)}", f"lr {values.get('lr', 0.0):.6g}"]
        parts.append(f"loss {values.get('total_loss', float('nan')):.4f}")
        parts += [f"{n} {values[n]:.4f}" for n in losses] if len(losses) > 1 else []
        parts += [f"{n} {values[n]:.4g}" for n in other]
        parts += [f"{n} {values[n]:.4f} s" for n in _TIMES if n in values]
        parts.append(f"mem {_memory_mib()} MiB")
        LOGGER.info("  ".join(parts))

    def _position(self, storage: EventStorage) -> str:
        text = f"iter {storage.iteration}/{storage.max_iter}"
        if storage.iter_per_epoch:
            text = f"epoch {storage.epoch}/{-(-storage.max_iter // storage.iter_per_epoch)}  {text}"
        return text

    def _eta(self, storage: EventStorage) -> str:
        (first, start), (last, end) = self._marks[0], self._marks[-1]
        if first == last:
            return "-"
        seconds = (end - start) / (last - first) * (storage.max_iter - storage.iteration)
        return str(timedelta(seconds=round(seconds)))


def _memory_mib() -> int:
    """Peak memory of the device on CUDA, of the process elsewhere."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return torch.cuda.max_memory_allocated() >> 20
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


class JSONWriter(EventWriter):
    """One JSON object a line in ``metrics.json``; a resumed run continues where its checkpoint was taken.

    Args:
        path: the file; rows of an earlier start that saved no checkpoint are replaced unless a run is resumed.
        resume: whether a run is resumed (``load_state_dict`` then removes rows after the checkpoint).
    """

    def __init__(self, path: str | Path, resume: bool = False) -> None:
        self._path, self._mode = Path(path), "ab" if resume else "wb"
        self._opened: IO[bytes] | None = None

    def _handle(self) -> IO[bytes]:
        if self._opened is None:
            self._opened = open(self._path, self._mode)  # noqa: SIM115 - open for the whole run
        return self._opened

    def _size(self) -> int:
        return self._path.stat().st_size if self._path.exists() else 0

    def _write(self, storage: EventStorage, row: dict[str, Any]) -> None:
        position = {"iteration": storage.iteration, "epoch": storage.epoch_progress}
        with naming_full_disk(self._path):
            self._handle().write(json.dumps(finite({**position, **row})).encode() + b"\n")
            self._handle().flush()

    def write_scalars(self, storage: EventStorage) -> None:
        """Append the scalars."""
        self._write(storage, storage.latest_with_smoothing_hint())

    def write_results(self, storage: EventStorage) -> None:
        """Append evaluations; ``classes.json`` beside the file has the numbers of each class of the newest one."""
        for results in storage.evaluations:
            self._write(storage, {"eval": results})
        if storage.class_tables:
            record = {"iteration": storage.iteration, "classes": storage.class_tables}
            atomic_json(self._path.with_name("classes.json"), record)

    def state_dict(self) -> dict[str, Any]:
        """Length of the file in bytes, durable on disk."""
        if self._opened is None:
            return {"offset": self._size() if self._mode == "ab" else 0}
        os.fsync(self._opened.fileno())
        return {"offset": self._opened.tell()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Cut what was written after the checkpoint."""
        size = self._size()
        if size < state["offset"]:
            LOGGER.warning(f"{self._path} is shorter ({size} bytes) than at the checkpoint ({state['offset']}); rows are missing")
            return
        if not self._path.exists():
            return
        whole = self._path.read_bytes()[: state["offset"]].rfind(b"\n") + 1
        if whole < state["offset"]:
            LOGGER.warning(f"{self._path} is not the file of the checkpoint: its rows after byte {whole} are removed")
        os.truncate(self._path, whole)

    def close(self) -> None:
        """Close the file."""
        if self._opened is not None:
            self._opened.close()


class TensorBoardWriter(EventWriter):
    """Scalars and pictures for TensorBoard; imported on use.

    Args:
        folder: the event files go there. TensorBoard forgets what earlier processes wrote there from the first update on that
            this one writes.
        first_pictures: folder of PNG files that show the data; a run that begins adds them as ``data/<name>``.
    """

    def __init__(self, folder: str | Path, first_pictures: str | Path | None = None) -> None:
        self._folder, self._first_pictures = Path(folder), first_pictures
        self._opened: Any = None
        # Update, time and scalars of log steps.
        self._pending: list[tuple[int, float, dict[str, float]]] = []

    def _writer(self, storage: EventStorage) -> Any:
        if self._opened is None:
            from torch.utils.tensorboard import SummaryWriter

            self._opened = SummaryWriter(str(self._folder), purge_step=storage.iteration)
            if self._first_pictures is not None and storage.iteration == 1:
                self._add_files(sorted(Path(self._first_pictures).glob("*.png")))
        return self._opened

    def _add_files(self, paths: Sequence[Path]) -> None:
        """Add PNG files as they are."""
        from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]

        for path in paths:
            content = path.read_bytes()
            width, height = struct.unpack(">II", content[16:24])  # where every PNG file has them
            image = Summary.Image(encoded_image_string=content, height=height, width=width, colorspace=3)
            self._opened.file_writer.add_summary(Summary(value=[Summary.Value(tag=f"data/{path.stem}", image=image)]), 0)

    def write_scalars(self, storage: EventStorage) -> None:
        """Add the scalars; several log steps reach TensorBoard together, because waking its thread is most of the cost."""
        with naming_full_disk(self._folder):
            self._writer(storage)
        self._pending.append((storage.iteration, time.time(), storage.latest_with_smoothing_hint()))
        if len(self._pending) == _LOG_STEPS_TOGETHER or time.time() - self._pending[0][1] > _DELAY_S:
            self._hand_over()

    def _hand_over(self) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        pending, self._pending = self._pending, []
        with naming_full_disk(self._folder):
            for iteration, seconds, scalars in pending:
                tags = {name: f"{'loss' if 'loss' in name else 'train'}/{name}" for name in scalars}
                values = [Summary.Value(tag=tags[name], simple_value=value) for name, value in scalars.items()]
                self._opened.file_writer.add_summary(Summary(value=values), iteration, seconds)

    def write_results(self, storage: EventStorage) -> None:
        """Add evaluations and pictures."""
        self._hand_over()
        with naming_full_disk(self._folder):
            for results in storage.evaluations:
                for name, value in results.items():
                    self._writer(storage).add_scalar(f"eval/{name}", value, storage.iteration)
            for name, image in storage.images:
                self._writer(storage).add_image(name, image, storage.iteration, dataformats="HWC")

    def close(self) -> None:
        """Flush and close."""
        if self._opened is None:
            return
        self._hand_over()
        with naming_full_disk(self._folder):
            self._opened.close()

    def state_dict(self) -> dict[str, Any]:
        """Nothing; what was written up to a checkpoint is handed to the system, because rows in a queue die with the process."""
        if self._opened is not None:
            self._hand_over()
            self._opened.flush()
        return {}


class PictureWriter(EventWriter):
    """Pictures as PNG files, named after what they show.

    Args:
        folder: made when the first picture is written.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)

    def write_results(self, storage: EventStorage) -> None:
        """Write the pictures."""
        for name, image in storage.images:
            write_png(self._folder / f"{name.replace('/', '_')}.png", image)
        if storage.images:
            LOGGER.info(f"{len(storage.images)} pictures are in {self._folder}")
