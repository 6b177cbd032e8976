"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from pet.utils.env import process_state
from pet.utils.suggest import did_you_mean

# Formats of files with plain values, such as the predictions of a test.
PLAIN_SUFFIXES = (".json", ".yaml", ".yml", ".pkl")
# Part of the temporary name, so that left-overs of a killed process are recognised and removed.
TEMPORARY = ".tmp-pet-"


def fsync_folder(folder: Path) -> None:
    """Make renames inside ``folder`` durable (a no-op where folders cannot be opened)."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def atomic_write(path: str | Path, mode: str = "wb") -> Iterator[IO[bytes]]:
    """Open a temporary file beside ``path``; on success flush, fsync and rename it over ``path``.

    On any error the temporary file is removed and ``path`` is untouched. A full disk is reported with the
    path and the free space.
    """
    path = Path(path)
    temporary = path.with_name(f"{path.name}{TEMPORARY}{os.getpid()}")
    with naming_full_disk(path):
        try:
            with open(temporary, mode) as handle:
                yield handle
                handle.flush()
                os.fsync(handle.fileno())
            os.replace(temporary, path)
            fsync_folder(path.parent)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


@contextmanager
def naming_full_disk(path: Path) -> Iterator[None]:
    """Inside, an error that says there is no space becomes one that also names the file and the space left."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) and not isinstance(error, FullDiskError):
            raise disk_full(path, error) from error
        raise


class FullDiskError(OSError):
    """There is no space for a file, which the text names."""


def disk_full(path: Path, error: OSError, needed: int = 0) -> FullDiskError:
    """An error that names the file, the cause, the space left and, if it is known, the space ``needed`` in bytes."""
    free = shutil.disk_usage(path.parent).free / 2**20
    need = f", {-(-10 * needed // 2**20) / 10} MiB needed" if needed else ""
    return FullDiskError(
        error.errno,
        f"cannot write {path}: {os.strerror(error.errno or 0)}, {free:.0f} MiB free in {path.parent}{need}. The previous files "
        "there are intact; free some space or set MISC.CKPT to another disk, then resume",
    )


def check_suffix(path: str | Path, allowed: Iterable[str], flag: str = "") -> str:
    """The suffix of a file that is to be written, in lower case.

    Args:
        path: the file.
        allowed: suffixes in lower case.
        flag: that names the file, for the message.

    Raises:
        ValueError: the suffix is none of them.
    """
    suffix, names = Path(path).suffix, list(allowed)
    if suffix.lower() not in names:
        hint = did_you_mean(suffix, names) if suffix else ""
        raise ValueError(
            f"{f'{flag} ' if flag else ''}{path}: the suffix says the format and must be one of {', '.join(names)}, not "
            f"'{suffix}'.{hint}"
        )
    return suffix.lower()


def prepare_file(path: str | Path) -> None:
    """Make the folder of a file, and refuse early, before long work, what could not be written at its end.

    Raises:
        OSError: the file is a folder, or its folder cannot be made or written.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file in it")
    wrong = next(place for place in path.absolute().parents if place.exists())
    if not wrong.is_dir():
        raise NotADirectoryError(f"{path} cannot be written: {wrong} is a file, not a folder")
    if not os.access(wrong, os.W_OK):
        raise PermissionError(f"{path} cannot be written: the folder {wrong} is not writable")
    path.parent.mkdir(parents=True, exist_ok=True)


def atomic_text(path: str | Path, text: str) -> None:
    """Write ``text`` (UTF-8) to ``path``, whole or not at all."""
    with atomic_write(path) as handle:
        handle.write(text.encode())


def finite(value: Any) -> Any:
    """Plain values with ``None`` for NaN and infinity, which JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return value


def atomic_json(path: str | Path, content: dict[str, Any]) -> None:
    """Write plain values as strict JSON, whole or not at all."""
    atomic_text(path, json.dumps(finite(content), indent=1, allow_nan=False) + "\n")


def remove_temporaries(folder: str | Path) -> list[str]:
    """Delete what killed processes left behind in ``folder``; returns the names removed."""
    removed = []
    for left in Path(folder).glob(f"*{TEMPORARY}*"):
        pid = left.name.rpartition("-")[2]
        if pid.isdigit() and int(pid) != os.getpid() and process_state(int(pid)) not in ("", "Z", "X"):
            continue  # another live process is writing it
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)
        removed.append(left.name)
    return removed


def disk_size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return path.stat().st_size if path.is_file() else sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def file_digest(path: str | Path, name: str = "sha256") -> str:
    """Hex digest of a file's content, read in 1 MiB pieces."""
    digest = hashlib.new(name)
    with open(path, "rb") as handle:
        while piece := handle.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def unique_stems(files: Sequence[str]) -> list[str]:
    """A name without folder and suffix for each file: its own, with the folder or else its place where needed to tell them apart.

    Example:
        >>> unique_stems(["a/1.jpg", "b/1.jpg", "b/2.jpg"])
        ['a_1', 'b_1', 'b_2']
    """
    # Samples in a packed file are called file[0], which a shell takes for a pattern.
    paths = [Path(file.replace("[", "_").rstrip("]")) for file in files]
    stems = [path.stem for path in paths]
    if len(set(stems)) == len(stems):
        return stems
    stems = [f"{path.parent.name}_{path.stem}" for path in paths]
    return stems if len(set(stems)) == len(stems) else [f"{index:06d}_{path.stem}" for index, path in enumerate(paths)]
