"""SampleIds: what every update was computed from, short enough to compare two runs."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256

from pet.engine.events import EventStorage
from pet.engine.hooks.base import Hook, Phase
from pet.utils import comm
from pet.utils.logger import LOGGER


def hash_of_ids(ids: Iterable[int]) -> str:
    """16 hex digits that are the same for the same samples in any order, so also for any number of processes."""
    return sha256(",".join(map(str, sorted(ids))).encode()).hexdigest()[:16]


class SampleIds(Hook):
    """Writes to the log file, for every update, how many samples it had on all processes and a hash of their ids.

    The ids are gathered on log steps, once for all updates since the last one.
    """

    phase = Phase.WRITE

    def __init__(self) -> None:
        self._logged = 0

    def after_step(self, storage: EventStorage) -> None:
        """Log on log steps."""
        if storage.is_log_step:
            self._log(storage)

    def after_train(self, storage: EventStorage) -> None:
        """Log what a stop between two log steps left; after a failure the other ranks may be gone."""
        if not storage.failed:
            self._log(storage)

    def _log(self, storage: EventStorage) -> None:
        updates = [update for update, _ in storage.samples if self._logged < update <= storage.iteration]
        if not updates:
            return
        self._logged = updates[-1]
        by_rank = comm.gather([storage.samples_of(update) for update in updates])
        for place, update in enumerate(updates if by_rank else ()):
            ids = [i for part in by_rank for i in part[place]]
            LOGGER.debug(f"update {update}: {len(ids)} samples, hash {hash_of_ids(ids)}")
