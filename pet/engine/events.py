"""EventStorage: the blackboard between the loop and its hooks.

Values of a step may be device tensors. They stay where they are until ``flush``, which brings everything recorded since
the last flush to the host in one transfer and, with several processes, reduces it in one exchange.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from pet.utils import comm

Scalar = float | int | torch.Tensor
_STACK: list[EventStorage] = []
_started = ""


def mark_started(what: str) -> None:
    """Note that the work of this process has begun, a ``training`` or a ``test``: from now on an error is no wrong start."""
    global _started
    _started = what


def started() -> str:
    """What ``mark_started`` noted; empty before."""
    return _started


def get_event_storage() -> EventStorage:
    """The storage of the surrounding ``with EventStorage(...)`` block."""
    if not _STACK:
        raise RuntimeError(
            "get_event_storage() needs an open storage; write: with EventStorage(start_iter=1) as storage: run_loop(...)"
        )
    return _STACK[-1]


class HistoryBuffer:
    """The newest values of one scalar and the updates they belong to."""

    def __init__(self, max_length: int) -> None:
        self._values: deque[float] = deque(maxlen=max_length)
        self._iterations: deque[int] = deque(maxlen=max_length)

    def update(self, value: float, iteration: int) -> None:
        """Append a value; the oldest one falls out when the buffer is full."""
        self._values.append(value)
        self._iterations.append(iteration)

    def extend(self, values: Iterable[float], iterations: Iterable[int]) -> None:
        """Append several values."""
        self._values.extend(values)
        self._iterations.extend(iterations)

    def latest(self) -> float:
        """The newest value."""
        return self._values[-1]

    def median(self, window: int) -> float:
        """Median of the newest ``window`` values."""
        return statistics.median(list(self._values)[-window:])

    def avg(self, window: int) -> float:
        """Mean of the newest ``window`` values."""
        values = list(self._values)[-window:]
        return math.fsum(values) / len(values)

    def values(self) -> list[tuple[float, int]]:
        """All kept ``(value, iteration)`` pairs, oldest first."""
        return list(zip(self._values, self._iterations, strict=True))

    def __len__(self) -> int:
        return len(self._values)


class NonFinite(NamedTuple):
    """A loss that was NaN or infinite: where it was seen first."""

    iteration: int
    rank: int
    names: tuple[str, ...]


@dataclass(frozen=True)
class StopRequest:
    """Why a run ends early, and the exit status it ends with."""

    reason: str
    status: int = 0


class EventStorage:
    """Counter, scalars, pictures and the request to stop; open it with ``with``.

    Args:
        start_iter: the first update to run, 1-based.
        log_period: updates between two flushes; the smoothing window.
        max_iter: the last update of the run.
        iter_per_epoch: updates of an epoch.
        stop_check_period: updates between two agreements of several ranks whether to stop; 0: ``log_period``.
    """

    def __init__(
        self,
        start_iter: int = 1,
        log_period: int = 20,
        max_iter: int = 0,
        iter_per_epoch: int = 0,
        stop_check_period: int = 0,
    ) -> None:
        if start_iter < 1 or log_period < 1:
            raise ValueError(f"start_iter and log_period are counted from 1, not {start_iter} and {log_period}")
        self.iteration = start_iter
        self.start_iter, self.log_period = start_iter, log_period
        self.max_iter, self.iter_per_epoch = max_iter, iter_per_epoch
        self.stop_check_period = stop_check_period or log_period
        self.images: list[tuple[str, np.ndarray]] = []
        self.evaluations: list[dict[str, float]] = []
        self.class_tables: dict[str, dict[str, list[Any]]] = {}
        self.loop_seconds = 0.0
        self.hook_seconds: dict[str, float] = {}
        self.non_finite: list[NonFinite] = []
        self.samples: deque[tuple[int, list[torch.Tensor]]] = deque(maxlen=log_period + 1)
        self.update_skipped = False
        self.inside_step = False
        self.resumed_inside_step = False
        self.failed = False
        self.evaluation_interrupted = False
        self.stop: StopRequest | None = None
        self._stop_request: StopRequest | None = None
        self._row: dict[str, Scalar] = {}
        self._rows: list[tuple[int, dict[str, Scalar]]] = []
        self._histories: dict[str, HistoryBuffer] = {}
        self._unsmoothed: set[str] = set()
        self._maximum: set[str] = {"data_time"}
        self._scope = ""
        # By window, until the next flush; each writer asks for the same.
        self._smoothed: dict[int, dict[str, float]] = {}
        self._world_size = comm.get_world_size()

    # ------------------------------------------------------------------ position
    @property
    def iter(self) -> int:
        """The update that is running, 1-based."""
        return self.iteration

    @property
    def epoch(self) -> int:
        """The epoch that is running, 1-based."""
        return (self.iteration - 1) // self.iter_per_epoch + 1 if self.iter_per_epoch else 1

    @property
    def epoch_progress(self) -> float:
        """Epochs done after this update, as a fraction."""
        return round(self.iteration / self.iter_per_epoch, 4) if self.iter_per_epoch else 0.0

    @property
    def starts_epoch(self) -> bool:
        """Whether this update is the first of an epoch."""
        return bool(self.iter_per_epoch) and (self.iteration - 1) % self.iter_per_epoch == 0

    @property
    def ends_epoch(self) -> bool:
        """Whether this update is the last of an epoch."""
        return bool(self.iter_per_epoch) and self.iteration % self.iter_per_epoch == 0

    @property
    def is_log_step(self) -> bool:
        """Whether values are flushed and written after this update: first, last, and every ``log_period``."""
        return self.iteration % self.log_period == 0 or self.iteration in (1, self.max_iter)

    def is_due(self, *periods: int) -> bool:
        """Whether something done every so many updates (0: only at the end) is due after this one."""
        iteration = self.iteration
        for period in periods:
            if period and iteration % period == 0:
                return True
        return iteration == self.max_iter

    @property
    def last_update(self) -> int:
        """The last update that the optimizer has made; 0 before the first."""
        return self.iteration if self.inside_step else self.iteration - 1

    def step(self) -> None:
        """Close the update; the loop calls it after all hooks."""
        if self._row:
            self._rows.append((self.iteration, self._row))
            self._row = {}
        self.evaluations.clear()
        self.images.clear()
        self.class_tables = {}
        self.inside_step = False
        self.iteration += 1

    def samples_of(self, iteration: int) -> list[int]:
        """Ids of the samples this rank used in a recent update; empty if that is longer ago than the log period."""
        return [int(i) for at, parts in self.samples if at == iteration for ids in parts for i in ids]

    # ------------------------------------------------------------------- scalars
    def put_scalar(self, name: str, value: Scalar, smoothing_hint: bool = True) -> None:
        """Record a scalar of this update; a tensor (detached, one element) is not brought to the host yet."""
        if self._scope:
            name = self._scope + name
        if not smoothing_hint:
            self._unsmoothed.add(name)
        self._row[name] = value

    def put_scalars(self, *, smoothing_hint: bool = True, **values: Scalar) -> None:
        """Record several scalars."""
        for name, value in values.items():
            self.put_scalar(name, value, smoothing_hint)

    def put_evaluation(self, results: dict[str, float], class_tables: dict[str, dict[str, list[Any]]] | None = None) -> None:
        """Record the results of an evaluation after this update, named ``<data set>/<metric>``; percentages are 0-100.

        Args:
            results: the numbers.
            class_tables: columns of numbers of each class, named ``<data set>/<kind>``.
        """
        self.evaluations.append(results)
        self.class_tables |= class_tables or {}

    def put_image(self, name: str, image: np.ndarray) -> None:
        """Keep a picture of this update for the writers. ``image``: (H, W, 3) uint8, RGB."""
        self.images.append((self._scope + name, image))

    @contextmanager
    def name_scope(self, name: str) -> Iterator[None]:
        """Put ``name/`` before the names recorded inside."""
        outer, self._scope = self._scope, f"{self._scope}{name}/"
        try:
            yield
        finally:
            self._scope = outer

    def flush(self) -> None:
        """Bring everything recorded since the last flush to the host. Called by all ranks at the same update."""
        rows = [*self._rows, (self.iteration, self._row)] if self._row else self._rows
        self._rows, self._row = [], {}
        if not rows:
            return
        self._smoothed = {}
        by_rank = comm.all_gather(_to_host(rows))
        for rank, columns in enumerate(by_rank):
            self._note_non_finite(rank, columns)
        for name, column in by_rank[0].items():
            others = [columns[name] for columns in by_rank[1:] if name in columns]
            reduced = _reduce([column, *others], name in self._maximum) if others else column
            self._history_of(name).extend(reduced.values(), reduced.keys())

    def _note_non_finite(self, rank: int, columns: Columns) -> None:
        bad: dict[int, list[str]] = {}
        for name, column in columns.items():
            if "loss" in name and not all(map(math.isfinite, column.values())):
                for iteration in (i for i, value in column.items() if not math.isfinite(value)):
                    bad.setdefault(iteration, []).append(name)
        self.non_finite += [NonFinite(iteration, rank, tuple(bad[iteration])) for iteration in sorted(bad)]

    def forget_non_finite(self) -> None:
        """Take NaN and infinite values out of the log, after the weights that made them are gone."""
        self.non_finite.clear()
        self._smoothed = {}
        for name, history in list(self._histories.items()):
            kept = [pair for pair in history.values() if math.isfinite(pair[0])]
            if len(kept) < len(history):
                del self._histories[name]
            if 0 < len(kept) < len(history):
                self._history_of(name).extend(*zip(*kept, strict=True))

    def _history_of(self, name: str) -> HistoryBuffer:
        if name not in self._histories:
            self._histories[name] = HistoryBuffer(self.log_period)
        return self._histories[name]

    def history(self, name: str) -> HistoryBuffer:
        """The kept values of a scalar; ``KeyError`` if it was never flushed."""
        if name not in self._histories:
            raise KeyError(f"no scalar '{name}' was recorded; there are {', '.join(sorted(self._histories)) or 'none'}")
        return self._histories[name]

    def histories(self) -> dict[str, HistoryBuffer]:
        """All histories by name."""
        return self._histories

    def latest(self) -> dict[str, float]:
        """The newest flushed value of every scalar."""
        return {name: history.latest() for name, history in self._histories.items()}

    def latest_with_smoothing_hint(self, window: int | None = None) -> dict[str, float]:
        """The newest values; the median of the last ``window`` (default: the log period) where smoothing was asked for."""
        window = window or self.log_period
        if window not in self._smoothed:
            self._smoothed[window] = {
                name: history.latest() if name in self._unsmoothed else history.median(window)
                for name, history in self._histories.items()
            }
        return dict(self._smoothed[window])

    # ---------------------------------------------------------------------- stop
    def request_stop(self, reason: str, status: int = 0, *, by_all_ranks: bool = False) -> None:
        """Ask for the end of the run at a step boundary; the first reason counts.

        Args:
            reason: the last line of the log.
            status: exit status of the script, e.g. 143 after SIGTERM.
            by_all_ranks: every rank makes this request at the same place, so nothing has to be agreed.
        """
        request = StopRequest(reason, status)
        self._stop_request = self._stop_request or request
        if by_all_ranks:
            # Not the rank's own earlier request: a signal that reached one rank only would give the ranks different ends.
            self.stop = self.stop or request

    @property
    def stop_requested(self) -> bool:
        """Whether this rank was asked to stop (not yet agreed with the others)."""
        return self._stop_request is not None

    def settle_stop(self) -> None:
        """Let the ranks agree whether to stop after this update; sets ``stop``. The loop calls it on every rank."""
        if self.stop is not None:
            return
        if self._world_size == 1:
            self.stop = self._stop_request
        elif self.iteration % self.stop_check_period == 0:
            self.agree_stop()

    def agree_stop(self) -> StopRequest | None:
        """Exchange the requests of all ranks; the one of the lowest rank counts. Called by every rank."""
        if comm.agree_max(int(self.stop_requested)):
            requests = [request for request in comm.all_gather(self._stop_request) if request is not None]
            self.stop = requests[0]
        return self.stop

    # --------------------------------------------------------------------- state
    def state_dict(self) -> dict[str, Any]:
        """Flushed values and the position; call ``flush`` first."""
        return {
            "inside_step": self.inside_step,
            "histories": {name: [list(pair) for pair in h.values()] for name, h in self._histories.items()},
            "unsmoothed": sorted(self._unsmoothed),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the values; the position is given to the constructor."""
        self.resumed_inside_step = state["inside_step"]
        self._unsmoothed = set(state["unsmoothed"])
        self._histories, self._smoothed = {}, {}
        for name, pairs in state["histories"].items():
            for value, iteration in pairs:
                self._history_of(name).update(value, iteration)

    def __enter__(self) -> EventStorage:
        mark_started("training")
        _STACK.append(self)
        return self

    def __exit__(self, *exc: object) -> None:
        _STACK.remove(self)


