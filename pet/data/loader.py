"""Loaders: endless windows of micro-batches for training, exact passes for evaluation."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader

from pet.data.collate import Collate, Replaced
from pet.data.collate import collate as stack
from pet.data.datasets.base import VisionDataset
from pet.data.sampler import REPETITION, EvalSampler, Position, TrainSampler
from pet.data.structures import BadImageError, Batch, Sample
from pet.data.transforms.base import Chain
from pet.data.worker import WorkerContext, dead_workers
from pet.utils.env import is_out_of_memory, usable_cores
from pet.utils.logger import LOGGER
from pet.utils.rng import STREAM_SAMPLE, keyed_generator, sample_generator

BadImagePolicy = Literal["raise", "replace"]
_LESS_MEMORY = (
    "Lower DATA.LOADER_THREADS or DATA.PREFETCH, enlarge /dev/shm (in a container: --shm-size=8g), or use DATA.LOADER_THREADS 0 "
    "to see the error in the main process"
)
_USUAL_CAUSE = "SIGKILL usually means that the machine ran out of memory, SIGBUS that shared memory did."
_MAX_REPLACEMENTS = 20
_SHOWN_WARNINGS = 20


def default_workers(processes: int) -> int:
    """Workers for each process when LOADER_THREADS is -1: ``min(4, cores / processes)``."""
    return min(4, usable_cores() // max(processes, 1))


class SampleReader:
    """Positions to batches: reads, replaces what cannot be read, transforms, collates. This is what a worker runs.

    A replacement is drawn from the generator of ``(seed, epoch, index, attempt)``, so it is always the same one.

    Args:
        dataset: where samples come from.
        transforms: applied in order with the generator of ``(seed, epoch, index)``.
        seed: the experiment's seed.
        bad_image: what to do with a picture that cannot be read.
        collate: joins samples, called with them and the list of (index, reason) of what was replaced.
    """

    def __init__(
        self,
        dataset: VisionDataset,
        transforms: Sequence[Any],
        seed: int = 0,
        bad_image: BadImagePolicy = "raise",
        collate: Collate = stack,
    ) -> None:
        self.dataset, self.seed, self.bad_image, self._collate = dataset, seed, bad_image, collate
        self._chain = Chain(transforms, self._draw)
        self._replaced: Replaced = []

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, position: Position) -> Sample:
        epoch, index = position
        try:
            sample = self._read(index)
            for attempt in range(_MAX_REPLACEMENTS):
                if sample is not None:
                    break
                other = keyed_generator(self.seed, STREAM_SAMPLE, epoch, index, attempt).integers(len(self.dataset))
                sample = self._read(int(other))
            if sample is None:
                raise BadImageError(self.dataset.describe(index), f"and neither can {_MAX_REPLACEMENTS} drawn instead of it")
            return self._chain(sample, sample_generator(self.seed, epoch, index)) if self._chain.transforms else sample
        except BadImageError:
            raise
        except StopIteration as error:
            # In a loader it would look like the end of the data.
            raise RuntimeError(f"StopIteration while reading {self.dataset.describe(index)} (index {index})") from error
        except Exception as error:
            where = f"(index {index} of {self.dataset.name}, epoch {epoch % REPETITION})"
            error.add_note(f"while reading {self.dataset.describe(index)} {where}")
            raise

    def stages(self, position: Position) -> Iterator[Sample]:
        """The sample at this position as it is read, then after each transform; a picture that cannot be read raises."""
        epoch, index = position
        sample = self.dataset.read(index)
        yield sample
        yield from self._chain.stages(sample, sample_generator(self.seed, epoch, index))

    def __getitems__(self, positions: list[Position]) -> Batch | BadImageError:
        """The batch of these positions. A bad image is returned, not raised: an exception loses its type between processes."""
        self._replaced = []
        try:
            return self._collate([self[position] for position in positions], self._replaced)
        except BadImageError as error:
            return error

    def _read(self, index: int) -> Sample | None:
        try:
            return self.dataset.read(index)
        except BadImageError as error:
            if self.bad_image == "raise":
                raise
            self._replaced.append((index, str(error)))
            return None

    def _draw(self, rng: np.random.Generator) -> Sample:
        for _ in range(_MAX_REPLACEMENTS):
            sample = self._read(int(rng.integers(len(self.dataset))))
            if sample is not None:
                return sample
        raise BadImageError(self.dataset.name, f"{_MAX_REPLACEMENTS} images drawn at random cannot be read")


def _keep(batch: Any) -> Any:
    return batch


class DeadWorkerError(RuntimeError):
    """A loader process ended without being asked to."""


@contextmanager
def _own_child_handler() -> Iterator[None]:
    """Undo the SIGCHLD handler of torch: it would raise about a dead worker anywhere, in the middle of a save for example."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, previous)


