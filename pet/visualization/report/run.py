"""What the folder of a run holds, read for its report. Nothing of it has to exist."""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pet.config import ConfigError
from pet.config.loader import load_text
from pet.utils.metrics_file import Row, read_rows

_TIME = "%Y-%m-%d %H:%M:%S"
_RECORD = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),\d+ (DEBUG|INFO|WARNING|ERROR|CRITICAL) (.*)")
_TROUBLE = ("WARNING", "ERROR", "CRITICAL")
_LONGEST_TEXT, _MOST_LINES = 4000, 200
# A run has at least one of them.
_OF_A_RUN = ("config.yaml", "metrics.json", "run.json", "log", "test")


@dataclass(frozen=True)
class Trouble:
    """A warning or an error of a log.

    Attributes:
        first: date and time.
        level: WARNING, ERROR or CRITICAL.
        text: the message.
        times: how often it came.
    """

    first: str
    level: str
    text: str
    times: int


@dataclass
class Run:
    """The files of a run as values.

    Attributes:
        folder: of the run.
        starts: of ``run.json``, the oldest first.
        rows: of ``metrics.json``.
        best, classes, test: content of ``best.json``, ``classes.json`` and ``test/metrics.json``; empty without the file.
        config: text of ``config.yaml``.
        troubles: warnings and errors of the logs of these starts.
        unreadable: what could not be read, and why.
    """

    folder: Path
    starts: list[dict[str, Any]] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=dict)
    classes: dict[str, Any] = field(default_factory=dict)
    test: dict[str, Any] = field(default_factory=dict)
    config: str = ""
    troubles: list[Trouble] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    @property
    def start(self) -> dict[str, Any]:
        """The newest start; empty without ``run.json``."""
        return self.starts[-1] if self.starts else {}

    @property
    def settings(self) -> dict[str, Any]:
        """The values of ``config.yaml``; empty if it is missing or damaged."""
        try:
            return load_text(self.config, "config.yaml").data
        except ConfigError:
            return {}

    def setting(self, key: str) -> Any:
        """The value of a config key, ``None`` if there is none."""
        value: Any = self.settings
        for name in key.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        return value

    @property
    def evaluations(self) -> list[Row]:
        """Rows with results."""
        return [row for row in self.rows if row.get("eval")]

    def images_per_second(self) -> float | None:
        """Training pictures of all processes in a second: the batch over the median time of an update."""
        times = [row["time"] for row in self.rows if isinstance(row.get("time"), int | float) and row["time"] > 0]
        batch = self.setting("TRAIN.BATCH_SIZE")
        return batch / statistics.median(times) if times and isinstance(batch, int) else None

    def seconds(self) -> float | None:
        """Time of training of all starts; of one that was not closed until its last sign of life."""
        found = [self._seconds_of(start) for start in self.starts]
        known = [seconds for seconds in found if seconds is not None]
        return sum(known) if known else None

    def _seconds_of(self, start: dict[str, Any]) -> float | None:
        if isinstance(start.get("seconds"), int | float):
            return float(start["seconds"])
        signs = [path.stat().st_mtime for path in (self.folder / str(start.get("log", "")),) if path.is_file()]
        try:
            begin = time.mktime(time.strptime(str(start["started"]), _TIME))
        except (KeyError, ValueError):
            return None
        return max(signs[0] - begin, 0.0) if signs else None

    def status(self) -> tuple[str, str]:
        """One of finished, stopped, failed, running, killed, tested, empty; and a sentence about it."""
        start = self.start
        if not start:
            return self._status_without_record()
        if "status" in start:
            return str(start["status"]), str(start.get("reason", ""))
        if start.get("host") != platform.node():
            return "running", f"or killed: it runs on {start.get('host')}, which cannot be asked from here"
        alive = _lives(start.get("pid"))
        return ("running", f"process {start.get('pid')}") if alive else ("killed", "the process ended without closing the run")

    def _status_without_record(self) -> tuple[str, str]:
        finished = _read_json(self.folder / "finished.json", [])
        if finished:
            return "finished", str(finished.get("reason", ""))
        if self.rows:
            return "running", "or killed: the run has no run.json"
        return ("tested", "nothing was trained in this folder") if self.test else ("empty", "there is nothing to report yet")

    def pictures(self) -> list[Path]:
        """Pictures of the training, then of the test."""
        return [path for place in ("vis", "test/vis") for path in sorted((self.folder / place).rglob("*")) if _is_picture(path)]