# Scalar name to update to value.
Columns = dict[str, dict[int, float]]


def _to_host(rows: list[tuple[int, dict[str, Scalar]]]) -> Columns:
    """The values of each scalar as floats; all tensors of one device travel together."""
    columns: dict[str, dict[int, Any]] = {}
    by_device: dict[torch.device, list[tuple[str, int]]] = {}
    for iteration, row in rows:
        for name, value in row.items():
            if name not in columns:
                columns[name] = {}
            if isinstance(value, torch.Tensor):
                by_device.setdefault(value.device, []).append((name, iteration))
                columns[name][iteration] = value
            else:
                columns[name][iteration] = float(value)
    for places in by_device.values():
        values = [columns[name][iteration] for name, iteration in places]
        for (name, iteration), number in zip(places, _stack(values).tolist(), strict=True):
            columns[name][iteration] = number
    return columns


def _stack(values: list[torch.Tensor]) -> torch.Tensor:
    """One-element tensors as one float tensor, (N,)."""
    return torch.stack([value if value.dim() == 0 else value.reshape(()) for value in values]).detach().float()


def _reduce(columns: list[dict[int, float]], maximum: bool) -> dict[int, float]:
    """Mean or maximum over the ranks for each update of the first."""
    reduced = {}
    for iteration in columns[0]:
        values = [column[iteration] for column in columns if iteration in column]
        reduced[iteration] = max(values) if maximum else math.fsum(values) / len(values)
    return reduced


def write_metrics(metrics: Mapping[str, Scalar], storage: EventStorage) -> None:
    """Record the losses and metrics of an update without waiting for the device.

    ``data_time`` is reduced over the ranks by maximum, everything else by mean.
    """
    storage._row.update(metrics)