class _Stream:
    """One pass of a ``DataLoader`` with shielded workers, its own generator, and errors that name the samples.

    When a worker dies, up to ``restarts`` times all workers are started anew with the first batch that has not arrived. What a
    batch holds depends on its positions alone, so nothing changes but the time.
    """

    def __init__(
        self,
        reader: SampleReader,
        sampler: Iterable[list[Position]],
        num_workers: int,
        prefetch: int,
        pin_memory: bool,
        restarts: int = 0,
    ) -> None:
        # The thread pool of OpenCV does not survive a fork, and would compete with the workers.
        cv2.setNumThreads(0)
        self._reader, self._positions = reader, iter(sampler)
        self._restarts_left = restarts
        self._sent: deque[list[Position]] = deque()
        generator = torch.Generator()
        generator.manual_seed(reader.seed)
        parallel: dict[str, Any] = (
            {"multiprocessing_context": WorkerContext(), "prefetch_factor": prefetch} if num_workers else {}
        )
        self._options = {
            "num_workers": num_workers,
            "pin_memory": pin_memory,
            "generator": generator,
            "collate_fn": _keep,
            **parallel,
        }

    def _send(self) -> Iterator[list[Position]]:
        """Positions to read, those first that were asked for but never arrived."""
        yield from list(self._sent)
        for positions in self._positions:
            self._sent.append(positions)
            yield positions

    def _start(self) -> Any:
        with _own_child_handler(), warnings.catch_warnings():
            # The number of workers is the user's choice.
            warnings.filterwarnings("ignore", message="This DataLoader will create")
            return iter(DataLoader(self._reader, batch_sampler=self._send(), **self._options))  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Batch]:
        while True:
            try:
                yield from self._pass()
                return
            except DeadWorkerError as error:
                if not self._restarts_left:
                    raise
                self._restarts_left -= 1
                LOGGER.warning("%s. The workers are started anew (DATA.RESTART_WORKERS, %d left)", error, self._restarts_left)

    def _pass(self) -> Iterator[Batch]:
        """What is left of the pass, with workers of its own."""
        with self._naming_causes():
            batches = self._start()
        try:
            while (batch := self._next(batches)) is not None:
                self._sent.popleft()
                yield batch
        finally:
            # A traceback may keep the iterator alive; its processes must not wait for that.
            if self._options["num_workers"]:
                batches._shutdown_workers()

    def _next(self, batches: Iterator[Batch | BadImageError]) -> Batch | None:
        """The next batch, or ``None`` at the end."""
        with self._naming_causes():
            batch = next(batches, None)
        if isinstance(batch, BadImageError):
            raise batch
        return batch

    @contextmanager
    def _naming_causes(self) -> Iterator[None]:
        """Say which samples were being read when a worker died, and what to do when memory ran out."""
        try:
            yield
        except (RuntimeError, OSError, EOFError, MemoryError) as error:
            if self._options["num_workers"] and (causes := dead_workers(patience_s=_lost_contact(error))):
                died = ", ".join(f"process {pid} {cause}" for pid, cause in causes.items())
                where = f"{self._in_flight()}{_free_memory()}"
                raise DeadWorkerError(f"a loader worker died: {died}. {where} {_USUAL_CAUSE} {_LESS_MEMORY}") from error
            if is_out_of_memory(error):
                error.add_note(f"memory ran out while reading data. {self._in_flight()}{_free_memory()} {_LESS_MEMORY}")
            raise

    def _in_flight(self) -> str:
        flying = [index for positions in self._sent for _, index in positions]
        shown = ", ".join(map(str, flying[:32])) + (", ..." if len(flying) > 32 else "")
        first = self._reader.dataset.describe(flying[0]) if flying else "none"
        return f"Samples being read (index in {self._reader.dataset.name}): {shown} (the first is {first})."


def _lost_contact(error: BaseException) -> float:
    """Seconds to wait for a process to be seen as dead: a broken connection is noticed a moment before its end."""
    return 1.0 if isinstance(error, (ConnectionError, EOFError)) else 0.0


def _free_memory() -> str:
    if not os.path.isdir("/dev/shm"):
        return ""
    return f" Shared memory free: {shutil.disk_usage('/dev/shm').free / 2**20:.0f} MiB in /dev/shm."


