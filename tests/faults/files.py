"""Checkpoints that were half written, damaged or refused by the disk: one good file always remains, and is used (F13 to F18)."""

from __future__ import annotations

import io
import os
import random
import resource
import runpy
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from logging import WARNING, Handler, LogRecord
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pet.tasks.cls as domain
from pet.engine import checkpoint_file, events
from pet.engine.checkpointer import CheckPointer
from pet.engine.launch import EXIT_USAGE
from pet.utils.files import TEMPORARY
from pet.utils.images import write_png
from pet.utils.logger import LOGGER, setup_logging
from tests.faults.catalog import Figure, fault
from tests.faults.compare import rows, run_differences
from tests.faults.experiment import write_experiment
from tests.faults.toy import UPDATES, TermAt, train
from tests.helpers import REPOSITORY

OLDER, NEWER = 2, 3


def two_checkpoints(folder: Path) -> Path:
    """A run that was stopped after update 2, and after update 3; the newest file."""
    for update in (OLDER, NEWER):
        train(folder, [TermAt(update)])
    return folder / f"model_iter{NEWER}.pth"


def temporaries(folder: Path) -> list[str]:
    """What a process that was killed while writing left behind."""
    return [path.name for path in folder.glob(f"*{TEMPORARY}*")]


class _Warnings(Handler):
    """Collects what Pet warns about."""

    def __init__(self) -> None:
        super().__init__(WARNING)
        self.texts: list[str] = []

    def emit(self, record: LogRecord) -> None:
        self.texts.append(record.getMessage())


@contextmanager
def _warned() -> Iterator[list[str]]:
    handler = _Warnings()
    LOGGER.addHandler(handler)
    try:
        yield handler.texts
    finally:
        LOGGER.removeHandler(handler)


def _resumes(folder: Path) -> tuple[int, list[str]]:
    """The update that a run in this folder continues from, and what it warns about."""
    with _warned() as texts:
        return CheckPointer(folder).start_iter - 1, texts


# ------------------------------------------------------------------------------------------------------------- F13

_CALLS = ((os, "replace", 1), (os, "symlink", 1), (os, "link", 1), (os, "fsync", 0), (Path, "unlink", 0))


class _Watch:
    """Names the calls to the file system from the first byte of a checkpoint on, and kills this process at one of them.

    Args:
        point: ``(name, "before" or "after")`` of a call, or ``("byte", number)`` of the checkpoint; ``None``: only watch.
    """

    def __init__(self, point: tuple[str, str | int] | None = None) -> None:
        self.names: list[str] = []
        self.size = 0
        self._point, self._seen = point, Counter[str]()

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Patch what a save calls."""
        for module, name, target in _CALLS:
            patch.setattr(module, name, self._watched(name, getattr(module, name), target))
        writer = checkpoint_file._HashingWriter
        patch.setattr(writer, "write", self._counted(writer.write))

    def _watched(self, name: str, original: Callable[..., Any], target: int) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if not self.size:
                return original(*arguments, **options)
            what = self._name(name, arguments[target])
            self.names.append(what)
            self._die_if((what, "before"))
            result = original(*arguments, **options)
            self._die_if((what, "after"))
            return result

        return call

    def _name(self, call: str, target: Any) -> str:
        path = os.readlink(f"/proc/self/fd/{target}") if isinstance(target, int) else str(target)
        what = f"{call} {'folder' if os.path.isdir(path) and call == 'fsync' else Path(path).name.partition(TEMPORARY)[0]}"
        self._seen[what] += 1
        return what if self._seen[what] == 1 else f"{what} ({self._seen[what]})"

    def _counted(self, original: Callable[..., int]) -> Callable[..., int]:
        def write(writer: Any, data: Any) -> int:
            whole = memoryview(data).cast("B")
            left = self._point[1] - self.size if self._point and self._point[0] == "byte" else None
            if isinstance(left, int) and 0 <= left < len(whole):
                original(writer, whole[:left])
                os.kill(os.getpid(), signal.SIGKILL)
            self.size += len(whole)
            return original(writer, whole)

        return write

    def _die_if(self, here: tuple[str, str]) -> None:
        if here == self._point:
            os.kill(os.getpid(), signal.SIGKILL)


def _save_watched(folder: Path, in_background: bool, watch: _Watch) -> None:
    """Continue to the end of the epoch: one save with pointer, retention and the best, while ``watch`` looks."""
    with pytest.MonkeyPatch.context() as patch:
        watch.install(patch)
        train(folder, [TermAt(NEWER + 1)], SOLVER__SNAPSHOT_ASYNC=in_background)


def fork(action: Callable[[], None]) -> int:
    """Run ``action`` in a fork; its process id."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn about a fork beside threads
        child = os.fork()
    if child == 0:
        try:
            action()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return child


