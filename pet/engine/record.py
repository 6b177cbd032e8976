"""``run.json``: the starts of a run, what each ran on, and how it ended. The report is made of it."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pet.utils import comm
from pet.utils.files import atomic_json

FILE = "run.json"
_TIME = "%Y-%m-%d %H:%M:%S"


def open_record(folder: Path, values: Mapping[str, Any]) -> None:
    """Add a start to the record; rank 0 writes.

    Args:
        folder: of the run. Without a checkpoint in it, an earlier record is not of this run and is replaced.
        values: plain values that describe the start.
    """
    if not comm.is_main_process():
        return
    earlier = read_starts(folder) if any(folder.glob("model_*.pth")) else []
    here = {"started": time.strftime(_TIME), "host": platform.node(), "pid": os.getpid()}
    atomic_json(folder / FILE, {"starts": [*earlier, {**here, **values}]})


def close_record(folder: Path, values: Mapping[str, Any]) -> None:
    """Add to the last start how it ended; rank 0 writes. Without a record nothing is done."""
    if not comm.is_main_process():
        return
    starts = read_starts(folder)
    if starts:
        starts[-1] |= {"ended": time.strftime(_TIME), **values}
        atomic_json(folder / FILE, {"starts": starts})


def read_starts(folder: Path) -> list[dict[str, Any]]:
    """The starts of a run, oldest first; none if the file is missing or damaged."""
    try:
        starts = json.loads((folder / FILE).read_text(encoding="utf-8"))["starts"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [start for start in starts if isinstance(start, dict)] if isinstance(starts, list) else []
