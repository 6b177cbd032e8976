"""The only training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from time import perf_counter
from typing import Any

from pet.engine.events import EventStorage, Scalar, write_metrics
from pet.engine.hooks.base import Hook, HookList
from pet.utils.logger import logging_rank

AfterBackward = Callable[[EventStorage], None]
Step = Callable[[Any, AfterBackward, EventStorage], dict[str, Scalar]]


def run_loop(step: Step, loader: Iterable[Any], all_hooks: Sequence[Hook] | HookList, storage: EventStorage) -> None:
    """Run the updates ``storage.iteration`` to ``storage.max_iter``.

    Args:
        step: one update, usually a ``TrainStep``; it returns losses and metrics as scalars or one-element tensors.
        loader: endless windows of micro-batches that begin at ``storage.iteration``.
        all_hooks: hooks in any order; phases order them.
        storage: position, values and the request to stop. Epoch stages fire when ``storage.iter_per_epoch`` is set.
    """
    hooks = all_hooks if isinstance(all_hooks, HookList) else HookList(all_hooks)
    logging_rank("Hooks\n" + hooks.table())
    start = perf_counter()
    with hooks.running(storage):
        if storage.resumed_inside_step:
            _finish_saved_update(hooks, storage)
        windows = iter(loader)
        while storage.iteration <= storage.max_iter and storage.stop is None:
            if storage.starts_epoch:
                hooks.before_epoch(storage)
            hooks.before_step(storage)
            metrics = _run_update(step, windows, hooks, storage)
            write_metrics(metrics, storage)
            hooks.after_step(storage)
            _close_update(hooks, storage)
    seconds = perf_counter() - start
    storage.loop_seconds, storage.hook_seconds = seconds, hooks.times()
    logging_rank(f"Finished update {storage.last_update} in {seconds:.1f} s; time in hooks: {hooks.time_table(seconds)}")


def _run_update(step: Step, windows: Iterator[Any], hooks: HookList, storage: EventStorage) -> dict[str, Scalar]:
    start = perf_counter()
    window = next(windows, None)
    if window is None:
        raise RuntimeError(
            f"the training data ended before update {storage.iteration} of {storage.max_iter}; a loader must be endless"
        )
    data_time = perf_counter() - start
    metrics = step(window, hooks.after_backward, storage)
    metrics["data_time"] = data_time
    storage.inside_step = True
    return metrics


def _close_update(hooks: HookList, storage: EventStorage) -> None:
    """An update whose evaluation was interrupted stays open: its checkpoint says so and a resumed run finishes it."""
    if storage.evaluation_interrupted:
        return
    if storage.ends_epoch:
        hooks.after_epoch(storage)
    storage.step()


def _finish_saved_update(hooks: HookList, storage: EventStorage) -> None:
    """A checkpoint is taken inside its update; run what came after it: evaluation and writing."""
    storage.iteration -= 1
    storage.inside_step = True
    hooks.replay(storage)
    _close_update(hooks, storage)
