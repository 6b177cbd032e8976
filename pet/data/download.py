"""Fetching public data sets: several mirrors, checksums, resumed transfers, several files at once."""

from __future__ import annotations

import fcntl
import http.client
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from pet.data.archive import unpack
from pet.utils.files import file_digest
from pet.utils.logger import LOGGER

MAX_FILE_BYTES = 200 << 30
_TIMEOUT_S = 30.0
_REPORT_S = 10.0  # between two lines about a transfer
_PIECE = 1 << 20
_MAX_ATTEMPTS = 20  # connections to one mirror, each of which must bring something
_DIGESTS = {32: "md5", 40: "sha1", 64: "sha256"}


@dataclass(frozen=True)
class RemoteFile:
    """A file with one or more addresses.

    Attributes:
        urls: mirrors, tried in order; https, or http on this machine.
        path: where it belongs, relative to the folder given to ``fetch``.
        digest: checksum as published, in hex: md5, sha1 or sha256 by its length; ``None`` if none is.
        holds: what an archive holds, relative to the folder it lies in, and is unpacked to; empty for a plain file.
        nested: zip archives inside it that are unpacked, too.
        size: bytes, 0 if unknown; without a checksum the file must have this size.
        growth: how many times larger it becomes unpacked, about.
    """

    urls: tuple[str, ...]
    path: str
    digest: str | None = None
    holds: tuple[str, ...] = ()
    nested: tuple[str, ...] = ()
    size: int = 0
    growth: float = 1.1

    @property
    def checksum(self) -> str:
        """Algorithm and digest as text; empty if none is published."""
        return f"{_DIGESTS[len(self.digest)]} {self.digest}" if self.digest else ""

    def is_there(self, folder: Path, unpacked: bool = True) -> bool:
        """Whether it need not be fetched any more; with ``unpacked``, nor be unpacked."""
        target = folder / self.path
        if self.holds and all((target.parent / name).exists() for name in self.holds):
            return True
        return target.exists() and not (unpacked and self.holds)

    def problem(self, path: Path) -> str:
        """How the file at ``path`` differs from the published one; empty if it does not."""
        if self.digest:
            name = _DIGESTS[len(self.digest)]
            found = file_digest(path, name)
            return "" if found == self.digest else f"the checksum ({name}) is {found}, expected {self.digest}"
        found_size = path.stat().st_size
        return f"it has {found_size} bytes, expected {self.size}" if self.size not in (0, found_size) else ""


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


def fetch(file: RemoteFile, folder: Path, *, unpacked: bool = True, delete: bool = False) -> Path:
    """Fetch one file unless it is there, verify it, and unpack it if it is an archive.

    A transfer that broke off continues from its ``.part`` file. The file appears under its name when it is complete and its
    checksum right. Threads and processes that want the same file wait for the first one.

    Args:
        file: what to fetch.
        folder: where its path starts.
        unpacked: unpack archives.
        delete: delete an archive that was unpacked.

    Returns:
        The file, or the first thing that it was unpacked to.

    Raises:
        FileNotFoundError: no mirror gave the right file; names the addresses, what went wrong, and where to put the file by hand.
        ValueError: the archive is damaged, or not to be trusted.
    """
    target = folder / file.path
    if not file.is_there(folder, unpacked) or (delete and target.exists()):
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target):
            if not file.is_there(folder, unpacked=False):
                _transfer(file, target)
            if not file.is_there(folder, unpacked):
                LOGGER.info("unpacking %s", target)
                unpack(target, target.parent, file.holds, file.nested)
            if delete and unpacked and file.holds:
                target.unlink(missing_ok=True)
    return target.parent / file.holds[0] if unpacked and file.holds else target


def fetch_all(
    files: Sequence[RemoteFile], folder: Path, *, unpacked: bool = True, delete: bool = False, threads: int = 1
) -> list[str]:
    """Fetch several files, so many at once; the others are fetched although one fails.

    Returns:
        What went wrong with each file that failed, its path included.
    """

    def attempt(file: RemoteFile) -> str:
        try:
            fetch(file, folder, unpacked=unpacked, delete=delete)
        except (OSError, ValueError) as error:
            LOGGER.warning("%s failed", file.path)
            return str(error)
        LOGGER.info("%s: done", file.path)
        return ""

    # Its threads do not outlive the main one, as those of an executor do: Ctrl-C ends a transfer of hours at once.
    with ThreadPool(max(1, min(threads, len(files)))) as pool:
        return [problem for problem in pool.imap(attempt, files) if problem]


def space_needed(
    files: Sequence[RemoteFile], folder: Path, *, unpacked: bool = True, delete: bool = False, threads: int = 1
) -> int:
    """Bytes that ``fetch_all`` with the same arguments takes at most, about; archives that are deleted are never all there."""
    missing = [file for file in files if not file.is_there(folder, unpacked)]
    archives = sorted((_still_to_come(file, folder) for file in missing), reverse=True)
    grown = sum(int(file.size * file.growth) for file in missing if file.holds) if unpacked else 0
    return grown + sum(archives[:threads] if delete else archives)


