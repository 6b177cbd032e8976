"""Fixtures every test gets: seeded generators, and a check that the test left the process as it found it."""

from __future__ import annotations

import os

# Before torch or OpenCV are imported anywhere: bitwise comparisons and shared machines both want one thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import gc
import logging
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import REPOSITORY, children

_LEAK_PATIENCE_S = 5.0
# pytest's own, and what torch and OpenCV set when they are first imported.
_NOT_A_LEAK = {
    "PYTEST_CURRENT_TEST",
    "PYTEST_VERSION",
    "TORCHINDUCTOR_CACHE_DIR",
    "LD_LIBRARY_PATH",
    "QT_QPA_FONTDIR",
    "QT_QPA_PLATFORM_PLUGIN_PATH",
}


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the small real data sets: ``$PET_SHARED_DATA`` or ``<repository>/../shared/data``."""
    path = Path(os.environ.get("PET_SHARED_DATA") or REPOSITORY.parent / "shared" / "data")
    if not path.is_dir():
        pytest.skip(f"the real test data are not at {path}; set PET_SHARED_DATA to their folder")
    return path


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests marked ``gpu`` on a machine without one."""
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a GPU that torch can use")


@pytest.fixture(autouse=True)
def seeded_generators() -> None:
    """Start every test from the same random state, so that its result does not depend on the tests before it."""
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(autouse=True)
def quiet_logger() -> Iterator[None]:
    """Undo what ``setup_logging`` did to Pet's logger, without which ``caplog`` would see nothing afterwards."""
    logger = logging.getLogger("pet")
    before = (list(logger.handlers), logger.level, logger.propagate)
    yield
    for handler in [h for h in logger.handlers if h not in before[0]]:
        logger.removeHandler(handler)
        handler.close()
    logger.setLevel(before[1])
    logger.propagate = before[2]


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    """Fail a test that leaves child processes, threads, a process group, or changed global settings behind."""
    env, folder = _environment(), os.getcwd()
    threads, processes = set(threading.enumerate()), set(children())
    settings = _torch_settings()
    yield
    problems = _changed_environment(env) + _changed_torch_settings(settings)
    if os.getcwd() != folder:
        problems.append(f"the working folder changed to {os.getcwd()}")
        os.chdir(folder)
    problems += _remaining(
        "child process", lambda: [f"{pid} {command}" for pid, command in children().items() if pid not in processes]
    )
    problems += _remaining("thread", lambda: [t.name for t in threading.enumerate() if t not in threads and not t.daemon])
    if problems:
        pytest.fail("the test left something behind:\n  " + "\n  ".join(problems), pytrace=False)


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in _NOT_A_LEAK}


def _changed_environment(before: dict[str, str]) -> list[str]:
    now = _environment()
    changed = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    for name in changed:
        if name in before:
            os.environ[name] = before[name]
        else:
            del os.environ[name]
    return [f"environment variable {name}: {before.get(name)!r} became {now.get(name)!r}" for name in changed]


def _torch_settings() -> dict[str, Any]:
    """Global switches of torch; empty while torch is not loaded, because the check must not load it."""
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "get_num_threads"):
        return {}
    return {
        "default dtype": torch.get_default_dtype(),
        "number of threads": torch.get_num_threads(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "gradients enabled": torch.is_grad_enabled(),
        "cudnn.benchmark": torch.backends.cudnn.benchmark,
        "cudnn.deterministic": torch.backends.cudnn.deterministic,
    }


def _changed_torch_settings(before: dict[str, Any]) -> list[str]:
    now = _torch_settings()
    problems = [f"torch {name}: {before[name]} became {now[name]}" for name in before if before[name] != now[name]]
    if not now:
        return problems
    torch = sys.modules["torch"]
    if before and problems:
        torch.set_default_dtype(before["default dtype"])
        torch.set_num_threads(before["number of threads"])
        torch.use_deterministic_algorithms(before["deterministic algorithms"])
        torch.set_grad_enabled(before["gradients enabled"])
        torch.backends.cudnn.benchmark = before["cudnn.benchmark"]
        torch.backends.cudnn.deterministic = before["cudnn.deterministic"]
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
        problems.append("an initialised process group")
    return problems


def _remaining(kind: str, find: Callable[[], list[str]]) -> list[str]:
    """What ``find`` still sees after the garbage collector ran and things had a moment to end."""
    found = find()
    if found:
        gc.collect()
    deadline = time.monotonic() + _LEAK_PATIENCE_S
    while found and time.monotonic() < deadline:
        time.sleep(0.05)
        found = find()
    return [f"{kind} {name}" for name in found]
