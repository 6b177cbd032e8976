"""Profiler: a trace of a few updates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pet.engine.events import EventStorage
from pet.engine.hooks.base import Hook, Phase
from pet.utils.logger import logging_rank


class Profiler(Hook):
    """Records updates ``start`` to ``start + num - 1`` with ``torch.profiler`` on rank 0 (chrome://tracing, Perfetto).

    Args:
        folder: the trace is written there.
        start, num: which updates.
        device_type: ``cuda`` also records kernels.
    """

    phase = Phase.TIMING

    def __init__(self, folder: str | Path, start: int, num: int, device_type: str = "cpu") -> None:
        self._folder, self._first, self._last = Path(folder), start, start + num - 1
        self._device_type = device_type
        self._profile: Any = None

    def before_step(self, storage: EventStorage) -> None:
        """Start at the first update to record."""
        if storage.iteration == self._first:
            from torch.profiler import ProfilerActivity, profile

            activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if self._device_type == "cuda" else [])
            self._profile = profile(activities=activities)
            self._profile.start()

    def after_step(self, storage: EventStorage) -> None:
        """Write after the last one."""
        if self._profile is not None and storage.iteration >= self._last:
            self._write()

    def after_train(self, storage: EventStorage) -> None:
        """Write what there is if the run ended early."""
        if self._profile is not None:
            self._write()

    def _write(self) -> None:
        self._profile.stop()
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"updates_{self._first}-{self._last}.json"
        self._profile.export_chrome_trace(str(path))
        self._profile = None
        logging_rank(f"Profile of updates {self._first} to {self._last}: {path}")