def read_run(folder: str | Path) -> Run:
    """Read the folder of a run.

    Raises:
        FileNotFoundError: there is no such folder, or it holds nothing of a run.
    """
    run = Run(Path(folder))
    if not run.folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder; name the folder of a run (MISC.CKPT)")
    if not any((run.folder / name).exists() for name in _OF_A_RUN):
        raise FileNotFoundError(
            f"no files of a run in {folder} (none of {', '.join(_OF_A_RUN)}); name the folder of a run (MISC.CKPT)"
        )
    starts = _read_json(run.folder / "run.json", run.unreadable).get("starts", [])
    run.starts = [start for start in starts if isinstance(start, dict)] if isinstance(starts, list) else []
    run.best = _read_json(run.folder / "best.json", run.unreadable)
    run.classes = _read_json(run.folder / "classes.json", run.unreadable)
    run.test = _read_json(run.folder / "test" / "metrics.json", run.unreadable)
    if (run.folder / "metrics.json").is_file():
        try:
            run.rows = read_rows(run.folder / "metrics.json")
        except ValueError as error:
            run.unreadable.append(str(error))
    if (run.folder / "config.yaml").is_file():
        run.config = (run.folder / "config.yaml").read_text(encoding="utf-8", errors="replace")
    run.troubles = _troubles(_logs(run))
    return run


def _logs(run: Run) -> list[Path]:
    """Logs of the recorded starts, and of tests since the first of them; all logs without a record.

    The folder may hold logs of earlier runs, too. Names are ``<mode>_<date and time>_<pid>.txt``.
    """
    logs = sorted((run.folder / "log").glob("*.txt"))
    own = [Path(str(start["log"])).name for start in run.starts if start.get("log")]
    if not own:
        return logs
    first = own[0].partition("_")[2]
    return [log for log in logs if log.name in own or (log.name.startswith("test_") and log.name.partition("_")[2] > first)]


def _read_json(path: Path, unreadable: list[str]) -> dict[str, Any]:
    """An object of a JSON file; empty if there is none, and damage is told."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        unreadable.append(f"{path.name}: {error}")
        return {}
    if not isinstance(content, dict):
        unreadable.append(f"{path.name}: not a JSON object")
        return {}
    return content


def _lives(pid: Any) -> bool:
    """Whether a process of this machine is there."""
    try:
        os.kill(int(pid), 0)
    except PermissionError:
        return True
    except (OSError, TypeError, ValueError):
        return False
    return True


def _is_picture(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp")


def _troubles(logs: list[Path]) -> list[Trouble]:
    """Warnings and errors; equal ones are counted."""
    first: dict[tuple[str, str], str] = {}
    times: Counter[tuple[str, str]] = Counter()
    for log in logs:
        for moment, level, text in _records(log):
            times[level, text] += 1
            first.setdefault((level, text), moment)
    return [Trouble(moment, *key, times[key]) for key, moment in first.items()][:_MOST_LINES]


def _records(log: Path) -> Iterator[tuple[str, str, str]]:
    """Time, level and text of the warnings and errors of a log; a record may have several lines."""
    moment, level, lines = "", "", list[str]()
    with open(log, encoding="utf-8", errors="replace") as handle:
        for line in handle:
            match = _RECORD.match(line)
            if match is None:
                lines.append(line.rstrip("\n")) if len(lines) < _MOST_LINES else None
                continue
            if level in _TROUBLE:
                yield moment, level, "\n".join(lines)[:_LONGEST_TEXT]
            moment, level, lines = match[1], match[2], [match[3]]
    if level in _TROUBLE:
        yield moment, level, "\n".join(lines)[:_LONGEST_TEXT]
