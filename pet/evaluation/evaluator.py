"""Evaluators: collect what a metric needs while a model runs over a data set, then compute it once.

Every process collects its own images. ``evaluate`` is called on every process; it gathers to rank 0 in one
collective, checks that each image of the data set arrived exactly once, and computes there. Nothing is padded and
predictions are sorted by image id first, so the result does not depend on the number of processes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pet.evaluation.tables import ClassNumbers
from pet.utils import comm

# One entry a prediction and name: an array whose first axis counts images, or a list.
Columns = dict[str, Any]


class Inputs(Protocol):
    """What an evaluator reads of a batch; ``pet.data.structures.Batch`` has it."""

    @property
    def ids(self) -> Tensor:
        """(N,) int64, the ids of the images."""

    @property
    def targets(self) -> Mapping[str, Any]:
        """Ground truth by name, one entry for each image; may be empty."""


@runtime_checkable
class Evaluator(Protocol):
    """What the evaluation loop asks of an evaluator."""

    def reset(self) -> None:
        """Forget all predictions; called before each run over the data set."""

    def process(self, inputs: Inputs, outputs: Any) -> None:
        """Take the outputs of the model for one batch."""

    def evaluate(self) -> dict[str, float]:
        """Metrics by name on rank 0, an empty dict elsewhere. A collective: every process calls it."""


class DatasetEvaluator(ABC):
    """Base of the evaluators: keeps predictions by image id, gathers once, checks, then calls ``compute``.

    Args:
        name: data set, for messages.
        ids: the image ids of the data set, e.g. ``range(len(dataset))``; all of them must arrive.

    Attributes:
        columns: after ``evaluate`` on rank 0, the predictions of the whole data set, ``columns["id"]`` ascending.
        results: after ``evaluate`` on rank 0, what it returned.
    """

    def __init__(self, name: str, ids: Collection[int]) -> None:
        if not ids:
            raise ValueError(f"data set '{name}' has no images: there is nothing to evaluate")
        self.name = name
        self.expected_ids = ids
        self.reset()

    @abstractmethod
    def collect(self, inputs: Inputs, outputs: Any) -> Columns:
        """What to keep of one batch: by name an array (N, ...) or a list of N plain values, on the CPU."""

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """Metrics from ``self.columns``; runs on rank 0 only, so it must not communicate."""

    def class_tables(self) -> dict[str, ClassNumbers]:
        """Numbers of the classes by what is judged, e.g. ``bbox``, on rank 0 after ``evaluate``; empty if there are none."""
        return {}

    def no_metrics(self) -> str:
        """What stands for a table where predictions are only kept."""
        return f"{len(self.columns.get('id', ()))} images, predictions only"

    def reset(self) -> None:
        """Forget all predictions."""
        self._batches: list[Columns] = []
        self.columns: Columns = {}
        self.results: dict[str, float] = {}

    def process(self, inputs: Inputs, outputs: Any) -> None:
        """Keep the part of ``outputs`` that the metrics need."""
        kept = self.collect(inputs, outputs)
        kept["id"] = inputs.ids.cpu().numpy()
        count = len(kept["id"])
        for name, column in kept.items():
            if len(column) != count:
                raise ValueError(
                    f"{self.name}: {len(column)} values of '{name}' for a batch of {count} images; the model must return "
                    "one prediction for each image"
                )
        self._batches.append(kept)

    def evaluate(self) -> dict[str, float]:
        """Metrics of the whole data set on rank 0, an empty dict elsewhere. Called by every process.

        Raises:
            ValueError: an image is missing or came twice (on rank 0).
        """
        # Rank 0 may still compute the metrics of another evaluator.
        parts = comm.gather(merge_columns(self._batches), patient=True)
        if not comm.is_main_process():
            return {}
        merged = merge_columns([part for part in parts if part])
        self._check_ids(merged.get("id", np.empty(0, dtype=np.int64)))
        self.columns = sort_columns(merged)
        self.results = self.compute()
        return self.results

    def _check_ids(self, ids: NDArray[np.int64]) -> None:
        values, counts = np.unique(ids, return_counts=True)
        arrived, expected = set(values.tolist()), set(self.expected_ids)
        faults = {
            "missing": sorted(expected - arrived),
            "doubled": values[counts > 1].tolist(),
            "unknown": sorted(arrived - expected),
        }
        if any(faults.values()):
            text = "; ".join(f"{len(found)} {what} ({short_list(found)})" for what, found in faults.items() if found)
            raise ValueError(
                f"{self.name}: {len(ids)} predictions do not match the {len(expected)} images of the data set; ids: {text}. "
                "Each image must reach exactly one process once: use the evaluation loader, which does not pad, and call "
                "reset() before each run over the data set"
            )


def merge_columns(parts: Sequence[Columns]) -> Columns:
    """Join columns of the same names end to end; no parts give an empty dict."""
    if not parts:
        return {}
    return {name: _join([part[name] for part in parts]) for name in parts[0]}


def sort_columns(columns: Columns) -> Columns:
    """The same columns with the rows in ascending order of ``id``."""
    order = np.argsort(columns["id"], kind="stable")
    return {name: c[order] if isinstance(c, np.ndarray) else [c[i] for i in order] for name, c in columns.items()}


def short_list(values: Sequence[Any], limit: int = 10) -> str:
    """The first ``limit`` values as text, and how many more there are."""
    more = f", and {len(values) - limit} more" if len(values) > limit else ""
    return ", ".join(str(value) for value in values[:limit]) + more


def _join(parts: list[Any]) -> Any:
    return np.concatenate(parts) if isinstance(parts[0], np.ndarray) else list(chain.from_iterable(parts))
