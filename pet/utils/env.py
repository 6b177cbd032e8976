"""What a run runs on: the header of every log."""

from __future__ import annotations

import errno
import os
import platform
import shlex
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

# What torch, OpenCV, NumPy and C++ say when memory runs out; shared memory is a file system, so there it is "no space".
_MEMORY_RAN_OUT = (
    *("outofmemory", "out of memory", "allocate memory", "bad_alloc", "insufficient memory", "unable to allocate"),
    *("can't start new thread", "shared memory", "</torch_"),
)
_PACKAGES = ("torch", "torchvision", "timm", "numpy", "opencv-python", "fvcore", "yacs")


def package_versions() -> dict[str, str]:
    """Versions of Python, Pet and the main packages, without importing them."""
    from pet import __version__

    found = {"python": platform.python_version(), "pet": __version__}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def git_state(folder: Path) -> str:
    """Commit of a checkout and whether files differ from it; empty outside a checkout."""

    def git(*words: str) -> str:
        command = ["git", "--no-optional-locks", *words]  # a run changes nothing in the repository, not even its index
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + (" with local changes" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def usable_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory, shared memory or the memory of a device ran out, however the library that noticed puts it."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    text = f"{type(error).__name__}: {error}".lower()
    return any(sign in text for sign in _MEMORY_RAN_OUT)


def process_state(pid: int) -> str:
    """The letter that ``ps`` shows, such as ``T`` (stopped) or ``Z`` (ended, not waited for); empty if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def command() -> str:
    """The command that started this run, as it can be typed again."""
    return os.environ.get("PET_COMMAND") or shlex.join(["python", *sys.argv])


def describe_machine(folder: str | Path) -> list[str]:
    """Versions, cores, memory for loader workers, disk: one line each."""
    versions = ", ".join(f"{name} {version}" for name, version in package_versions().items())
    commit = git_state(Path(__file__).resolve().parents[2])
    shared = f"{shutil.disk_usage('/dev/shm').free >> 20} MiB shared memory, " if Path("/dev/shm").is_dir() else ""
    lines = [versions + (f", commit {commit}" if commit else "")]
    lines.append(
        f"{platform.platform()}, {usable_cores()} cores, {shared}{shutil.disk_usage(folder).free >> 30} GiB free in {folder}"
    )
    return lines
