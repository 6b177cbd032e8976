"""Logging: one logger, a file for the main process, short lines on the console."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress
from pathlib import Path

LOGGER = logging.getLogger("pet")
_seen: set[str] = set()
_SPELLED = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\t\n"}


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
    console.addFilter(_without_control_characters)
    LOGGER.addHandler(console)
    if path is not None and rank == 0:
        target: logging.Handler = _LogFile(path, encoding="utf-8")
        target.setLevel(logging.DEBUG)
        target.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        target.addFilter(_without_control_characters)
        LOGGER.addHandler(target)
    return LOGGER


class _LogFile(logging.FileHandler):
    """A log is no reason to end a run: a file that cannot be written any more is named once, then left alone until it can."""

    _told = False

    def handleError(self, record: logging.LogRecord) -> None:
        """Called in place of raising."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._told:
            self._told = True
            sys.stderr.write(f"cannot write {self.baseFilename}: {error.strerror}; the log is on the console only\n")

    def close(self) -> None:
        """Close; lines that found no space are lost."""
        with suppress(OSError):
            super().close()


def printable(text: str) -> str:
    """Text with its control characters spelled out, except tabs and line ends: names in files may hold codes of a terminal."""
    return text.translate(_SPELLED)


def _without_control_characters(record: logging.LogRecord) -> bool:
    """Filter that changes the record and keeps it."""
    record.msg, record.args = printable(record.getMessage()), ()
    return True


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
