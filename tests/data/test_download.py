"""Fetching data: resumed, verified, whole or not at all, and never outside the folder."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import io
import os
import stat
import struct
import tarfile
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest

from pet.data import catalog
from pet.data.download import RemoteFile, check_url, fetch, unpack

CONTENT = os.urandom(300_000)
MD5 = hashlib.md5(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves ``server.files``; knows ranges; ``/cut/NAME`` breaks off in the middle, ``/away/NAME`` redirects elsewhere."""

    def do_GET(self):
        self.server.requests.append((self.path, self.headers.get("Range")))
        mode, _, name = self.path.strip("/").rpartition("/")
        if mode == "away":
            self.send_response(302)
            self.send_header("Location", f"http://example.org/{name}")
            self.end_headers()
            return
        if name not in self.server.files:
            self.send_error(404)
            return
        data, start = self.server.files[name], 0
        if self.headers.get("Range") and mode != "norange":
            start = int(self.headers["Range"][6:-1])
            if start >= len(data):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        self.wfile.write(data[start : start + 100_000] if mode == "cut" else data[start:])

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.files, running.requests = {"a.bin": CONTENT}, []
        running.url = f"http://127.0.0.1:{running.server_address[1]}"
        thread = threading.Thread(target=running.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def names(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def test_a_file_is_fetched_once_and_verified(server, tmp_path):
    file = RemoteFile((f"{server.url}/a.bin",), "sub/a.bin", MD5)
    assert fetch(file, tmp_path).read_bytes() == CONTENT
    assert fetch(file, tmp_path).read_bytes() == CONTENT
    assert server.requests == [("/a.bin", None)]
    assert names(tmp_path) == ["sub", "sub/a.bin"]


def test_the_next_mirror_is_tried_after_a_missing_file_and_a_wrong_checksum(server, tmp_path):
    server.files["old.bin"] = b"older version"
    urls = tuple(f"{server.url}/{n}" for n in ("none.bin", "old.bin", "a.bin"))
    assert fetch(RemoteFile(urls, "a.bin", MD5), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("second", ["a.bin", "norange/a.bin"])
def test_a_broken_transfer_continues_where_it_ended(server, tmp_path, second):
    with pytest.raises(FileNotFoundError, match="the connection ended after 100000 of 300000 bytes"):
        fetch(RemoteFile((f"{server.url}/cut/a.bin",), "a.bin", MD5), tmp_path)
    assert names(tmp_path) == ["a.bin.part"]
    assert fetch(RemoteFile((f"{server.url}/{second}",), "a.bin", MD5), tmp_path).read_bytes() == CONTENT
    assert server.requests[-1] == (f"/{second}", "bytes=100000-")
    assert names(tmp_path) == ["a.bin"]


def test_a_complete_part_needs_only_its_new_name(server, tmp_path):
    (tmp_path / "a.bin.part").write_bytes(CONTENT)
    assert fetch(RemoteFile((f"{server.url}/a.bin",), "a.bin", MD5), tmp_path).read_bytes() == CONTENT


def test_failure_names_addresses_reasons_and_the_place_for_the_file(server, tmp_path):
    gone = "http://127.0.0.1:9/a.bin"  # the discard port: nothing listens
    urls = (f"{server.url}/none.bin", gone, "http://example.org/a.bin", f"{server.url}/a.bin")
    with pytest.raises(FileNotFoundError) as caught:
        fetch(RemoteFile(urls, "d/a.bin", "0" * 32), tmp_path)
    message = str(caught.value)
    for expected in (
        *urls,
        "404",
        "refused",
        "is not an https address",
        f"md5) is {MD5}, expected 000",
        str(tmp_path / "d" / "a.bin"),
        "DATA.ROOT",
    ):
        assert expected in message
    assert names(tmp_path) == ["d"]


def test_only_https_is_fetched_also_after_a_redirect(server, tmp_path):
    for url in ("http://example.org/a", "ftp://example.org/a", "file:///etc/passwd"):
        with pytest.raises(ValueError, match="not an https address"):
            check_url(url)
    with pytest.raises(FileNotFoundError, match="http://example.org/a.bin is not an https address"):
        fetch(RemoteFile((f"{server.url}/away/a.bin",), "a.bin", MD5), tmp_path)


def test_two_at_once_fetch_it_once(server, tmp_path):
    file = RemoteFile((f"{server.url}/a.bin",), "a.bin", MD5)
    threads = [threading.Thread(target=fetch, args=(file, tmp_path)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.requests) == 1
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_missing_built_in_set_is_fetched_and_read(server, tmp_path, monkeypatch):
    images = bytes((0, 0, 8, 3)) + struct.pack(">3I", 2, 3, 3) + bytes(range(18))
    labels = bytes((0, 0, 8, 1)) + struct.pack(">I", 2) + bytes((4, 9))
    files = {"t10k-images-idx3-ubyte.gz": gzip.compress(images), "t10k-labels-idx1-ubyte.gz": gzip.compress(labels)}
    server.files.update(files)
    digests = tuple(hashlib.md5(data).hexdigest() for data in files.values())
    monkeypatch.setitem(catalog.BUILT_IN, "mnist_test", catalog._idx_set("mnist", (), False, (f"{server.url}/",), digests, ()))
    dataset = catalog.build_dataset(["mnist_test"], False, root=tmp_path, download=True)
    assert dataset.labels().tolist() == [4, 9]
    assert np.array_equal(dataset.read(1).image[..., 0].ravel(), np.arange(9, 18))
    assert len(server.requests) == 2
    catalog.build_dataset(["mnist_test"], False, root=tmp_path, download=True)
    assert len(server.requests) == 2


# ------------------------------------------------------------------------------------------------------- archives


def make_tar(path: Path, *entries: tuple[str, bytes | None, dict]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, data, extra in entries:
            info = tarfile.TarInfo(name)
            info.size = len(data or b"")
            for key, value in extra.items():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(data or b""))
    return path


GOOD = ("set/a/1.txt", b"one", {})


def test_an_archive_is_fetched_and_unpacked(server, tmp_path):
    server.files["set.tar.gz"] = make_tar(tmp_path / "x.tar.gz", GOOD, ("set/b", None, {"type": tarfile.DIRTYPE})).read_bytes()
    target = tmp_path / "root"
    folder = fetch(RemoteFile((f"{server.url}/set.tar.gz",), "in/set.tar.gz", None, unpacks_to="set"), target)
    assert folder == target / "in" / "set"
    assert (folder / "a" / "1.txt").read_bytes() == b"one"
    assert names(target) == ["in", "in/set", "in/set.tar.gz", "in/set/a", "in/set/a/1.txt", "in/set/b"]


def test_zip_archives_unpack_too(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as container:
        container.writestr("set/a.txt", "one")
    assert (unpack(tmp_path / "x.zip", tmp_path / "out", "set") / "a.txt").read_text() == "one"


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (("../outside.txt", b"x", {}), "points outside"),
        (("set/../../outside.txt", b"x", {}), "points outside"),
        (("/tmp/pet_outside.txt", b"x", {}), "points outside"),
        (("set/link", None, {"type": tarfile.SYMTYPE, "linkname": "/etc"}), "link or device"),
        (("set/hard", None, {"type": tarfile.LNKTYPE, "linkname": "set/a/1.txt"}), "link or device"),
        (("set/device", None, {"type": tarfile.CHRTYPE}), "link or device"),
        (("set/pipe", None, {"type": tarfile.FIFOTYPE}), "link or device"),
        (("set/big", b"\0" * 5_000, {}), "larger than allowed"),
        (GOOD, "holds '1.txt' twice"),
    ],
)
def test_hostile_tars_are_refused_and_leave_nothing(tmp_path, entry, reason):
    archive = make_tar(tmp_path / "x.tar.gz", GOOD, entry)
    out = tmp_path / "out"
    with pytest.raises(ValueError, match=f"refused: .*{reason}"):
        unpack(archive, out, "set", max_bytes=4_000)
    assert names(out) == []
    assert not (tmp_path / "outside.txt").exists()


def test_hostile_zips_are_refused_and_leave_nothing(tmp_path):
    link = zipfile.ZipInfo("set/link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    for name, reason in (("../outside.txt", "points outside"), (link, "link or device")):
        with zipfile.ZipFile(tmp_path / "x.zip", "w") as container:
            container.writestr("set/a.txt", "one")
            container.writestr(name, "x")
        with pytest.raises(ValueError, match=reason):
            unpack(tmp_path / "x.zip", tmp_path / "out", "set")
        assert names(tmp_path / "out") == []


def test_too_many_files_a_damaged_archive_and_a_wrong_one_are_refused(tmp_path):
    archive = make_tar(tmp_path / "x.tar.gz", *((f"set/{i}", b"", {}) for i in range(20)))
    with pytest.raises(ValueError, match="more than 10 files"):
        unpack(archive, tmp_path / "out", "set", max_files=10)
    with pytest.raises(ValueError, match="holds no folder 'other'"):
        unpack(archive, tmp_path / "out", "other")
    archive.write_bytes(archive.read_bytes()[:60])
    with pytest.raises(ValueError, match="is damaged"):
        unpack(archive, tmp_path / "out", "set")
    assert names(tmp_path / "out") == []
