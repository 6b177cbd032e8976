"""Fetching data: resumed, verified, whole or not at all, and never outside the folder."""

from __future__ import annotations

import gzip
import hashlib
import io
import stat
import struct
import tarfile
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pet.data import catalog
from pet.data.archive import unpack
from pet.data.download import RemoteFile, check_space, check_url, fetch, fetch_all, space_needed
from pet.data.remote_sets import idx_files


@pytest.fixture
def content(server):
    return server.files["a.bin"]


@pytest.fixture
def md5(content):
    return hashlib.md5(content).hexdigest()


def names(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def test_a_file_is_fetched_once_and_verified(server, tmp_path, content, md5):
    file = RemoteFile((f"{server.url}/a.bin",), "sub/a.bin", md5)
    assert fetch(file, tmp_path).read_bytes() == content
    assert fetch(file, tmp_path).read_bytes() == content
    assert server.requests == [("/a.bin", None)]
    assert names(tmp_path) == ["sub", "sub/a.bin"]


def test_the_next_mirror_is_tried_after_a_missing_file_and_a_wrong_checksum(server, tmp_path, content, md5):
    server.files["old.bin"] = b"older version"
    urls = tuple(f"{server.url}/{n}" for n in ("none.bin", "old.bin", "a.bin"))
    assert fetch(RemoteFile(urls, "a.bin", md5), tmp_path).read_bytes() == content


@pytest.mark.parametrize("second", ["a.bin", "norange/a.bin"])
def test_a_broken_transfer_continues_where_it_ended(server, tmp_path, content, md5, second):
    with pytest.raises(FileNotFoundError, match="503"):
        fetch(RemoteFile((f"{server.url}/stop/a.bin",), "a.bin", md5), tmp_path)
    assert names(tmp_path) == ["a.bin.part"]
    assert fetch(RemoteFile((f"{server.url}/{second}",), "a.bin", md5), tmp_path).read_bytes() == content
    assert server.requests[-1] == (f"/{second}", "bytes=100000-")
    assert names(tmp_path) == ["a.bin"]


def test_a_connection_that_breaks_off_again_and_again_is_taken_up_as_long_as_it_brings_something(server, tmp_path, content, md5):
    assert fetch(RemoteFile((f"{server.url}/cut/a.bin",), "a.bin", md5), tmp_path).read_bytes() == content
    assert [start for _, start in server.requests] == [None, "bytes=100000-", "bytes=200000-"]


def test_a_cut_file_without_a_published_checksum_is_not_pieced_together(server, tmp_path):
    with pytest.raises(FileNotFoundError, match="the connection ended after 100000 of 300000 bytes"):
        fetch(RemoteFile((f"{server.url}/cut/a.bin",), "a.bin"), tmp_path)
    with pytest.raises(FileNotFoundError, match="it has 300000 bytes, expected 12"):
        fetch(RemoteFile((f"{server.url}/a.bin",), "a.bin", size=12), tmp_path)


def test_mirrors_without_a_published_checksum_do_not_complete_one_another(server, tmp_path, content):
    server.files["b.bin"] = bytes(len(content))
    urls = tuple(f"{server.url}/{name}" for name in ("cut/a.bin", "b.bin"))
    assert fetch(RemoteFile(urls, "a.bin"), tmp_path).read_bytes() == bytes(len(content))


@pytest.mark.parametrize("kind", ["md5", "sha1", "sha256"])
def test_published_checksums_of_three_kinds_are_compared(server, tmp_path, content, kind):
    digest = hashlib.new(kind, content).hexdigest()
    assert fetch(RemoteFile((f"{server.url}/a.bin",), "a.bin", digest), tmp_path).read_bytes() == content
    with pytest.raises(FileNotFoundError, match=rf"the checksum \({kind}\) is {digest}, expected 0"):
        fetch(RemoteFile((f"{server.url}/a.bin",), "b.bin", "0" * len(digest)), tmp_path)


def test_a_complete_part_needs_only_its_new_name(server, tmp_path, content, md5):
    (tmp_path / "a.bin.part").write_bytes(content)
    assert fetch(RemoteFile((f"{server.url}/a.bin",), "a.bin", md5), tmp_path).read_bytes() == content


def test_failure_names_addresses_reasons_and_the_place_for_the_file(server, tmp_path, md5):
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
        f"md5) is {md5}, expected 000",
        str(tmp_path / "d" / "a.bin"),
        "DATA.ROOT",
    ):
        assert expected in message
    assert names(tmp_path) == ["d"]


