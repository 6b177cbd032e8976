"""One checkpoint file: written whole with its SHA-256 beside it, verified before it is used.

``model_iter100.pth`` is accompanied by ``model_iter100.pth.sha256`` (the format of ``sha256sum``), written before the file
itself appears; ``model_latest.pth`` is a link to the newest file.
"""

from __future__ import annotations

import os
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

import torch

from pet.utils.files import TEMPORARY, atomic_text, atomic_write, disk_full, file_digest, fsync_folder

LATEST, BEST = "model_latest.pth", "model_best.pth"
COMMON, DIGESTS = "state.pth", "SHA256SUMS"  # in the folder of a sharded checkpoint, see sharded.py
_NUMBERED = re.compile(r"model_(iter|epoch)(\d+)\.(pth|dcp)")


class DamagedCheckpoint(ValueError):
    """A checkpoint that must not be used; the text says why."""


class _HashingWriter:
    """Passes bytes on and hashes them; remembers the operating system's error, which torch would replace.

    Args:
        handle: unbuffered, so that no process forked meanwhile (a loader worker) inherits bytes it could write a second time.
    """

    def __init__(self, handle: BinaryIO) -> None:
        self._handle, self.digest = handle, sha256()
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        left = whole = memoryview(data).cast("B")
        try:
            while left:
                left = left[self._handle.write(left) :]
        except OSError as error:
            self.error = error
            raise
        self.digest.update(whole)
        return len(whole)

    def flush(self) -> None:
        """Nothing waits here."""


def tensors_in(state: Any) -> Iterator[torch.Tensor]:
    """All tensors of a nested state."""
    if isinstance(state, torch.Tensor):
        yield state
    elif isinstance(state, Mapping):
        for value in state.values():
            yield from tensors_in(value)
    elif isinstance(state, (list, tuple)):
        for value in state:
            yield from tensors_in(value)


def size_of(state: Any) -> int:
    """Bytes of all tensors of a nested state, which is about the size of its file."""
    return sum(tensor.nbytes for tensor in tensors_in(state))


def digest_path(path: Path) -> Path:
    """Where the checksum of ``path`` is kept."""
    return path.with_name(path.name + ".sha256")


def write_checkpoint(state: Mapping[str, Any], path: Path) -> None:
    """Write ``state`` (tensors and plain values) to ``path``.

    A crash at any moment leaves either no new file or a complete one with its checksum. A full disk is an ``OSError`` that
    names the file, the space left and the space needed; nothing that existed is lost.
    """
    with atomic_write(path) as handle:
        writer = _HashingWriter(handle.raw)  # type: ignore[attr-defined]  # the file below the buffer
        try:
            torch.save(dict(state), writer)  # type: ignore[arg-type]  # only write() and flush() are used
        except Exception as error:
            cause = writer.error or (error if isinstance(error, OSError) else None)
            if cause is not None:
                raise disk_full(path, cause, size_of(state)) from cause
            raise
        os.fsync(handle.fileno())
        atomic_text(digest_path(path), f"{writer.digest.hexdigest()}  {path.name}\n")