def _still_to_come(file: RemoteFile, folder: Path) -> int:
    target = folder / file.path
    part = _part_of(target)
    have = file.size if target.exists() else part.stat().st_size if part.exists() else 0
    return max(file.size - have, 0)


def check_space(needed: int, folder: Path) -> str:
    """Compare ``needed`` bytes with what is free where ``folder`` is or will be.

    Returns:
        Both as text.

    Raises:
        OSError: there is not enough, or a file is where the folder should be.
    """
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise NotADirectoryError(f"{there} is a file, so nothing can be put into {folder}; name a folder with --save-dir")
    free = shutil.disk_usage(there).free
    text = f"{in_units(needed)} needed, {in_units(free)} free at {there}"
    if needed > free:
        raise OSError(f"not enough room: {text}. Choose another disk with --save-dir, or free some")
    return text


def in_units(count: int) -> str:
    """A number of bytes for people."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def _part_of(target: Path) -> Path:
    return target.with_name(target.name + ".part")


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Let one thread of one process work on ``target``; the lock goes with the process, however that ends."""
    path = target.with_name(f".{target.name}.lock")
    while True:
        handle = os.open(path, os.O_CREAT | os.O_RDWR)
        fcntl.flock(handle, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), path.stat()):
                break
        os.close(handle)  # whoever held it has removed the file meanwhile
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def _transfer(file: RemoteFile, target: Path) -> None:
    part = _part_of(target)
    problems = []
    for url in file.urls:
        if file.digest is None:
            part.unlink(missing_ok=True)  # nothing would notice halves of two versions
        try:
            check_url(url)
            _receive_all(url, part, resumes=file.digest is not None)
        except (OSError, http.client.HTTPException, ValueError) as error:
            problems.append(f"{url}: {error}")
            continue
        problem = file.problem(part)
        if not problem:
            os.replace(part, target)
            return
        problems.append(f"{url}: {problem}")
        part.unlink()
    raise FileNotFoundError(
        f"cannot fetch {target.name}:\n  "
        + "\n  ".join(problems)
        + f"\nFetch it by hand from one of these addresses and put it at {target.absolute()}"
        + (f" ({file.checksum})" if file.digest else "")
        + ", or set DATA.ROOT (environment variable PET_DATA) to a folder that has the data"
    )


def _receive_all(url: str, part: Path, resumes: bool) -> None:
    """Receive the file at ``url``; a connection that breaks off is made anew as long as each brings something."""
    for attempt in range(1, _MAX_ATTEMPTS + 1):
        have = part.stat().st_size if part.exists() else 0
        try:
            _receive(url, part, have)
            return
        except (OSError, http.client.HTTPException) as error:
            if not resumes or attempt == _MAX_ATTEMPTS or not part.exists() or part.stat().st_size <= have:
                raise
            LOGGER.warning("%s: %s", url, error)


def _receive(url: str, part: Path, have: int) -> None:
    """Append to ``part``, which has so many bytes, what is missing of the file at ``url``."""
    request = urllib.request.Request(url, headers={"User-Agent": "pet", **({"Range": f"bytes={have}-"} if have else {})})
    opener = urllib.request.build_opener(_Redirects)
    LOGGER.info("fetching %s%s", url, f", continuing at {in_units(have)}" if have else "")
    try:
        response = opener.open(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416 and have:  # nothing is left to send: complete, which the checksum decides
                return
        raise
    with response:
        continues = response.status == 206 and str(response.headers.get("Content-Range", "")).startswith(f"bytes {have}-")
        length = int(response.headers.get("Content-Length") or 0)
        with open(part, "ab" if continues else "wb") as out:
            received = _copy(response, out, part.name.removesuffix(".part"), have if continues else 0, length)
        if length and received != length:
            raise OSError(f"the connection ended after {received} of {length} bytes; run again to continue")


def _copy(source: IO[bytes], target: IO[bytes], name: str, have: int, length: int) -> int:
    """Copy what is received, and say now and then how far it is; the number of bytes."""
    total, start, reported = 0, time.monotonic(), time.monotonic()
    while piece := source.read(_PIECE):
        total += len(piece)
        if have + total > MAX_FILE_BYTES:
            raise OSError(f"more than the limit of {MAX_FILE_BYTES} bytes")
        target.write(piece)
        now = time.monotonic()
        if now - reported >= _REPORT_S:
            reported = now
            share = f" of {in_units(have + length)} ({(have + total) / (have + length):.0%})" if length else ""
            LOGGER.info("%s: %s%s, %s/s", name, in_units(have + total), share, in_units(int(total / (now - start))))
    target.flush()
    os.fsync(target.fileno())
    return total