def test_only_https_is_fetched_also_after_a_redirect(server, tmp_path, md5):
    for url in ("http://example.org/a", "ftp://example.org/a", "file:///etc/passwd"):
        with pytest.raises(ValueError, match="not an https address"):
            check_url(url)
    with pytest.raises(FileNotFoundError, match="http://example.org/a.bin is not an https address"):
        fetch(RemoteFile((f"{server.url}/away/a.bin",), "a.bin", md5), tmp_path)


def test_two_at_once_fetch_it_once(server, tmp_path, content, md5):
    file = RemoteFile((f"{server.url}/a.bin",), "a.bin", md5)
    threads = [threading.Thread(target=fetch, args=(file, tmp_path)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.requests) == 1
    assert (tmp_path / "a.bin").read_bytes() == content


def test_a_missing_built_in_set_is_fetched_and_read(server, tmp_path, monkeypatch):
    images = bytes((0, 0, 8, 3)) + struct.pack(">3I", 2, 3, 3) + bytes(range(18))
    labels = bytes((0, 0, 8, 1)) + struct.pack(">I", 2) + bytes((4, 9))
    files = {"t10k-images-idx3-ubyte.gz": gzip.compress(images), "t10k-labels-idx1-ubyte.gz": gzip.compress(labels)}
    server.files.update(files)
    published = [(0, "0" * 32)] * 2 + [(len(data), hashlib.md5(data).hexdigest()) for data in files.values()]
    known = catalog.BUILT_IN["mnist_test"]
    remote = idx_files("mnist", (f"{server.url}/",), published)[2:]
    monkeypatch.setitem(catalog.BUILT_IN, "mnist_test", replace(known, remote=remote))
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
    folder = fetch(RemoteFile((f"{server.url}/set.tar.gz",), "in/set.tar.gz", holds=("set",)), target)
    assert folder == target / "in" / "set"
    assert (folder / "a" / "1.txt").read_bytes() == b"one"
    assert names(target) == ["in", "in/set", "in/set.tar.gz", "in/set/a", "in/set/a/1.txt", "in/set/b"]


def test_zip_archives_unpack_too(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as container:
        container.writestr("set/a.txt", "one")
    unpack(tmp_path / "x.zip", tmp_path / "out", ["set"])
    assert (tmp_path / "out" / "set" / "a.txt").read_text() == "one"


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
        (GOOD, "holds 'set/a/1.txt' twice"),
    ],
)
def test_hostile_tars_are_refused_and_leave_nothing(tmp_path, entry, reason):
    archive = make_tar(tmp_path / "x.tar.gz", GOOD, entry)
    out = tmp_path / "out"
    with pytest.raises(ValueError, match=f"refused: .*{reason}"):
        unpack(archive, out, ["set"], max_bytes=4_000)
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
            unpack(tmp_path / "x.zip", tmp_path / "out", ["set"])
        assert names(tmp_path / "out") == []


def test_too_many_files_a_damaged_archive_and_a_wrong_one_are_refused(tmp_path):
    archive = make_tar(tmp_path / "x.tar.gz", *((f"set/{i}", b"", {}) for i in range(20)))
    with pytest.raises(ValueError, match="more than 10 files"):
        unpack(archive, tmp_path / "out", ["set"], max_files=10)
    with pytest.raises(ValueError, match="does not hold 'other'"):
        unpack(archive, tmp_path / "out", ["other"])
    archive.write_bytes(archive.read_bytes()[:60])
    with pytest.raises(ValueError, match="is damaged"):
        unpack(archive, tmp_path / "out", ["set"])
    assert names(tmp_path / "out") == []


def test_archives_of_one_set_are_unpacked_into_the_same_folders(tmp_path):
    first = make_tar(tmp_path / "1.tar.gz", ("kit/VOC/img/a.jpg", b"a", {}), ("kit/VOC/sets/train.txt", b"a", {}))
    second = make_tar(tmp_path / "2.tar.gz", ("kit/VOC/img/b.jpg", b"b", {}), ("kit/VOC/sets/test.txt", b"b", {}))
    out = tmp_path / "out"
    unpack(first, out, ["kit/VOC/sets/train.txt"])
    unpack(second, out, ["kit/VOC/sets/test.txt"])
    assert sorted(path.name for path in out.rglob("*") if path.is_file()) == ["a.jpg", "b.jpg", "test.txt", "train.txt"]


