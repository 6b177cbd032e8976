"""One function for every picture of a data set, on several processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from pet.data.worker import WorkerContext

State = TypeVar("State")
Result = TypeVar("Result")

_CHUNK = 8
# Function and data set of a worker process, which gets them once and then only indices.
_work: tuple[Callable[[Any, int], Any], Any] | None = None


def map_indices(function: Callable[[State, int], Result], state: State, count: int, processes: int = 1) -> Iterator[Result]:
    """``function(state, index)`` for every index below ``count``, in this order whatever the number of processes.

    Args:
        function: at module level.
        state: what all calls share, such as a data set.
        count: how many.
        processes: 1: this one.

    Raises:
        ValueError: fewer than one process.
        RuntimeError: a process died.
    """
    if processes < 1:
        raise ValueError(f"{processes} processes cannot work; at least 1 is needed")
    if processes == 1 or count < 2:
        yield from (function(state, index) for index in range(count))
        return
    pool = ProcessPoolExecutor(min(processes, count), WorkerContext(), _start, (function, state))
    try:
        with pool:
            yield from pool.map(_call, range(count), chunksize=_CHUNK)
    except BrokenProcessPool as error:
        raise RuntimeError(
            f"one of {processes} processes was killed, by the system for want of memory or by a fault in a decoder; use fewer "
            "(--nproc), or one, which shows the picture it happens at"
        ) from error


def _start(function: Callable[[Any, int], Any], state: Any) -> None:
    global _work
    _work = (function, state)


def _call(index: int) -> Any:
    assert _work is not None
    return _work[0](_work[1], index)
