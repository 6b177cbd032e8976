"""Reading the metrics.json of a run: one JSON object a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def metrics_path(run: str | Path) -> Path:
    """The metrics.json of a run, named by its folder or by the file itself.

    Raises:
        FileNotFoundError: neither exists.
    """
    path = Path(run)
    if path.is_dir():
        path = path / "metrics.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; name the folder of a run (MISC.CKPT) or its metrics.json")
    return path


def read_rows(path: str | Path) -> list[Row]:
    """The rows by ascending update, one each; scalars and ``eval`` of an update are in the same row.

    A last line that a killed process left unfinished is ignored. Where a run was interrupted and went back to an earlier update,
    the rows from there on that it had written before are left out: what it wrote last counts.

    Raises:
        ValueError: another line is not a JSON object with ``iteration``.
    """
    rows: list[Row] = []
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            iteration = int(row["iteration"])
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines):
                break
            raise ValueError(f"{path}:{number}: not a JSON object with 'iteration': {line[:80]!r}") from error
        while rows and rows[-1]["iteration"] > iteration:
            rows.pop()
        if rows and rows[-1]["iteration"] == iteration:
            row = {**rows[-1], **row, "eval": {**(rows[-1].get("eval") or {}), **(row.get("eval") or {})}}
            rows.pop()
        rows.append(row)
    return rows
