"""Metrics from files that a test wrote, without a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pet.config import CfgNode
from pet.engine.arguments import metric_items
from pet.engine.evaluation import results_text
from pet.engine.testing import check_items, chosen_items
from pet.evaluation.predictions import is_plain_file, read_plain
from pet.utils.suggest import did_you_mean


def evaluate_offline(
    cfg: CfgNode, domain: Any, path: str | Path, metrics: Sequence[str] | None = None, eval_options: Sequence[str] = ()
) -> tuple[dict[str, float], str]:
    """Results named ``<data set>/<metric>``, and the table of the classes with them as text.

    Args:
        cfg: of the test; TEST.DATASETS names one data set, or that of the file among others.
        domain: module that exports ``build_dataset`` and ``evaluate_file``.
        path: what the test wrote.
        metrics: instead of EVAL.METRICS.
        eval_options: ``KEY=VALUE`` words; of them ``metric_items`` is read, the others are in ``cfg``.

    Raises:
        ValueError: the files do not fit the data set or the metrics.
    """
    evaluator = offline_evaluator(cfg, domain, path, metrics)
    items = metric_items(eval_options)
    check_items(items, evaluator.result_names())
    results = {f"{evaluator.name}/{name}": value for name, value in chosen_items(evaluator.results, items).items()}
    return results, f"{evaluator.name}\n{evaluator.table()}\n{results_text(results)}"


def offline_evaluator(cfg: CfgNode, domain: Any, path: str | Path, metrics: Sequence[str] | None) -> Any:
    """The evaluator of the data set that a file belongs to, after ``evaluate``; arguments as for ``evaluate_offline``."""
    names = list(cfg.TEST.DATASETS)
    if len(names) != 1:
        names = [_named_in(path, names)]
    return domain.evaluate_file(cfg, domain.build_dataset(cfg, is_train=False, names=names), path, metrics)


def _named_in(path: str | Path, names: Sequence[str]) -> str:
    """The data set among several that a file says it belongs to."""
    told = str(read_plain(path).get("dataset", "")) if is_plain_file(path) else ""
    if told in names:
        return told
    said = f"{path} is of '{told}', which is none of them.{did_you_mean(told, names)}" if told else f"{path} does not say which"
    raise ValueError(
        f"TEST.DATASETS names {', '.join(names) or 'no data set'}: {said} Choose one with TEST.DATASETS \"('name',)\""
    )
