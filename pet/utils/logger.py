"""Logging: one logger, a file for the main process, short lines on the console."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

LOGGER = logging.getLogger("pet")
_seen: set[str] = set()


def process_rank() -> int:
    """The rank of this process as its launcher states it (0 when there is none); works without torch."""
    return int(os.environ.get("RANK", "0") or 0)


def setup_logging(path: str | Path | None = None, level: int = logging.INFO) -> logging.Logger:
    """Send the ``pet`` logger to the console and, on rank 0, to the file ``path``.

    Other ranks print warnings and errors only, marked with their rank. Calling it again replaces the handlers.
    """
    rank = process_rank()
    for handler in list(LOGGER.handlers):
        LOGGER.removeHandler(handler)
        handler.close()
    LOGGER.setLevel(logging.DEBUG)
    LOGGER.propagate = False
    mark = "" if rank == 0 else f"[rank {rank}] "
    console = _console_handler(mark)
    console.setLevel(level if rank == 0 else logging.WARNING)
    LOGGER.addHandler(console)
    if path is not None and rank == 0:
        target = logging.FileHandler(path, encoding="utf-8")
        target.setLevel(logging.DEBUG)
        target.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        LOGGER.addHandler(target)
    return LOGGER


def _console_handler(mark: str) -> logging.Handler:
    """Coloured on a terminal; plain lines without control characters elsewhere."""
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.logging import RichHandler

        handler: logging.Handler = RichHandler(
            console=Console(file=sys.stdout), show_path=False, omit_repeated_times=False, log_time_format="%H:%M:%S"
        )
        handler.setFormatter(logging.Formatter(f"{mark}%(message)s"))
        return handler
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter(f"%(asctime)s {mark}%(message)s", datefmt="%H:%M:%S"))
    return handler


def logging_rank(message: str, level: int = logging.INFO) -> None:
    """Log on rank 0 only."""
    if process_rank() == 0:
        LOGGER.log(level, message)


def log_once(message: str, level: int = logging.WARNING) -> None:
    """Log a message the first time this process meets it."""
    if message not in _seen:
        _seen.add(message)
        LOGGER.log(level, message)


def log_file() -> str:
    """The file this process logs to; empty if there is none."""
    return next((h.baseFilename for h in LOGGER.handlers if isinstance(h, logging.FileHandler)), "")
