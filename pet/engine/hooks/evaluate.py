"""Evaluate, Best and EarlyStopping: measuring during training and acting on the result."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from pet.engine import checkpoint_file
from pet.engine.checkpointer import CheckPointer
from pet.engine.evaluation import results_text
from pet.engine.events import EventStorage
from pet.engine.hooks.base import Hook, Phase
from pet.utils import comm
from pet.utils.files import atomic_json
from pet.utils.logger import logging_rank


class RunsEvaluation(Protocol):
    """What Evaluate calls: ``pet.engine.evaluation.Evaluation``."""

    def __call__(
        self, should_stop: Callable[[], bool], *, pictures: bool = False
    ) -> tuple[dict[str, float], list[tuple[str, Any]]] | None: ...


class Evaluate(Hook):
    """Runs the evaluation when due and records its results as ``<data set>/<metric>``, equal on all ranks.

    A signal during the evaluation ends it; its partial result is thrown away and the resumed run repeats it.

    Args:
        evaluation: returns results and pictures, or ``None`` if it was interrupted.
        period: updates between two evaluations; 0: only at the end.
        applied: a context in which other weights are measured, e.g. ``ema.applied(model)``.
        weights_name: which weights those are, for the log.
        pictures: draw pictures at the last evaluation.
    """

    phase = Phase.EVALUATE

    def __init__(
        self,
        evaluation: RunsEvaluation,
        period: int,
        applied: Callable[[], AbstractContextManager[Any]] = nullcontext,
        weights_name: str = "weights",
        pictures: bool = False,
    ) -> None:
        self._evaluation, self._period = evaluation, period
        self._applied, self._weights_name, self._pictures = applied, weights_name, pictures

    def after_step(self, storage: EventStorage) -> None:
        """Evaluate when due, unless the run is stopping."""
        if storage.stop is not None or not storage.is_due(self._period):
            return
        with self._applied():
            measured = self._evaluation(
                lambda: storage.stop_requested, pictures=self._pictures and storage.iteration == storage.max_iter
            )
        if measured is None:
            storage.evaluation_interrupted = True
            storage.agree_stop()
            return
        results, pictures = measured
        storage.put_evaluation(results, getattr(self._evaluation, "class_tables", {}))
        for name, picture in pictures:
            storage.put_image(name, picture)
        moment = f"after update {storage.iteration} (epoch {storage.epoch_progress:g})"
        logging_rank(f"Evaluation of the {self._weights_name} {moment}: {results_text(results)}")


def find_metric(results: dict[str, float], metric: str) -> float:
    """The value of ``metric`` (a full name, or one that a single result ends with); else ``KeyError`` listing what exists."""
    names = [name for name in results if name == metric or name.rpartition("/")[2] == metric]
    if metric in results:
        return results[metric]
    if not names:
        raise KeyError(f"EVAL.BEST.METRIC is '{metric}', but the evaluation returned {', '.join(sorted(results)) or 'nothing'}")
    return results[names[0]]


class Best(Hook):
    """Keeps the checkpoint with the best result as ``model_best.pth`` and its record in ``best.json``.

    Args:
        checkpointer: has saved this update already (phase SAVE).
        metric: name with or without its data set; without, the first data set decides.
        mode: ``max`` or ``min``.
    """

    phase = Phase.EVALUATE

    def __init__(self, checkpointer: CheckPointer, metric: str, mode: str = "max") -> None:
        self._checkpointer, self._metric, self._mode = checkpointer, metric, mode
        self.value: float | None = None
        self.iteration = 0

    def after_step(self, storage: EventStorage) -> None:
        """Compare a new result with the best one."""
        if not storage.evaluations:
            return
        value = find_metric(storage.evaluations[-1], self._metric)
        if not better(value, self.value, self._mode):
            return
        self.value, self.iteration = value, storage.iteration
        if comm.is_main_process():
            self._keep(storage.evaluations[-1])

    def _keep(self, results: dict[str, float]) -> None:
        folder, source = self._checkpointer.folder, self._checkpointer.last_path
        if source is None:
            raise RuntimeError(f"Best needs the checkpoint of update {self.iteration}, but none was saved; add a Checkpoint hook")
        record = {
            "metric": self._metric,
            "value": self.value,
            "iteration": self.iteration,
            "file": source.name,
            "results": dict(results),
        }

        def keep() -> None:
            checkpoint_file.keep_best(source, folder)
            atomic_json(folder / "best.json", record)
            text = f"Best {self._metric} so far: {record['value']:.4g} (update {record['iteration']})"
            logging_rank(f"{text}, kept as {checkpoint_file.BEST}")

        self._checkpointer.after_write(keep)

    def state_dict(self) -> dict[str, Any]:
        """The best result so far."""
        return {"value": self.value, "iteration": self.iteration}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore."""
        self.value, self.iteration = state["value"], state["iteration"]


def better(value: float, best: float | None, mode: str, delta: float = 0.0) -> bool:
    """Whether ``value`` improves on ``best`` by more than ``delta``; NaN never does."""
    if math.isnan(value):
        return False
    return best is None or (value > best + delta if mode == "max" else value < best - delta)


class EarlyStopping(Hook):
    """Ends the run after ``patience`` evaluations without improvement.

    Args:
        metric, mode: as for ``Best``.
        patience: evaluations.
        min_delta: smallest change that counts.
    """

    phase = Phase.EVALUATE

    def __init__(self, metric: str, mode: str = "max", patience: int = 5, min_delta: float = 0.0) -> None:
        self._metric, self._mode, self._patience, self._min_delta = metric, mode, patience, min_delta
        self.best: float | None = None
        self.waited = 0

    def after_step(self, storage: EventStorage) -> None:
        """Count evaluations without improvement."""
        if not storage.evaluations:
            return
        value = find_metric(storage.evaluations[-1], self._metric)
        if better(value, self.best, self._mode, self._min_delta):
            self.best, self.waited = value, 0
            return
        self.waited += 1
        if self.waited >= self._patience:
            storage.request_stop(
                f"{self._metric} did not improve on {self.best} in {self.waited} evaluations (EVAL.EARLY_STOPPING)",
                by_all_ranks=True,
            )

    def state_dict(self) -> dict[str, Any]:
        """Best result and evaluations since."""
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore."""
        self.best, self.waited = state["best"], state["waited"]
