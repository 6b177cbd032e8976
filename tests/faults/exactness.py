"""A resumed run is the run that was never stopped, bit by bit (F03 to F07)."""

from __future__ import annotations

import itertools
import logging
import operator
import random
import re
import shutil
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

from pet.engine.checkpoint_file import digest_path
from pet.engine.events import EventStorage
from pet.engine.hooks.base import Hook, Phase
from pet.engine.hooks.checkpoint import Checkpoint
from pet.utils.logger import LOGGER
from pet.utils.rng import get_rng_state, seed_everything
from tests.faults.catalog import Figure, fault
from tests.faults.compare import flatten, rows, run_differences, same
from tests.faults.toy import NUM_SAMPLES, KillAt, Killed, TermAt, ToyRun, train
from tests.helpers import run_ranks

# ------------------------------------------------------------------------------------------------------- F03, F04

UPDATES, BATCH = 40, 3
PER_EPOCH = NUM_SAMPLES // BATCH
_LONGER: dict[str, Any] = {
    "TRAIN__BATCH_SIZE": BATCH,
    "SOLVER__SCHEDULER__TOTAL_EPOCHS": None,
    "SOLVER__SCHEDULER__TOTAL_ITERS": UPDATES,
    "MISC__DISPLAY_ITER": 5,
}


def _run(folder: Path, hooks: list[Hook], in_background: bool, **options: Any) -> ToyRun | None:
    """Train or resume; ``None`` if a hook killed the run."""
    try:
        return train(folder, hooks, SOLVER__SNAPSHOT_ASYNC=in_background, **_LONGER, **options)
    except Killed:
        return None


def _unlike(expected: Path, folder: Path) -> str:
    return "; ".join(run_differences(expected, folder, tensorboard=False)[:5])


@fault("F03", "a run that is killed after any of its saves, the last included, resumes bitwise equal", small=4, full=UPDATES)
def resume_from_every_save(count: int, seed: int, folder: Path) -> Figure:
    """Save after every update; kill after one of the saves, in turn after each, and resume."""
    rng, failures = random.Random(f"F03 {seed}"), []
    _run(folder / "expected", [], False, SOLVER__SNAPSHOT_ITER=1)
    points = sorted([*rng.sample(range(1, UPDATES), count - 1), UPDATES])
    for point in points:
        run, in_background = folder / f"killed{point}", bool(point % 2)
        killed = _run(run, [KillAt(point, Phase.SAVE)], in_background, SOLVER__SNAPSHOT_ITER=1) is None
        resumed = _run(run, [], in_background)
        updates = resumed.updates if resumed is not None else None
        found = "" if killed and updates == UPDATES - point else f"the resumed run made {updates} updates"
        found = found or _unlike(folder / "expected", run)
        if point == UPDATES:
            found = found or _starts_again(run)
        if found:
            failures.append(f"killed after the save of update {point}: {found}")
        shutil.rmtree(run)
    return Figure(len(points) - len(failures), len(points), "equal", failures)


def _starts_again(folder: Path) -> str:
    """What a finished run does when it is started again, other than to say that it is finished."""
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.glob("*")}
    with pytest.MonkeyPatch.context() as patch:
        said: list[str] = []
        patch.setattr(LOGGER, "log", lambda level, message: said.append(message))
        again = _run(folder, [], True)
    if again is None or (again.status, again.dataset.reads) != (-1, []):
        return "the finished run trained again"
    if not any("This run is finished" in text for text in said):
        return "the finished run did not say so"
    changed = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.glob("*")} != before
    return "the finished run changed its folder" if changed else ""


@fault("F04", "a run that is stopped and killed five times inside one epoch ends bitwise equal", small=1, full=5)
def five_cuts_in_one_epoch(count: int, seed: int, folder: Path) -> Figure:
    """Cut five times inside the second epoch, by SIGTERM or by a kill, and resume after each."""
    rng, failures = random.Random(f"F04 {seed}"), []
    _run(folder / "expected", [], False)
    for trial in range(count):
        run, in_background = folder / f"cut{trial}", bool(trial % 2)
        cuts = sorted(rng.sample(range(PER_EPOCH + 1, 2 * PER_EPOCH), 5))
        hooks = [TermAt(cut) if rng.random() < 0.5 else KillAt(cut, rng.choice([Phase.UPDATE, Phase.SAVE])) for cut in cuts]
        for hook in hooks:
            _run(run, [hook], in_background)
        _run(run, [], in_background)
        found = _unlike(folder / "expected", run)
        if found:
            how = ", ".join(f"{type(hook).__name__}({cut})" for cut, hook in zip(cuts, hooks, strict=True))
            failures.append(f"trial {trial}, {how}: {found}")
        shutil.rmtree(run)
    return Figure(count - len(failures), count, "5-cut runs equal", failures)


# ------------------------------------------------------------------------------------------------------------- F05

_WORKERS = list(itertools.product((0, 1, 2, 4), repeat=2))


