"""How fast a run was, from its metrics.json."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median, pstdev

from pet.config.loader import load_file
from pet.utils.metrics_file import Row


@dataclass(frozen=True)
class RunTimes:
    """Seconds of updates.

    Attributes:
        rows: log rows that were read.
        updates: the last update.
        mean, median: seconds of an update, its data included.
        data_share: share of the time that was spent waiting for data, 0 to 1.
        epochs: mean seconds of an update, by epoch (from 1).
        batch: pictures of an update; 0 if unknown.
    """

    rows: int
    updates: int
    mean: float
    median: float
    data_share: float
    epochs: dict[int, float]
    batch: int = 0

    def describe(self) -> str:
        """The numbers as lines."""
        slow, fast = max(self.epochs, key=self.epochs.__getitem__), min(self.epochs, key=self.epochs.__getitem__)
        lines = [
            f"{self.updates:,} updates, {self.rows:,} log rows",
            f"an update          mean {self.mean:.4g} s, median {self.median:.4g} s",
            f"waiting for data   {100 * self.data_share:.1f} % of the time",
            f"slowest epoch      {slow}: {self.epochs[slow]:.4g} s an update",
            f"fastest epoch      {fast}: {self.epochs[fast]:.4g} s an update",
            f"between epochs     standard deviation {pstdev(self.epochs.values()):.2g} s",
        ]
        if self.batch:
            lines.append(f"speed              {self.batch / self.median:.5g} images/s ({self.batch} an update)")
        return "\n".join(lines)


def run_times(rows: Sequence[Row], batch: int = 0, skip_first: bool = False) -> RunTimes:
    """Summarise the rows of a run.

    Args:
        rows: of ``pet.utils.metrics_file.read_rows``; each has the median over the updates since the row before.
        batch: pictures of an update.
        skip_first: leave out the first row, which holds the start of the loader's workers.

    Raises:
        ValueError: no row has ``time``.
    """
    timed = [row for row in rows if row.get("time")][1 if skip_first else 0 :]
    if not timed:
        raise ValueError("no row has 'time', the seconds of an update; was anything trained?")
    times = [float(row["time"]) for row in timed]
    epochs: dict[int, list[float]] = defaultdict(list)
    for row in timed:
        epochs[max(math.ceil(row["epoch"]), 1)].append(float(row["time"]))
    waited = sum(float(row.get("data_time") or 0.0) for row in timed)
    means = {epoch: fmean(values) for epoch, values in epochs.items()}
    return RunTimes(len(timed), rows[-1]["iteration"], fmean(times), median(times), waited / sum(times), means, batch)


def batch_of_run(folder: Path) -> int:
    """TRAIN.BATCH_SIZE in the config.yaml of a run; 0 without one."""
    path = folder / "config.yaml"
    if not path.is_file():
        return 0
    return int(load_file(path).data["TRAIN"]["BATCH_SIZE"])
