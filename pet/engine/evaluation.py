"""The evaluation loop: every sample once, one gather, the same result on every rank."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from pet.engine.parallel import gathered
from pet.utils import comm
from pet.utils.module import eval_mode
from pet.utils.rng import get_rng_state, set_rng_state

# Columns of equal length by title, ``class`` (names) first; by ``<data set>/<kind>``.
ClassTables = dict[str, dict[str, list[Any]]]


class Evaluator(Protocol):
    """What a metric offers; see ``pet.evaluation.evaluator``."""

    def reset(self) -> None: ...

    def process(self, inputs: Any, outputs: Any) -> None: ...

    def evaluate(self) -> dict[str, float]: ...


class Visualizer(Protocol):
    """Draws pictures of some samples."""

    def process(self, inputs: Any, outputs: Any) -> None: ...

    def pictures(self) -> dict[str, np.ndarray]: ...


@contextmanager
def inference_mode_of(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; modes of all modules and the random generators are restored afterwards."""
    state = get_rng_state()
    try:
        with eval_mode(model), torch.inference_mode():
            yield
    finally:
        set_rng_state(state)


def run_evaluation(
    model: nn.Module,
    loader: Any,
    evaluator: Evaluator,
    forward_test: Callable[[nn.Module, Any], Any],
    *,
    device: torch.device | str = "cpu",
    amp_dtype: torch.dtype | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    visualizer: Visualizer | None = None,
    share_buffers: bool = True,
) -> dict[str, float] | None:
    """Evaluate ``model`` on this rank's part of the data; every rank calls it.

    A sharded model is gathered for it, so that the parts may be of different length, or empty.

    Args:
        share_buffers: measure with the buffers of rank 0, which a checkpoint holds, on every rank.

    Returns:
        The metrics, equal on all ranks, or ``None`` when a rank was asked to stop.
    """
    device = torch.device(device)
    bare = comm.unwrap(model)
    comm.meet("run_evaluation")
    if share_buffers:
        comm.broadcast_buffers(model)
    evaluator.reset()
    autocast = torch.autocast(device.type, dtype=amp_dtype) if amp_dtype is not None else nullcontext()
    with gathered(bare), inference_mode_of(bare):
        for batch in loader:
            if should_stop():
                break
            with autocast:
                outputs = forward_test(bare, batch.to(device, non_blocking=True))
            evaluator.process(batch, outputs)
            if visualizer is not None:
                visualizer.process(batch, outputs)
    if comm.agree_max(int(should_stop())):
        return None
    return dict(comm.broadcast(evaluator.evaluate(), patient=True))


@dataclass
class EvaluationSet:
    """One data set to evaluate on."""

    name: str
    loader: Any
    evaluator: Evaluator
    make_visualizer: Callable[[], Visualizer] | None = None


def results_text(results: Mapping[str, float]) -> str:
    """Results named ``<data set>/<metric>`` as text, by data set: ``val: top1 50, top5 90; test: top1 48``."""
    groups: dict[str, list[str]] = {}
    for name, value in results.items():
        dataset, _, metric = name.rpartition("/")
        groups.setdefault(dataset, []).append(f"{metric} {value:.4g}")
    return "; ".join(f"{dataset}: {', '.join(texts)}" for dataset, texts in groups.items())


def class_tables_of(evaluator: Any, name: str) -> ClassTables:
    """What an evaluator found for each class as plain values; empty where it tells nothing, and on ranks other than 0."""
    tables: dict[str, Any] = getattr(evaluator, "class_tables", dict)() if comm.is_main_process() else {}
    return {f"{name}/{kind}": numbers.plain() for kind, numbers in tables.items()}


class Evaluation:
    """Evaluates a model on several data sets; results are named ``<data set>/<metric>``.

    Args:
        model: wrapped or not.
        sets: the data sets.
        forward_test: ``(model, batch) -> outputs`` of the domain.
        device, amp_dtype, share_buffers: as for ``run_evaluation``.

    Attributes:
        class_tables: after a call on rank 0, columns of numbers of each class, named ``<data set>/<kind>``.
    """

    def __init__(
        self,
        model: nn.Module,
        sets: Sequence[EvaluationSet],
        forward_test: Callable[[nn.Module, Any], Any],
        device: torch.device | str,
        amp_dtype: torch.dtype | None = None,
        share_buffers: bool = True,
    ) -> None:
        self.model, self.sets, self._share_buffers = model, list(sets), share_buffers
        self._forward_test, self._device, self._amp_dtype = forward_test, device, amp_dtype
        self.class_tables: ClassTables = {}

    def __call__(
        self, should_stop: Callable[[], bool] = lambda: False, *, pictures: bool = False
    ) -> tuple[dict[str, float], list[tuple[str, np.ndarray]]] | None:
        """Results and, if asked for, named pictures; ``None`` when a rank was asked to stop."""
        results: dict[str, float] = {}
        drawn: list[tuple[str, np.ndarray]] = []
        self.class_tables = {}
        for part in self.sets:
            visualizer = part.make_visualizer() if pictures and part.make_visualizer is not None else None
            metrics = run_evaluation(
                self.model,
                part.loader,
                part.evaluator,
                self._forward_test,
                device=self._device,
                amp_dtype=self._amp_dtype,
                should_stop=should_stop,
                visualizer=visualizer,
                share_buffers=self._share_buffers,
            )
            if metrics is None:
                return None
            results.update({f"{part.name}/{name}": value for name, value in metrics.items()})
            self.class_tables |= class_tables_of(part.evaluator, part.name)
            if visualizer is not None:
                drawn += [(f"{part.name}/{name}", picture) for name, picture in visualizer.pictures().items()]
        return results, drawn