def verify_checkpoint(path: Path) -> None:
    """Raise ``DamagedCheckpoint`` unless the file's content is what was written.

    Compared with the checksum beside it; a file without one (copied, or from elsewhere) is checked by its zip records.
    """
    if path.is_dir():
        for name, digest in _listed(path).items():
            _verify_listed(path, name, digest)
        return
    if not path.is_file():
        raise DamagedCheckpoint(f"{path} does not exist")
    if verify_digest(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise DamagedCheckpoint(f"{path} cannot be read as a checkpoint, a file of torch.save: {error}") from error
    if broken is not None:
        raise DamagedCheckpoint(f"{path} is damaged in its record {broken}")


def _listed(path: Path) -> dict[str, str]:
    """Checksums of the files of a sharded checkpoint, by name."""
    if not (path / DIGESTS).is_file():
        raise DamagedCheckpoint(f"{path} is a folder and no sharded checkpoint; name a file in it, such as model_best.pth")
    listed = dict(line.split("  ", 1)[::-1] for line in (path / DIGESTS).read_text(errors="replace").splitlines() if "  " in line)
    if COMMON not in listed:
        raise DamagedCheckpoint(f"{path / DIGESTS} does not name {COMMON}: the list was damaged or cut")
    return listed


def _verify_listed(folder: Path, name: str, digest: str) -> None:
    if Path(name).name != name or not (folder / name).is_file():
        raise DamagedCheckpoint(f"{folder} has no {name}, which {DIGESTS} names")
    if file_digest(folder / name) != digest:
        raise DamagedCheckpoint(f"{folder / name} does not match its checksum in {DIGESTS}: the file was damaged or cut")


def verify_digest(path: Path) -> bool:
    """Whether a checksum lies beside ``path``; ``DamagedCheckpoint`` if it is not that of the file."""
    beside = digest_path(path.resolve())
    if not beside.is_file():
        return False
    expected = beside.read_text(encoding="utf-8", errors="replace").split()[:1]
    if expected != [file_digest(path)]:
        raise DamagedCheckpoint(f"{path} does not match its checksum in {beside.name}: the file was damaged or cut")
    return True


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Verify and load a checkpoint, a file or a folder, on the CPU.

    Only tensors and plain values are accepted; nothing in it is executed.
    """
    verify_checkpoint(path)
    if not path.is_dir():
        return _load(path)
    from pet.engine import sharded  # it imports this module

    return {name: sharded.restore(path, name, part) for name, part in _load(path / COMMON).items()}


def read_outline(path: Path) -> dict[str, Any]:
    """As ``read_checkpoint``, but the sharded tensors of a folder stay unread: they have a shape and no data."""
    if not path.is_dir():
        return read_checkpoint(path)
    _verify_listed(path, COMMON, _listed(path)[COMMON])
    return _load(path / COMMON)


def _load(path: Path) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DamagedCheckpoint(f"{path} cannot be loaded: {reason}") from error
    if not isinstance(content, dict):
        raise DamagedCheckpoint(f"{path} holds a {type(content).__name__}, not a checkpoint")
    return content


def numbered_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints ``model_iter<N>`` and ``model_epoch<N>`` in a folder, newest first (by time of writing, then number)."""
    found = [
        (path.stat().st_mtime_ns, int(match[2]), path)
        for path in folder.glob("model_*")
        if (match := _NUMBERED.fullmatch(path.name))
    ]
    return [path for _, _, path in sorted(found, reverse=True)]


def resume_candidates(folder: Path) -> tuple[list[Path], str]:
    """Files to try, best first, and what is wrong with ``model_latest.pth`` (empty if nothing)."""
    latest, numbered = folder / LATEST, numbered_checkpoints(folder)
    if not latest.is_symlink() and not latest.exists():
        return numbered, f"{latest} is missing" if numbered else ""
    if not latest.exists():
        return numbered, f"{latest} points to {os.readlink(latest)}, which does not exist"
    if latest.resolve().parent != folder.resolve():
        return numbered, f"{latest} points outside its folder, to {latest.resolve()}; it is not followed"
    target = latest.resolve()
    return [target, *(path for path in numbered if path.resolve() != target)], ""


def point_latest(folder: Path, target: Path) -> None:
    """Let ``model_latest.pth`` name ``target``, in one step; a copy where the file system has no links."""
    _point(folder / LATEST, target)


def _point(link: Path, target: Path) -> None:
    temporary = _link_or_copy(target, link, lambda path: os.symlink(target.name, path))
    os.replace(temporary, link)
    fsync_folder(link.parent)


def keep_best(source: Path, folder: Path) -> None:
    """Let ``model_best.pth`` be the content of ``source``, which retention may remove later: a hard link, else a copy.

    A folder it names instead, as ``model_latest.pth`` does; retention leaves it alone.
    """
    if source.is_dir():
        _point(folder / BEST, source)
        digest_path(folder / BEST).unlink(missing_ok=True)
        return
    beside = digest_path(source)
    digest = beside.read_text(encoding="utf-8").split()[0] if beside.is_file() else file_digest(source)
    temporary = _link_or_copy(source, folder / BEST, lambda path: os.link(source, path))
    # Between these two the old file has the new checksum; a copy, which takes long, is made before.
    atomic_text(digest_path(folder / BEST), f"{digest}  {BEST}\n")
    os.replace(temporary, folder / BEST)
    # os.replace between two links of one file does nothing and leaves the temporary name
    temporary.unlink(missing_ok=True)
    fsync_folder(folder)


def _link_or_copy(source: Path, target: Path, link: Callable[[Path], None]) -> Path:
    """A temporary file beside ``target``: what ``link`` makes, or a copy of ``source`` where the file system has no links."""
    temporary = target.with_name(f"{target.name}{TEMPORARY}{os.getpid()}")
    temporary.unlink(missing_ok=True)
    try:
        link(temporary)
    except OSError:
        shutil.copyfile(source, temporary)
    return temporary


def prune(folder: Path, keep: int, damaged: Sequence[Path] = ()) -> None:
    """Remove all but the newest ``keep`` numbered checkpoints; what ``model_latest.pth`` or ``model_best.pth`` name always stays.

    Files known as damaged do not count, so that ``keep`` good ones remain, and are removed.
    """
    named = {(folder / name).resolve() for name in (LATEST, BEST)}
    bad = {path.resolve() for path in damaged}
    good = [path for path in numbered_checkpoints(folder) if path.resolve() not in bad]
    for path in [*good[keep:], *damaged]:
        if path.resolve() not in named:
            remove_checkpoint(path)


def remove_checkpoint(path: Path) -> None:
    """Remove a checkpoint and its checksum; one that is half removed never has its name."""
    if path.is_dir():
        aside = path.with_name(f"{path.name}.old{TEMPORARY}{os.getpid()}")
        os.replace(path, aside)
        shutil.rmtree(aside)
    else:
        path.unlink(missing_ok=True)
        digest_path(path).unlink(missing_ok=True)