def exit_code(child: int) -> int:
    """Wait for a fork; its exit code, negative after a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def in_child(action: Callable[[], None]) -> int:
    """Run ``action`` in a fork to its end; its exit code."""
    return exit_code(fork(action))


def _kill_points(watch: _Watch, count: int, rng: random.Random) -> list[tuple[str, str | int]]:
    """Both sides of every call in turn, those around the file first; the rest are numbers of bytes."""
    sides = [(name, side) for side in ("before", "after") for name in dict.fromkeys(watch.names)]
    bytes_first = [("byte", rng.randrange(watch.size)) for _ in range(max(count - len(sides), count // 4))]
    return [*bytes_first, *sides][:count]


@fault(
    "F13", "after a kill at any point of a save the last complete checkpoint is used, the end is bitwise equal", small=10, full=40
)
def kill_while_saving(count: int, seed: int, folder: Path) -> Figure:
    """SIGKILL after some bytes, and around fsync, rename, pointer, retention and best; written in background or not."""
    rng, failures, watch = random.Random(f"F13 {seed}"), [], _Watch()
    expected, start = train(folder / "expected").folder, folder / "start"
    two_checkpoints(start)
    shutil.copytree(start, folder / "counted", symlinks=True)
    _save_watched(folder / "counted", False, watch)
    points = _kill_points(watch, count, rng)
    for place, point in enumerate(points):
        run, in_background = folder / f"kill{place}", bool(place % 2)
        shutil.copytree(start, run, symlinks=True)
        code = in_child(lambda run=run, there=in_background, at=point: _save_watched(run, there, _Watch(at)))  # type: ignore[misc]
        text = "" if code == -signal.SIGKILL else f"the save went past this point (exit code {code})"
        text = text or _after_kill(run, expected)
        if text:
            failures.append(f"killed {point[1]} {point[0]}, {'in background' if in_background else 'waiting'}: {text}")
        shutil.rmtree(run)
    extra = f"{sum(name == 'byte' for name, _ in points)} inside the file, {len(set(watch.names))} calls around it"
    return Figure(len(points) - len(failures), len(points), "resumed equal", failures, extra)


def _after_kill(run: Path, expected: Path) -> str:
    first, _ = _resumes(run)
    if first not in (NEWER, NEWER + 1):
        return f"resumed from update {first}"
    if temporaries(run):
        return f"left over: {temporaries(run)}"
    train(run)
    return "; ".join(run_differences(expected, run, tensorboard=False)[:5])


# ------------------------------------------------------------------------------------------------------- F14 to F16


def _damage_newest(folder: Path, damages: Sequence[tuple[str, Callable[[bytes], bytes]]]) -> list[str]:
    """What went wrong with the fall-back after each of these changes to the newest file."""
    newest, failures = two_checkpoints(folder), []
    content = newest.read_bytes()
    for name, damage in damages:
        newest.write_bytes(damage(content))
        update, texts = _resumes(folder)
        good = f"Falling back to the previous good checkpoint {folder / f'model_iter{OLDER}.pth'}"
        if update != OLDER:
            failures.append(f"{name}: resumed from update {update}")
        elif len(texts) != 1 or f"{newest} does not match its checksum" not in texts[0] or not texts[0].endswith(good):
            failures.append(f"{name}: warned {texts}")
    newest.write_bytes(content)
    return failures if _resumes(folder) == (NEWER, []) else [*failures, "the whole file was not used"]


@fault(
    "F14",
    "a newest file that was cut at any length is passed over, with one warning that names it and the reason",
    small=20,
    full=100,
)
def cut_files(count: int, seed: int, folder: Path) -> Figure:
    """Cut the newest checkpoint at random lengths, from nothing to all but one byte."""
    rng = random.Random(f"F14 {seed}")
    shares = [0.0, 1.0, *(rng.random() for _ in range(count - 2))]

    def cut(share: float) -> Callable[[bytes], bytes]:
        return lambda content: content[: round(share * (len(content) - 1))]

    failures = _damage_newest(folder, [(f"cut at {share:.6f} of its length", cut(share)) for share in shares])
    return Figure(count - len(failures), count, "fell back", failures)


@fault("F15", "one flipped bit in the newest file is found by its checksum", small=20, full=100)
def flipped_bits(count: int, seed: int, folder: Path) -> Figure:
    """Flip one bit anywhere in the newest checkpoint."""
    rng = random.Random(f"F15 {seed}")

    def flip(share: float, bit: int) -> Callable[[bytes], bytes]:
        def change(content: bytes) -> bytes:
            place = int(share * len(content))
            return content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]

        return change

    places = [(rng.random(), rng.randrange(8)) for _ in range(count)]
    damages = [(f"bit {bit} at {share:.6f} of the length", flip(share, bit)) for share, bit in places]
    failures = _damage_newest(folder, damages)
    return Figure(count - len(failures), count, "detected", failures)


_POINTERS = ("empty", "garbage", "dangling", "outside", "missing", "folder", "circular")


@fault("F16", "a pointer that names no checkpoint of the folder is not followed; the newest good file is used", small=7, full=7)
def broken_pointers(count: int, seed: int, folder: Path) -> Figure:
    """Make ``model_latest.pth`` empty, garbage, dangling, point outside, ...; a damaged newest file must not hide behind it."""
    failures = []
    two_checkpoints(folder / "elsewhere")
    for kind in _POINTERS[:count]:
        run = folder / kind
        shutil.copytree(folder / "elsewhere", run, symlinks=True)
        latest = run / checkpoint_file.LATEST
        latest.unlink()
        if kind in ("empty", "garbage"):
            latest.write_bytes(b"" if kind == "empty" else f"model_iter{OLDER}.pth".encode())
        elif kind == "folder":
            latest.mkdir()
        elif kind != "missing":
            outside = folder / "elsewhere" / f"model_iter{NEWER}.pth"
            latest.symlink_to({"dangling": "model_iter9.pth", "outside": outside, "circular": latest.name}[kind])
        update, texts = _resumes(run)
        if update != NEWER or len(texts) != 1 or str(latest) not in texts[0]:
            failures.append(f"{kind}: resumed from update {update}, warned {texts}")
        (run / f"model_iter{NEWER}.pth").write_bytes(b"")
        if _resumes(run)[0] != OLDER:
            failures.append(f"{kind}, newest file empty: resumed from update {_resumes(run)[0]}")
    wrong = {text.partition(":")[0].partition(",")[0] for text in failures}
    return Figure(count - len(wrong), count, "fell back", failures)


# ------------------------------------------------------------------------------------------------------- F17, F18


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """The system refuses to make a file larger than ``size`` bytes, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[bool]:
    """A file system in memory at ``folder``, whether that is allowed or not; what it held is lost at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    allowed = shutil.which("mount") is not None and subprocess.run(command, capture_output=True).returncode == 0
    try:
        yield allowed
    finally:
        if allowed:
            subprocess.run(["umount", "-l", str(folder)], check=True)


_KINDS = ("save, waiting", "save, in background", "save, small disk", "metrics.json", "tensorboard_log", "log file")
_NO_SAVES: dict[str, Any] = {"SOLVER__SNAPSHOT_ITER": 0, "EVAL__PERIOD_EPOCHS": None, "EVAL__PERIOD_ITERS": 0}


@fault(
    "F17",
    "on a full disk a run ends with file, needed and free space; old files stay intact and it resumes bitwise equal",
    small=6,
    full=20,
)
def full_disks(count: int, seed: int, folder: Path) -> Figure:
    """Limit the size of files or fill a small file system, while checkpoints, rows, events or lines of the log are written."""
    rng, failures = random.Random(f"F17 {seed}"), []
    start, expected = folder / "start", {}
    newest = two_checkpoints(start)
    for name, options in (("saves", {}), ("none", _NO_SAVES)):
        expected[name] = train(folder / name, **options).folder
    for trial in range(count):
        kind, run = _KINDS[trial % len(_KINDS)], folder / f"full{trial}"
        if kind == "log file":
            text = _full_log(run)
        elif kind == "save, small disk":
            text = _small_disk(run, start, rng.randrange(10, 4000))
        elif kind == "tensorboard_log":  # begins with the pictures it finds
            write_png(run / "vis" / "noise.png", np.random.default_rng(trial).integers(0, 256, (64, 64, 3), np.uint8))
            text = _limited(run, kind, 8000, expected)
        else:
            shutil.copytree(start, run, symlinks=True)
            rows_end = (run / "metrics.json").stat().st_size + 1
            text = _limited(run, kind, rng.randrange(8000, newest.stat().st_size) if "save" in kind else rows_end, expected)
        failures += [f"trial {trial}, {kind}: {text}"] if text else []
        shutil.rmtree(run, ignore_errors=True)
    return Figure(count - len(failures), count, "intact", failures)


def _limited(run: Path, kind: str, limit: int, expected: dict[str, Path]) -> str:
    """Resume below a limit to the size of files, then without it; what was not as promised."""
    saving = kind.startswith("save")
    options: dict[str, Any] = {} if saving else _NO_SAVES
    name = f"model_iter{NEWER + 1}.pth" if saving else kind
    with file_size_limit(limit), pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading, "excepthook", lambda arguments: None)  # the thread of TensorBoard ends with the error, too
        text = _ends_on_full_disk(run, name, saving, lambda: train(run, SOLVER__SNAPSHOT_ASYNC="back" in kind, **options))
    if text:
        return f"limit {limit}: {text}"
    train(run, **options)
    if saving:
        return "; ".join(run_differences(expected["saves"], run, tensorboard=False)[:5])
    same = [row["iteration"] for row in rows(run)] == [row["iteration"] for row in rows(expected["none"])]
    return "" if same else "the rows of metrics.json differ after resuming"


def _ends_on_full_disk(run: Path, name: str, saving: bool, action: Callable[[], Any]) -> str:
    """How ``action`` ends other than with the promised error, and what it did to the files."""
    before = {path.name: path.read_bytes() for path in run.glob("model_*")}
    try:
        action()
    except OSError as error:
        wanted = [f"cannot write {run / name}", " MiB free in ", "intact", "then resume", *([" MiB needed"] if saving else [])]
        lacking = [part for part in wanted if part not in str(error)]
        if lacking:
            return f"the error lacks {lacking}: {error}"
    else:
        return "no error"
    changed = [path for path, content in before.items() if (run / path).read_bytes() != content]
    return f"changed {changed}, left over {temporaries(run)}" if changed or temporaries(run) else ""


def _small_disk(run: Path, start: Path, room: int) -> str:
    """Fill a small file system up to ``room`` bytes and continue the run there; then make room."""
    with mounted(run, "size=1m") as allowed:
        if not allowed:
            shutil.copytree(start, run, symlinks=True, dirs_exist_ok=True)
            with file_size_limit(8000 + room):
                return _ends_on_full_disk(run, f"model_iter{NEWER + 1}.pth", True, lambda: train(run))
        shutil.copytree(start, run, symlinks=True, dirs_exist_ok=True)
        free = shutil.disk_usage(run).free
        (run / "ballast").write_bytes(bytes(max(free - 16384 - room, 0)))
        text = _ends_on_full_disk(run, f"model_iter{NEWER + 1}.pth", True, lambda: train(run))
        (run / "ballast").unlink()
        if not text and train(run).updates != UPDATES - NEWER:
            text = "did not continue when there was room"
        return text


def _full_log(run: Path) -> str:
    """Lines for a log file that is full: the run goes on, and says so once."""
    run.mkdir()
    handlers, printed, errors = list(LOGGER.handlers), io.StringIO(), io.StringIO()
    before = LOGGER.level, LOGGER.propagate
    with redirect_stdout(printed), redirect_stderr(errors):
        setup_logging(run / "train.txt")
        with file_size_limit(100):
            for number in range(5):
                LOGGER.info(f"line {number} of the log")
        for handler in LOGGER.handlers[:]:
            LOGGER.removeHandler(handler)
            handler.close()
    for handler in handlers:
        LOGGER.addHandler(handler)
    LOGGER.level, LOGGER.propagate = before
    said = errors.getvalue()
    if said.count("cannot write") != 1 or str(run / "train.txt") not in said or "Traceback" in said:
        return f"said {said!r}"
    return "" if "line 4 of the log" in printed.getvalue() else "the console went silent, too"


_PLACES = ("read-only", "missing", "a file", "full disk")
START_S = 5.0
SCRIPT = REPOSITORY / "tools" / "tasks" / "cls" / "train_net.py"


@fault("F18", "an output folder that cannot be used is refused before the model is built, in less than 5 s", small=4, full=4)
def unusable_folders(count: int, seed: int, folder: Path) -> Figure:
    """Start the training script with a folder that is read-only, a link to nothing, a file, or on a full disk."""
    failures, slowest = [], 0.0
    cfg = write_experiment(folder)
    runpy.run_path(str(SCRIPT), run_name="imports")  # how long they take is not the matter here
    for name in domain.__all__:
        getattr(domain, name)
    for kind in _PLACES[:count]:
        with ExitStack() as stack:
            place = _unusable(kind, folder / kind.replace(" ", "_"), stack)
            start = time.monotonic()
            status, text, built = _typed(cfg, place)
        seconds = time.monotonic() - start
        slowest = max(slowest, seconds)
        told = all(
            part in text for part in (f"the folder of the run cannot be used: {place}", "--work-dir", "Nothing was started")
        )
        if status != EXIT_USAGE or built or not told or seconds > START_S:
            failures.append(f"{kind}: status {status}, model built {built}, {seconds:.1f} s, said {text!r}")
    return Figure(count - len(failures), count, "refused", failures, f"slowest {slowest:.1f} s")


def _unusable(kind: str, place: Path, stack: ExitStack) -> Path:
    if kind == "a file":
        place.write_text("in the way")
    elif kind == "missing":
        place.symlink_to(place.parent / "a_disk_that_is_not_mounted")
    elif kind == "read-only":
        if not stack.enter_context(mounted(place, "ro")):
            return Path("/proc/pet_run")
    elif stack.enter_context(mounted(place, "size=64k")):
        with open(place / "ballast", "wb", buffering=0) as ballast, pytest.raises(OSError, match="No space left"):
            while True:
                ballast.write(bytes(4096))
    else:
        stack.enter_context(file_size_limit(0))
    return place


def _typed(cfg: Path, place: Path) -> tuple[int, str, bool]:
    """Run the script of classification in this process: status, what it printed, whether it came to building the model."""
    output, built = io.StringIO(), list[Any]()
    status: Any = 0
    handlers, before = list(LOGGER.handlers), (LOGGER.level, LOGGER.propagate)
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(output), redirect_stderr(output):
        patch.setattr(sys, "argv", [str(SCRIPT), "--cfg", str(cfg), "--work-dir", str(place)])
        patch.setattr(events, "_started", "")
        patch.setattr(domain, "GeneralizedCNN", built.append, raising=False)
        try:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        except SystemExit as end:
            status = end.code
        except Exception:
            traceback.print_exc()
            status = 1
    LOGGER.handlers[:] = handlers
    LOGGER.level, LOGGER.propagate = before
    return status, output.getvalue(), bool(built)
