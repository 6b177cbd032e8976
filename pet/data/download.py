"""Fetching public data sets: several mirrors, checksums, resumed transfers, safe unpacking."""

from __future__ import annotations

import fcntl
import http.client
import os
import shutil
import tarfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.parse import urlsplit

from pet.utils.files import TEMPORARY, file_digest
from pet.utils.logger import LOGGER

Entry = tuple[str, bool, IO[bytes] | None]  # name, whether it is a folder, content; None: neither folder nor file

_TIMEOUT_S = 30.0
_PIECE = 1 << 20
MAX_FILE_BYTES = 200 << 30
MAX_UNPACKED_BYTES = 8 << 30
MAX_UNPACKED_FILES = 200_000


@dataclass(frozen=True)
class RemoteFile:
    """A file with one or more addresses.

    Attributes:
        urls: mirrors, tried in order; https, or http on this machine.
        path: where it belongs, relative to the folder given to ``fetch``.
        md5: checksum as published; ``None`` if none is.
        unpacks_to: name of the folder an archive holds; empty for a plain file.
    """

    urls: tuple[str, ...]
    path: str
    md5: str | None = None
    unpacks_to: str = ""


def check_url(url: str) -> None:
    """Refuse what is not https; plain http is allowed on this machine (a test server, a tunnel)."""
    parts = urlsplit(url)
    local = parts.hostname in ("localhost", "127.0.0.1", "::1")
    if parts.scheme != "https" and not (parts.scheme == "http" and local):
        raise ValueError(f"{url} is not an https address; data are fetched over https only")


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        check_url(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def fetch(file: RemoteFile, folder: Path) -> Path:
    """Fetch one file unless it is there, verify it, and unpack it if it is an archive.

    A transfer that broke off continues from its ``.part`` file. The file appears under its name when it is complete and its
    checksum
    right. Processes that want the same file wait for the first one.

    Returns:
        The file, or the folder it was unpacked to.

    Raises:
        FileNotFoundError: no mirror gave the right file; names the addresses, what went wrong, and where to put the file by hand.
    """
    target = folder / file.path
    result = target.parent / file.unpacks_to if file.unpacks_to else target
    if result.exists():
        return result
    target.parent.mkdir(parents=True, exist_ok=True)
    with _locked(target.parent):
        if result.exists():
            return result
        if not target.exists():
            _transfer(file, target)
        if file.unpacks_to:
            unpack(target, target.parent, file.unpacks_to)
    return result


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder; the lock goes with the process, however that ends."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _transfer(file: RemoteFile, target: Path) -> None:
    part = target.with_name(target.name + ".part")
    if file.md5 is None:
        part.unlink(missing_ok=True)  # nothing would notice halves of two versions
    problems = []
    for url in file.urls:
        try:
            check_url(url)
            _receive(url, part)
        except (OSError, http.client.HTTPException, ValueError) as error:
            problems.append(f"{url}: {error}")
            continue
        found = file_digest(part, "md5") if file.md5 else None
        if found == file.md5:
            os.replace(part, target)
            return
        problems.append(f"{url}: the checksum (md5) is {found}, expected {file.md5}")
        part.unlink()
    raise FileNotFoundError(
        f"cannot fetch {target.name}:\n  "
        + "\n  ".join(problems)
        + f"\nFetch it by hand from one of these addresses and put it at {target.absolute()}"
        + (f" (md5 {file.md5})" if file.md5 else "")
        + ", or set DATA.ROOT (environment variable PET_DATA) to a folder that has the data"
    )


def _receive(url: str, part: Path) -> None:
    """Append to ``part`` what is missing of the file at ``url``."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "pet", **({"Range": f"bytes={have}-"} if have else {})})
    opener = urllib.request.build_opener(_Redirects)
    LOGGER.info("fetching %s%s", url, f", continuing at {have / 2**20:.1f} MiB" if have else "")
    try:
        response = opener.open(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416 and have:  # nothing is left to send: complete, which the checksum decides
                return
        raise
    with response:
        continues = response.status == 206 and str(response.headers.get("Content-Range", "")).startswith(f"bytes {have}-")
        length = response.headers.get("Content-Length")
        with open(part, "ab" if continues else "wb") as out:
            received = _copy(response, out, MAX_FILE_BYTES)
        if length is not None and received != int(length):
            raise OSError(f"the connection ended after {received} of {length} bytes; run again to continue")


def _copy(source: IO[bytes], target: IO[bytes], limit: int) -> int:
    total = 0
    while piece := source.read(_PIECE):
        total += len(piece)
        if total > limit:
            raise OSError(f"more than the limit of {limit} bytes")
        target.write(piece)
    target.flush()
    os.fsync(target.fileno())
    return total


def unpack(
    archive: Path, folder: Path, name: str, max_bytes: int = MAX_UNPACKED_BYTES, max_files: int = MAX_UNPACKED_FILES
) -> Path:
    """Unpack the folder ``name`` of a tar or zip archive into ``folder``, whole or not at all.

    Raises:
        ValueError: the archive is damaged, or holds links, devices, absolute paths, ``..``, more than ``max_files`` files or more
            than ``max_bytes`` bytes, or no folder ``name``. Nothing is left behind then.
    """
    temporary = folder / f"{name}{TEMPORARY}{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        entries = _zip_entries(archive) if zipfile.is_zipfile(archive) else _tar_entries(archive)
        _write_entries(archive, entries, temporary, max_bytes, max_files)
        if not (temporary / name).is_dir():
            raise ValueError(f"{archive} holds no folder '{name}'")
        os.replace(temporary / name, folder / name)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{archive} is damaged: {error}. Delete it and fetch it again") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder / name


def _inside(archive: Path, folder: Path, name: str) -> Path:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in name.split("/")[0]:
        raise ValueError(f"{archive} refused: its entry '{name}' points outside the folder")
    return folder.joinpath(*path.parts)


def _write_entry(archive: Path, source: IO[bytes], target: Path, room: int) -> int:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(target, "xb") as out:
            return _copy(source, out, room)
    except FileExistsError as error:
        raise ValueError(f"{archive} refused: it holds '{target.name}' twice") from error
    except OSError as error:
        if "limit" in str(error):
            raise ValueError(f"{archive} refused: unpacked it is larger than allowed ({error})") from error
        raise


def _tar_entries(archive: Path) -> Iterator[Entry]:
    with tarfile.open(archive) as tar:
        for entry in tar:
            yield entry.name, entry.isdir(), tar.extractfile(entry) if entry.isreg() else None


def _zip_entries(archive: Path) -> Iterator[Entry]:
    with zipfile.ZipFile(archive) as container:
        for entry in container.infolist():
            plain = (entry.external_attr >> 28) in (0, 8)  # Unix file type: none given, regular file
            yield entry.filename, entry.is_dir(), container.open(entry) if plain and not entry.is_dir() else None


def _write_entries(archive: Path, entries: Iterator[Entry], folder: Path, max_bytes: int, max_files: int) -> None:
    room = max_bytes
    for count, (name, is_folder, source) in enumerate(entries, start=1):
        target = _inside(archive, folder, name)
        if count > max_files:
            raise ValueError(f"{archive} refused: it holds more than {max_files} files")
        if is_folder:
            target.mkdir(parents=True, exist_ok=True)
        elif source is None:
            raise ValueError(f"{archive} refused: its entry '{name}' is a link or device, not a file")
        else:
            with source:
                room -= _write_entry(archive, source, target, room)