@fault("F05", "a run resumes bitwise equal whatever the numbers of loader workers before and after", small=3, full=len(_WORKERS))
def change_the_workers(count: int, seed: int, folder: Path) -> Figure:
    """Train with one number of real workers, kill, resume with another one: every pair of 0, 1, 2 and 4."""
    rng, figure = random.Random(f"F05 {seed}"), Figure(0, count, "equal")
    _run(folder / "expected", [], False)
    for before, after in rng.sample(_WORKERS, count):
        run, cut = folder / f"from{before}to{after}", rng.randint(1, UPDATES - 1)
        _run(run, [KillAt(cut, rng.choice([Phase.UPDATE, Phase.SAVE]))], True, DATA__LOADER_THREADS=before)
        _run(run, [], True, DATA__LOADER_THREADS=after)
        found = _unlike(folder / "expected", run)
        figure.judge([found] if found else [], f"{before} workers, killed in update {cut}, then {after} workers, seed {seed}")
        shutil.rmtree(run)
    return figure


# ------------------------------------------------------------------------------------------------------------- F07

_STOP = 5
_LOSS_SCALE = {"SOLVER__AMP__ENABLED": True, "SOLVER__AMP__DTYPE": "float16"}
_OFFSET = ("hooks", "PeriodicWriter", "writers", "JSONWriter", "offset")
_ITEMS: list[tuple[Any, ...]] = [
    ("model", "fc.weight"),
    ("model", "bn.running_mean"),
    ("optimizer", "state", 0, "momentum_buffer"),
    ("scheduler", "iteration"),
    ("ema", "weights", "fc.weight"),
    ("ema", "updates"),
    ("scaler", "scaler", "scale"),
    ("scaler", "skipped_updates"),
    ("rng", 0, "python"),
    ("rng", 0, "numpy"),
    ("rng", 0, "torch"),
    ("hooks", "Best", "value"),
    _OFFSET,
    ("storage", "histories"),
]


class _Looked(BaseException):
    """Ends a resumed run before its first update."""


def _living_state(folder: Path) -> dict[str, Any]:
    """What a run that resumes in ``folder`` would save before its first update: the state that it has really taken over."""
    seen: list[dict[str, Any]] = []

    def look(hook: Checkpoint) -> None:
        seen.append(deepcopy(hook._checkpointer._collect(*hook._arguments)))
        raise _Looked

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoint, "before_train", look)
        try:
            train(folder, **_LOSS_SCALE)
        except _Looked:
            return seen[0]
    raise AssertionError("the run ended before it began")


def _perturbed(value: Any, item: tuple[Any, ...], folder: Path) -> Any:
    """Another value that this item could have had."""
    if item == _OFFSET:
        return (folder / "metrics.json").read_bytes().index(b"\n") + 1
    if item[0] == "rng":
        seed_everything(99)
        return get_rng_state()[item[-1]]
    if item[-1] == "histories":
        return {name: [[number + 1, update] for number, update in history] for name, history in value.items()}
    return value + 1


def _edited(source: Path, folder: Path, item: tuple[Any, ...], change: Callable[[Any, Any], None]) -> Path:
    """A copy of a stopped run whose newest checkpoint differs in one item; without its checksum it passes as a file from elsewhere."""
    shutil.copytree(source, folder, symlinks=True)
    path = (folder / "model_latest.pth").resolve()
    content = place = torch.load(path, weights_only=True)
    for name in item[:-1]:
        place = place[name]
    change(place, item[-1])
    torch.save(content, path)
    digest_path(path).unlink()
    return folder


def _not_restored(source: Path, folder: Path, item: tuple[Any, ...], expected: dict[str, Any]) -> str:
    """What a resumed run has not taken over when one item of its file was changed."""
    name = ".".join(map(str, item))
    wanted: list[Any] = []

    def perturb(place: Any, key: Any) -> None:
        place[key] = _perturbed(place[key], item, source)
        wanted.append(deepcopy(place[key]))

    living = dict(flatten(_living_state(_edited(source, folder, item, perturb)), ""))
    leaves = dict(flatten(wanted[0], name)) or {name: wanted[0]}
    if item == _OFFSET:  # a clock for the comparison of whole runs
        return "" if (folder / "metrics.json").stat().st_size == wanted[0] else "metrics.json was not cut to its length"
    lost = [leaf for leaf, value in leaves.items() if not same(value, living.get(leaf))]
    unchanged = all(same(value, expected.get(leaf)) for leaf, value in leaves.items())
    follow = {"scheduler.iteration": ["optimizer.param_groups.0.lr", "meta.iteration"]}.get(name, [])
    others = [leaf for leaf, value in expected.items() if leaf not in [*leaves, *follow] and not same(value, living.get(leaf))]
    problems = [f"not restored: {lost[:3]}"] if lost else []
    problems += ["the perturbation changed nothing"] if unchanged else []
    problems += [f"other items changed: {others[:3]}"] if others else []
    return "; ".join(problems)


