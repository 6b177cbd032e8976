"""What every rank is doing, in a few bytes that its launcher reads once the ranks stop answering one another.

A collective that misses a rank ends with an error on the ranks that wait, and that error cannot say what the missing one is
doing. So each rank keeps its place in the training loop in a file that it has mapped into memory: a step costs some stores
and no system call, and the file can be read whatever happened to its writer.
"""

from __future__ import annotations

import faulthandler
import mmap
import os
import signal
import struct
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from pet.utils.env import process_state

FOLDER = "PET_HEARTBEAT"  # environment variable: a folder of this launcher
_DUMP_S = 0.3
# Positions in the numbers; behind them the names of the places, a line each.
PLACE, UPDATE, SINCE, _PATIENCE, _PID = range(5)
_NUMBERS = struct.Struct("=5d")


def open_pulse(places: Sequence[str], patience_s: float) -> memoryview[float]:
    """The numbers in which a rank keeps its place: set ``PLACE``, ``UPDATE`` and ``SINCE`` (of ``time.perf_counter``).

    Args:
        places: names; ``PLACE`` counts them from 0 and begins with the last one.
        patience_s: seconds after which a collective that misses a rank fails.

    Returns:
        Memory that the launcher can read, or that of this process if no launcher asked for it.
    """
    numbers = (len(places) - 1.0, 0.0, time.perf_counter(), patience_s, float(os.getpid()))
    content, folder = _NUMBERS.pack(*numbers), os.environ.get(FOLDER)
    if not folder:
        return memoryview(bytearray(content)).cast("d")
    path = Path(folder, f"heartbeat_{os.environ.get('LOCAL_RANK', '0')}")
    path.write_bytes(content + "\n".join(places).encode())
    with open(path, "r+b") as file:
        return memoryview(mmap.mmap(file.fileno(), len(content))).cast("d")


class Heartbeat(NamedTuple):
    """Where a process was last.

    Attributes:
        place: name of the place.
        update: number of the update, 0 before the first.
        seconds: since when, until now.
        patience_s: as for ``open_pulse``.
    """

    place: str
    update: int
    seconds: float
    patience_s: float

    def __str__(self) -> str:
        update = f" of update {self.update}" if self.update else ""
        return f"in {self.place}{update} for {self.seconds:.0f} s"


def read_pulse(folder: str | Path, local_rank: int, pid: int) -> Heartbeat | None:
    """The heartbeat of a process of this machine; ``None`` if it has not opened its pulse."""
    try:
        content = Path(folder, f"heartbeat_{local_rank}").read_bytes()
    except FileNotFoundError:
        return None
    if len(content) < _NUMBERS.size:  # just being made
        return None
    place, update, since, patience_s, writer = _NUMBERS.unpack_from(content)
    if int(writer) != pid:  # of the process before a restart
        return None
    names = content[_NUMBERS.size :].decode().split("\n")
    return Heartbeat(names[int(place)], int(update), time.perf_counter() - since, patience_s)


def describe_silent(folder: str | Path, pids: Mapping[int, int], first_rank: int = 0) -> list[str]:
    """A line for every living process that others waited for in vain; it ends, and prints its stacks if it is not stopped.

    Args:
        folder: what ``FOLDER`` named.
        pids: process ids by local rank.
        first_rank: rank of local rank 0.
    """
    lines = []
    for local_rank, pid in pids.items():
        beat = read_pulse(folder, local_rank, pid)
        # The ranks that wait arrive some time after the missing one has stopped, or a little earlier.
        if beat is None or beat.seconds < beat.patience_s / 2:
            continue
        stopped = process_state(pid) in ("T", "t")
        lines.append(f"rank {first_rank + local_rank} does not answer: {beat}{', stopped by a signal' if stopped else ''}")
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL if stopped else signal.SIGQUIT)
    if lines:
        time.sleep(_DUMP_S)
    return lines


def print_stack_on_quit() -> None:
    """SIGQUIT, which a rank that does not answer gets from the launcher, prints the stacks before it ends the process."""
    if hasattr(faulthandler, "register"):
        faulthandler.register(signal.SIGQUIT, chain=True)
