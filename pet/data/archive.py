"""Unpacking archives that others made: whole or not at all, and never outside the folder."""

from __future__ import annotations

import fcntl
import glob
import gzip
import lzma
import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from pet.utils.files import TEMPORARY

Entry = tuple[str, bool, IO[bytes] | None]  # name, whether it is a folder, content; None: neither folder nor file

MAX_FILES = 400_000  # the largest archive of a public set that is known here, panoptic COCO, holds 123,000
# Archives may unpack to so many times their own size; small ones to more, because texts and label maps shrink well.
_GROWTH, _SMALL_GROWTH, _SMALL_ROOM, _MIN_ROOM = 4, 100, 8 << 30, 64 << 20
_PIECE = 1 << 20
_FOREIGN = "__MACOSX"  # what the Finder of macOS adds to archives
_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, RuntimeError)


def unpack(
    archive: Path,
    folder: Path,
    holds: Sequence[str],
    nested: Sequence[str] = (),
    *,
    max_bytes: int | None = None,
    max_files: int = MAX_FILES,
) -> None:
    """Unpack a tar or zip archive into ``folder``, beside what is there already.

    Nothing appears in ``folder`` before everything was unpacked and checked, and what ``holds`` names appears last: if it is
    there, all is.

    Args:
        archive: the file.
        folder: where to.
        holds: what must be in it, paths.
        nested: zip archives inside it that are unpacked where they lie, and removed.
        max_bytes: limit for all that comes out; default: four times the archive, or if that is more a hundred times the archive
            up to 8 GiB.
        max_files: limit for the number of entries.

    Raises:
        ValueError: the archive is damaged, or holds links, devices, absolute paths, ``..``, or more than the limits, or
            lacks something. Nothing is left behind then.
    """
    for left in glob.glob(f"{glob.escape(str(folder / archive.name))}{TEMPORARY}*"):  # of a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    temporary = folder / f"{archive.name}{TEMPORARY}{os.getpid()}"
    temporary.mkdir(parents=True)
    room = _default_room(archive.stat().st_size) if max_bytes is None else max_bytes
    try:
        room = _write_all(archive, temporary, room, max_files)
        for name in nested:
            room = _write_all(temporary / name, (temporary / name).parent, room, max_files)
            (temporary / name).unlink()
        missing = [name for name in holds if not (temporary / name).exists()]
        if missing:
            raise ValueError(f"{archive} does not hold '{missing[0]}'; it is another archive than expected")
        _move_all(temporary, folder, [folder / name for name in holds])
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _default_room(size: int) -> int:
    return max(_GROWTH * size, min(_SMALL_GROWTH * size, _SMALL_ROOM), _MIN_ROOM)


def _write_all(archive: Path, folder: Path, room: int, max_files: int) -> int:
    """Write the entries of an archive below ``folder``; what is left of ``room``, bytes."""
    try:
        if not archive.is_file():
            raise EOFError("it is missing")
        entries = _zip_entries(archive) if zipfile.is_zipfile(archive) else _tar_entries(archive)
        for count, (name, is_folder, source) in enumerate(entries, start=1):
            if count > max_files:
                raise ValueError(f"{archive} refused: it holds more than {max_files} files")
            room -= _write_entry(archive, folder, name, is_folder, source, room)
    except _DAMAGE as error:
        raise ValueError(f"{archive} is damaged: {error}. Delete it and fetch it again") from error
    return room


def _write_entry(archive: Path, folder: Path, name: str, is_folder: bool, source: IO[bytes] | None, room: int) -> int:
    """Write one entry; its size in bytes."""
    target = _inside(archive, folder, name)
    if is_folder:
        target.mkdir(parents=True, exist_ok=True)
        return 0
    if source is None:
        raise ValueError(f"{archive} refused: its entry '{name}' is a link or device, not a file")
    if name.startswith(f"{_FOREIGN}/"):
        return 0
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with source, open(target, "xb") as out:
            total = sum(out.write(piece) for piece in _pieces(source, room))
    except FileExistsError as error:
        raise ValueError(f"{archive} refused: it holds '{name}' twice") from error
    if total > room:
        raise ValueError(f"{archive} refused: unpacked it is larger than allowed ('{name}' passes the limit)")
    return total


def _pieces(source: IO[bytes], most: int) -> Iterator[bytes]:
    """The content in pieces, no further than the one that exceeds ``most`` bytes."""
    while most >= 0 and (piece := source.read(_PIECE)):
        most -= len(piece)
        yield piece


def _inside(archive: Path, folder: Path, name: str) -> Path:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in name.split("/")[0]:
        raise ValueError(f"{archive} refused: its entry '{name}' points outside the folder")
    return folder.joinpath(*path.parts)


def _tar_entries(archive: Path) -> Iterator[Entry]:
    with tarfile.open(archive) as tar:
        for entry in tar:
            yield entry.name, entry.isdir(), tar.extractfile(entry) if entry.isreg() else None


def _zip_entries(archive: Path) -> Iterator[Entry]:
    with zipfile.ZipFile(archive) as container:
        for entry in container.infolist():
            plain = (entry.external_attr >> 28) in (0, 8)  # Unix file type: none given, regular file
            yield entry.filename, entry.is_dir(), container.open(entry) if plain and not entry.is_dir() else None


def _move_all(source: Path, folder: Path, last: Sequence[Path]) -> None:
    """Move everything below ``source`` into ``folder``, folders in one step where there is none of that name yet."""
    with locked_folder(folder):  # two archives of one set share folders
        moves = list(_moves(source, folder))
        moves.sort(key=lambda move: any(move[1] == path or move[1] in path.parents for path in last))
        for origin, target in moves:
            os.replace(origin, target)


def _moves(source: Path, folder: Path) -> Iterator[tuple[Path, Path]]:
    for origin in sorted(source.iterdir()):
        target = folder / origin.name
        if origin.is_dir() and target.is_dir():
            yield from _moves(origin, target)
        else:
            yield origin, target


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Hold a folder against other threads and processes; the lock goes with the process, however that ends."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