def _not_refused(source: Path, folder: Path, item: tuple[Any, ...]) -> str:
    """What happens other than a refusal with its name when one item is missing in the file."""

    def remove(place: Any, key: Any) -> None:
        del place[key]

    try:
        _living_state(_edited(source, folder, item, remove))
    except (KeyError, ValueError) as error:
        return "" if str(item[-1]) in str(error) else f"refused without its name: {error}"
    return "a file without it was accepted"


@fault(
    "F07",
    "every item of the state is restored, and a file that lacks one is refused by name",
    small=len(_ITEMS),
    full=len(_ITEMS),
)
def items_of_the_state(count: int, seed: int, folder: Path) -> Figure:
    """Perturb each item of a checkpoint and look at the state of the run that resumes from it; then remove the item."""
    source, failures, restored, refused = folder / "stopped", [], 0, 0
    train(source, [TermAt(_STOP)], **_LOSS_SCALE)
    expected = dict(flatten(_living_state(source)))
    items = _ITEMS[:count]
    for place, item in enumerate(items):
        lost = _not_restored(source, folder / f"perturbed{place}", item, expected)
        accepted = _not_refused(source, folder / f"removed{place}", item)
        restored, refused = restored + (not lost), refused + (not accepted)
        failures += [f"{'.'.join(map(str, item))}: {text}" for text in (lost, accepted) if text]
    return Figure(restored, len(items), "restored", failures, f"{refused}/{len(items)} refused")


# ------------------------------------------------------------------------------------------------------------ F06


class _Stop(Hook):
    """Ends the run after an update, on all ranks together."""

    def __init__(self, update: int) -> None:
        self._update = update

    def after_step(self, storage: EventStorage) -> None:
        if storage.iteration == self._update:
            storage.request_stop("the number of processes changes", 143, by_all_ranks=True)


class _Listener(logging.Handler):
    """Keeps what is logged, inside a ``with`` block."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def __enter__(self) -> _Listener:
        self._level = LOGGER.level
        LOGGER.setLevel(logging.DEBUG)
        LOGGER.addHandler(self)
        return self

    def __exit__(self, *error: object) -> None:
        LOGGER.removeHandler(self)
        LOGGER.setLevel(self._level)

    def hashes(self) -> dict[int, str]:
        """What ``MISC.LOG_SAMPLE_IDS`` wrote, by update."""
        found = (re.fullmatch(r"update (\d+): (.* samples, hash .*)", line) for line in self.lines)
        return {int(match[1]): match[2] for match in found if match}


def _part(folder: Path, stop: int = 0) -> _Listener:
    """Train or resume until after an update, without BatchNorm and dropout; what was logged."""
    options = {"MISC__LOG_SAMPLE_IDS": True, "MISC__DISPLAY_ITER": 1, "SOLVER__ACCUMULATE": 2}
    with _Listener() as listener:
        train(folder, [_Stop(stop)] if stop else [], plain=True, **options)
    return listener


def _two_ranks(rank: int, jobs: list[tuple[Path, int]]) -> list[tuple[dict[int, str], bool]]:
    """The middle parts of all runs on one of two ranks: hashes, and whether it was said what continues exactly."""
    parts = [_part(folder, stop) for folder, stop in jobs]
    return [(part.hashes(), any("The run had 1 processes, now 2: " in line for line in part.lines)) for part in parts]


@fault("F06", "processes 1, then 2, then 1, at a constant global batch: every batch has the same samples", small=1, full=10, several=True)
def change_the_processes(count: int, seed: int, folder: Path) -> Figure:
    """Stop at two random updates; the hashes of all global batches and all losses are compared with those of one process."""
    rng, figure, batches, largest = random.Random(f"F06 {seed}"), Figure(0, count, "with the same samples in every batch"), 0, 0.0
    expected = _part(folder / "expected").hashes()
    runs = [(folder / f"run{number}", sorted(rng.sample(range(1, max(expected)), 2))) for number in range(count)]
    before = [_part(run, first).hashes() for run, (first, _) in runs]
    between = run_ranks(2, _two_ranks, [(run, second) for run, (_, second) in runs], timeout=60.0 + 20.0 * count)[0]
    for number, (run, stops) in enumerate(runs):
        (hashes, said), after = between[number], _part(run)
        logged = before[number] | hashes | after.hashes()
        same_batches = sum(logged.get(update) == text for update, text in expected.items())
        theirs = [row["total_loss"] for row in rows(run) if "total_loss" in row]
        ours = [row["total_loss"] for row in rows(folder / "expected") if "total_loss" in row]
        difference = max(map(abs, map(operator.sub, ours, theirs))) if len(ours) == len(theirs) else float("inf")
        batches, largest = batches + same_batches, max(largest, difference)
        problems = {
            f"{same_batches} of {len(expected)} batches have the same samples": logged == expected,
            f"the losses differ by {difference:.1e}": difference < 1e-5,
            "it was not said what continues exactly": said and any("now 1: " in line for line in after.lines),
        }
        figure.judge([problem for problem, kept in problems.items() if not kept], f"stopped after updates {stops}")
    figure.extra = f"{batches} of {count * len(expected)} batches the same, largest difference of a loss {largest:.1e}"
    return figure