class TrainLoader:
    """Endless windows of ``accumulate`` micro-batches, starting at an update.

    Window k is a pure function of the seed and k: not of the number of workers, and its union over the ranks not of the number
    of processes either. One set of workers serves the whole run, across epochs. The global random generators are never touched.

    Args:
        dataset: training data.
        transforms: see ``pet.data.transforms``.
        batch_size: samples of one update over all processes.
        seed: the experiment's seed.
        shuffle: a new order each epoch.
        accumulate: micro-batches of one update.
        world_size, rank: processes, and which of them this is.
        start_iter: update to start with (1-based).
        num_workers: loader processes; -1: ``default_workers(world_size)``; 0: load in this process.
        prefetch: micro-batches each worker prepares in advance.
        bad_image: "raise" a ``BadImageError`` or "replace" the picture by another one.
        pin_memory: put batches in page-locked memory (for a GPU).
        restart_workers: how often in a pass workers that died are started anew; then, or with 0, a ``DeadWorkerError`` ends it.
        collate: samples to a batch: ``pet.data.collate.collate``, or ``collate_padded`` for pictures of different sizes.
        groups, group_size, repeats, only_first: order of the data, see ``TrainSampler``.

    Attributes:
        iter_per_epoch: updates of one epoch, at least 1.
        num_replaced: unreadable pictures met so far.
    """

    def __init__(
        self,
        dataset: VisionDataset,
        transforms: Sequence[Any] = (),
        batch_size: int = 32,
        *,
        seed: int = 0,
        shuffle: bool = True,
        accumulate: int = 1,
        world_size: int = 1,
        rank: int = 0,
        start_iter: int = 1,
        num_workers: int = -1,
        prefetch: int = 2,
        bad_image: BadImagePolicy = "raise",
        pin_memory: bool = False,
        restart_workers: int = 0,
        collate: Collate = stack,
        groups: npt.NDArray[Any] | None = None,
        group_size: int = 1,
        repeats: npt.NDArray[Any] | None = None,
        only_first: int = 0,
    ) -> None:
        self.dataset, self.batch_size, self.accumulate, self.start_iter = dataset, batch_size, accumulate, start_iter
        self.num_workers = default_workers(world_size) if num_workers < 0 else num_workers
        self._reader = SampleReader(dataset, transforms, seed, bad_image, collate)
        self._options = (prefetch, pin_memory, restart_workers)
        self.sampler = TrainSampler(
            len(dataset),
            batch_size,
            seed=seed,
            shuffle=shuffle,
            world_size=world_size,
            rank=rank,
            accumulate=accumulate,
            start_iter=start_iter,
            groups=groups,
            group_size=group_size,
            repeats=repeats,
            only_first=only_first,
        )
        self.iter_per_epoch = self.sampler.iter_per_epoch
        self.num_replaced = 0
        self._warned: set[int] = set()

    def __len__(self) -> int:
        return self.iter_per_epoch

    def __iter__(self) -> Iterator[list[Batch]]:
        window: list[Batch] = []
        for batch in self._batches():
            if batch.replaced:
                self._report(batch.replaced)
            window.append(batch)
            if len(window) == self.accumulate:
                yield window
                window = []

    def _batches(self) -> Iterator[Batch]:
        try:
            yield from _Stream(self._reader, self.sampler, self.num_workers, *self._options)
        except BadImageError as error:
            if self._reader.bad_image == "replace":
                raise
            raise _advise(error, "or set DATA.BAD_IMAGE replace") from error

    def _report(self, replaced: list[tuple[int, str]]) -> None:
        self.num_replaced += len(replaced)
        for index, reason in replaced:
            if index not in self._warned and len(self._warned) < _SHOWN_WARNINGS:
                self._warned.add(index)
                more = " (further ones are only counted)" if len(self._warned) == _SHOWN_WARNINGS else ""
                LOGGER.warning("%s: %s; another image takes its place%s", self.dataset.name, reason, more)


class EvalLoader:
    """One pass over a data set in stored order; each sample is seen once, by one process, and nothing is padded.

    Batches hold the same samples on any number of processes. A picture that cannot be read always raises: a replaced
    one would falsify the result.

    Args:
        dataset: data to evaluate on.
        transforms: see ``pet.data.transforms``.
        batch_size: samples of a batch of one process.
        seed: for transforms that draw random numbers.
        world_size, rank, num_workers, prefetch, pin_memory, restart_workers, collate: as in ``TrainLoader``.
    """

    def __init__(
        self,
        dataset: VisionDataset,
        transforms: Sequence[Any] = (),
        batch_size: int = 32,
        *,
        seed: int = 0,
        world_size: int = 1,
        rank: int = 0,
        num_workers: int = -1,
        prefetch: int = 2,
        pin_memory: bool = False,
        restart_workers: int = 0,
        collate: Collate = stack,
    ) -> None:
        self.dataset, self.batch_size = dataset, batch_size
        self.num_workers = default_workers(world_size) if num_workers < 0 else num_workers
        self._reader = SampleReader(dataset, transforms, seed, collate=collate)
        self._options = (prefetch, pin_memory, restart_workers)
        self.sampler = EvalSampler(len(dataset), batch_size, world_size=world_size, rank=rank)

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        try:
            yield from _Stream(self._reader, self.sampler, min(self.num_workers, len(self)), *self._options)
        except BadImageError as error:
            raise _advise(error, "a test needs all pictures, so DATA.BAD_IMAGE is for training only") from error


def _advise(error: BadImageError, more: str) -> BadImageError:
    """The same error with what to do."""
    return BadImageError(error.path, f"{error.reason}; repair or remove it, {more}")
