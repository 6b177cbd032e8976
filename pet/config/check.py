"""Completing a config and checking it: one report of everything that is wrong."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path, PurePath

from pet.config.node import DEFAULT, CfgNode
from pet.config.problem import ConfigError, Problem, show
from pet.config.rules import EPOCHS_OR_ITERS, PIPELINES, transform_names
from pet.config.upstream import FORMER_NAMES
from pet.utils.logger import log_once

__all__ = ["ConfigError", "Problem", "check_cfg", "infer_cfg", "path_under_cfgs"]

DOMAINS = ("vision", "tasks", "projects")


def check_cfg(cfg: CfgNode) -> None:
    """Raise one ``ConfigError`` with everything that is wrong: values merged so far, and the checks of several keys together.

    A check that depends on a key with a problem of its own is left out: it would only repeat it.
    """
    problems = cfg.problems + [_completed(cfg, found) for found in transform_names(cfg)]
    wrong = {problem.key for problem in problems}
    for check in cfg.checks:
        problems += [_completed(cfg, found) for found in check(cfg) if not wrong & {found.key, *found.related}]
    if problems:
        raise ConfigError(problems)


def infer_cfg(cfg: CfgNode, cfg_file: str | Path | None = None) -> CfgNode:
    """Fill in what follows from other values, then check everything.

    - ``MISC.CKPT``: ``ckpts/<path of the YAML under cfgs/>``, without the extension.
    - ``X_EPOCHS`` becomes ``None`` where ``X_ITERS`` was set and ``X_EPOCHS`` has only its default.
    - Transforms by their names in OpenMMLab get those of Pet, with a warning.

    Args:
        cfg: the merged config, not frozen.
        cfg_file: the YAML it came from; default: the file merged last.

    Returns:
        the same ``cfg``.

    Raises:
        ConfigError: with all problems.
    """
    file = str(cfg_file or cfg.file)
    if file and not cfg.MISC.CKPT:
        under = path_under_cfgs(file) or PurePath(Path(file).name)
        cfg.set("MISC.CKPT", str("ckpts" / under.with_suffix("")), f"inferred: from the name of {file}")
    for epochs, iters in EPOCHS_OR_ITERS:
        if cfg.value(iters) > 0 and cfg.value(epochs) is not None and cfg.origin(epochs) == DEFAULT:
            cfg.set(epochs, None, f"inferred: {iters} is set")
    for pipeline in PIPELINES:
        _rename_transforms(cfg, pipeline)
    check_cfg(cfg)
    return cfg


def path_under_cfgs(path: str | Path) -> PurePath | None:
    """The part of a path after its component ``cfgs``; ``None`` without one.

    Of several the last one counts that is followed by ``vision``, ``tasks`` or ``projects``, else the last one.
    """
    parts = PurePath(os.path.abspath(path)).parts
    places = [place for place, part in enumerate(parts[:-1]) if part == "cfgs"]
    if not places:
        return None
    routed = [place for place in places if parts[place + 1] in DOMAINS]
    return PurePath(*parts[(routed or places)[-1] + 1 :])


def _rename_transforms(cfg: CfgNode, pipeline: str) -> None:
    given, origin = cfg.value(pipeline), cfg.origin(pipeline)
    former = [name for name in given if name in FORMER_NAMES]
    if former:
        cfg.set(pipeline, tuple(FORMER_NAMES.get(name, name) for name in given), f"{origin}, with Pet's names")
        pairs = ", ".join(f"'{name}' is called '{FORMER_NAMES[name]}'" for name in former)
        log_once(f"{pipeline} ({origin}): {pairs} here; change it there")


def _completed(cfg: CfgNode, problem: Problem) -> Problem:
    """The problem with values and origins of its keys."""
    message = problem.message
    for full in problem.related:
        message += f"\n       {full} is {show(cfg.value(full))} ({cfg.origin(full)})"
    where, value = problem.where, problem.value
    if problem.key in cfg.known_keys:
        where, value = where or cfg.origin(problem.key), value or show(cfg.value(problem.key))
    return dataclasses.replace(problem, message=message, where=where, value=value)