def test_archives_inside_an_archive_are_unpacked_where_they_lie_and_what_a_mac_adds_is_left_out(tmp_path):
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as container:
        container.writestr("maps/1.png", "1")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as container:
        container.writestr("notes/maps.json", "{}")
        container.writestr("__MACOSX/notes/._maps.json", "x")
        container.writestr("notes/maps.zip", inner.getvalue())
    unpack(tmp_path / "x.zip", tmp_path / "out", ["notes/maps.json", "notes/maps"], ["notes/maps.zip"])
    assert names(tmp_path / "out") == ["notes", "notes/maps", "notes/maps.json", "notes/maps/1.png"]


# -------------------------------------------------------------------------------------------------- several files


def test_one_failure_does_not_keep_the_others_back_and_each_is_named(server, tmp_path, content, md5):
    good = [RemoteFile((f"{server.url}/a.bin",), f"{i}.bin", md5) for i in range(3)]
    bad = [RemoteFile((f"{server.url}/none.bin",), "x.bin", md5), RemoteFile((f"{server.url}/a.bin",), "y.bin", "0" * 32)]
    problems = fetch_all([bad[0], *good, bad[1]], tmp_path, threads=3)
    assert len(problems) == 2
    assert "x.bin" in problems[0]
    assert "404" in problems[0]
    assert "y.bin" in problems[1]
    assert "expected 000" in problems[1]
    assert names(tmp_path) == ["0.bin", "1.bin", "2.bin"]


def test_different_files_of_one_folder_are_fetched_at_the_same_time(server, tmp_path):
    """Each answer waits until both files were asked for."""
    barrier = threading.Barrier(2, timeout=10)

    class Together(dict):
        def __getitem__(self, name):
            barrier.wait()
            return super().__getitem__(name)

    server.files = Together(server.files | {"b.bin": b"b"})
    files = [RemoteFile((f"{server.url}/{name}",), name) for name in ("a.bin", "b.bin")]
    assert fetch_all(files, tmp_path, threads=2) == []


def test_an_archive_is_deleted_only_after_it_was_unpacked_and_the_next_run_does_nothing(server, tmp_path):
    server.files["good.tar.gz"] = make_tar(tmp_path / "x.tar.gz", GOOD).read_bytes()
    server.files["evil.tar.gz"] = make_tar(tmp_path / "y.tar.gz", ("../evil.txt", b"x", {})).read_bytes()
    files = [
        RemoteFile((f"{server.url}/{name}.tar.gz",), f"{name}.tar.gz", holds=(holds,))
        for name, holds in (("good", "set/a"), ("evil", "evil.txt"))
    ]
    root = tmp_path / "root"
    problems = fetch_all(files, root, delete=True, threads=2)
    assert len(problems) == 1
    assert "refused: its entry '../evil.txt' points outside" in problems[0]
    assert names(root) == ["evil.tar.gz", "set", "set/a", "set/a/1.txt"]
    asked = len(server.requests)
    assert fetch_all(files[:1], root, delete=True) == []
    assert len(server.requests) == asked


def test_the_room_is_counted_with_what_is_there_already_and_a_full_disk_is_told_before_the_start(tmp_path):
    files = [RemoteFile((), f"{i}.zip", "0" * 32, holds=(f"{i}",), size=1000, growth=2.0) for i in range(4)]
    assert space_needed(files, tmp_path) == 4 * 1000 + 4 * 2000
    assert space_needed(files, tmp_path, unpacked=False) == 4 * 1000
    assert space_needed(files, tmp_path, delete=True, threads=2) == 2 * 1000 + 4 * 2000
    (tmp_path / "0").mkdir()
    (tmp_path / "1.zip").write_bytes(b"x" * 1000)
    (tmp_path / "2.zip.part").write_bytes(b"x" * 400)
    assert space_needed(files, tmp_path) == 600 + 1000 + 3 * 2000
    assert "1.0 MiB needed" in check_space(1 << 20, tmp_path / "later" / "on")
    with pytest.raises(OSError, match="not enough room: 1073741824.0 GiB needed, .* free at"):
        check_space(1 << 60, tmp_path / "later")
