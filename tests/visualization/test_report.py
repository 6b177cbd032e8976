"""The report is made of whatever a folder holds, in any state, and nothing in it can become markup."""

from __future__ import annotations

import json
import logging
import math
import os
import re
import struct
import zlib
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urljoin, urlsplit

import cv2
import numpy as np
import pytest

from pet.utils.images import write_png
from pet.utils.logger import LOGGER
from pet.visualization.curves import Curve
from pet.visualization.report import report_run, write_report
from pet.visualization.report.charts import charts_of, thinned
from pet.visualization.report.html import data_script, duration, element, number
from pet.visualization.report.images import embed_all
from pet.visualization.report.run import read_run
from tests.visualization.report_folders import NASTY, start_of, training_rows, write_rows, write_run


class Page(HTMLParser):
    """What a page consists of."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)

    def titles(self) -> list[str]:
        return [str(attrs["id"]) for tag, attrs in self.tags if tag == "h2"]


ALL = ["curves", "results", "test", "pictures", "data", "troubles", "configuration", "environment", "hooks", "files"]


def test_a_whole_run_has_every_section(tmp_path: Path) -> None:
    page = Page(write_report(write_run(tmp_path / "run")))
    assert page.titles() == ALL
    for word in (
        "finished",
        "30 updates done",
        "1 min 30 s",
        "32",
        "SOLVER.OPTIMIZER.BASE_LR",
        "my_train: 20 images",
        "2 times",
        "second line",
        "torch 2",
    ):
        assert word in page.text, word
    assert "a traceback" not in page.text
    assert "all is well" not in page.text


def test_the_page_asks_for_nothing_but_itself(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    page = Page(write_report(folder))
    sources = [str(attrs[name]) for _, attrs in page.tags for name in ("src", "href", "srcset", "action") if attrs.get(name)]
    assert sum(source.startswith("data:image/") for source in sources) == 3
    for source in sources:
        assert source.startswith(("data:", "#")) or (folder / source).is_file(), source
    assert not {tag for tag, _ in page.tags} & {"link", "iframe", "object", "base"}
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert set(re.findall(r"https?://[^\"'\s)]+", text)) <= {"http://www.w3.org/2000/svg"}, "the name of SVG, not an address"
    assert "@import" not in text
    assert "url(" not in text


def test_no_text_of_a_run_becomes_markup(tmp_path: Path) -> None:
    clean, nasty = Page(write_report(write_run(tmp_path / "a"))), Page(write_report(write_run(tmp_path / "b", NASTY)))
    count = [[tag for tag, _ in page.tags].count("script") for page in (clean, nasty)]
    assert count == [2, 2]
    assert not [attrs for _, attrs in nasty.tags if any(name.startswith("on") for name in attrs)]
    assert len([tag for tag, _ in nasty.tags if tag == "img"]) == 3
    assert nasty.text.count(NASTY) >= 9, "it is there as text"


@pytest.mark.parametrize(
    ("state", "badge", "words"),
    [
        ("running", "running", ["process"]),
        ("killed", "killed", ["without closing the run"]),
        ("failed", "failed", ["ValueError: it broke"]),
        ("stopped", "stopped", ["stopped by SIGTERM"]),
        ("elsewhere", "running", ["or killed: it runs on another-host"]),
        ("unrecorded", "running", ["or killed: the run has no run.json"]),
        ("no evaluation", "finished", ["Nothing was evaluated"]),
        ("cut line", "killed", []),
        ("nan", "finished", []),
        ("test only", "tested", ["test bbox_AP on val", "31.5"]),
        ("empty", "empty", ["nothing to report yet"]),
        ("null", "killed", ["Nothing was evaluated", "No metrics were asked for"]),
        ("damaged", "running", ["Could not be read", "run.json", "best.json"]),
        ("bad metrics", "killed", ["Could not be read", "metrics.json:1"]),
    ],
)
def test_every_state_of_a_run_has_a_report(state: str, badge: str, words: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    {
        "running": lambda: recorded(folder, pid=os.getpid()),
        "killed": lambda: recorded(folder),
        "failed": lambda: recorded(folder, status="failed", reason="ValueError: it broke"),
        "stopped": lambda: recorded(folder, status="stopped", reason="stopped by SIGTERM", seconds=3.0, hooks={}),
        "elsewhere": lambda: recorded(folder, host="another-host"),
        "unrecorded": lambda: write_rows(folder, *training_rows()),
        "no evaluation": lambda: recorded(folder, [row for row in training_rows() if "eval" not in row], status="finished"),
        "cut line": lambda: (recorded(folder), (folder / "metrics.json").write_text('{"iteration": 1, "lr": 1}\n{"iter')),
        "nan": lambda: recorded(
            folder, [{"iteration": i, "epoch": 0, "total_loss": None, "eval": {"a/b": None}} for i in (1, 2)], status="finished"
        ),
        "test only": lambda: only_a_test(folder),
        "empty": lambda: (folder / "log").mkdir(),
        "null": lambda: (
            recorded(folder, [{"iteration": 1, "eval": None, "lr": 0.1}, {"iteration": 1, "eval": None}]),
            (folder / "classes.json").write_text('{"classes": null}'),
            (folder / "test").mkdir(),
            (folder / "test" / "metrics.json").write_text('{"eval": null, "classes": null}'),
        ),
        "damaged": lambda: (
            write_rows(folder, *training_rows()),
            *((folder / f"{n}.json").write_text("{") for n in ("run", "best", "classes")),
        ),
        "bad metrics": lambda: (recorded(folder), (folder / "metrics.json").write_text("what\nis\nthis\n")),
    }[state]()
    page = Page(write_report(folder))
    assert [str(attrs["class"]) for tag, attrs in page.tags if tag == "span" and "badge" in str(attrs.get("class"))] == [
        f"badge {badge}"
    ]
    for word in words:
        assert word in page.text, word
    text = (folder / "report.html").read_text(encoding="utf-8")
    data = re.search(r'id="curves-data">(.*?)</script>', text)
    assert data is not None
    json.loads(data[1], parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileNotFoundError, match="no files of a run in .*name the folder of a run"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def recorded(folder: Path, rows: list | None = None, **values) -> None:
    write_rows(folder, *(training_rows() if rows is None else rows))
    (folder / "run.json").write_text(json.dumps({"starts": [start_of(**values)]}))


def only_a_test(folder: Path) -> None:
    write_run(folder.parent / "whole")
    os.rename(folder.parent / "whole" / "test", folder / "test")


def test_several_starts_are_listed_and_their_times_added(tmp_path: Path) -> None:
    write_rows(tmp_path, *training_rows())
    starts = [
        start_of(status="stopped", reason="stopped by SIGTERM", seconds=100.0),
        start_of(status="finished", reason="done", seconds=20.0),
    ]
    (tmp_path / "run.json").write_text(json.dumps({"starts": starts}))
    page = Page(write_report(tmp_path))
    assert "starts" in page.titles()
    assert "2 min 00 s" in page.text
    assert "stopped by SIGTERM" in page.text


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="name the folder of a run"):
        write_report(tmp_path / "typo")


def test_each_data_set_has_its_curves_and_the_best_metric_is_shown_first(tmp_path: Path) -> None:
    many = {f"val/metric_with_a_long_name_{i}": float(i) for i in range(12)} | {"val/m": 1.0, "test/m": 2.0}
    panels = {
        panel["title"]: panel for panel in charts_of([{"iteration": 5, "epoch": 0.5, "eval": many}], "metric_with_a_long_name_11")
    }
    assert list(panels) == ["Results on val", "Results on test"]
    shown = [series["name"] for series in panels["Results on val"]["series"] if series["on"]]
    assert {"m", "metric_with_a_long_name_11"} <= set(shown)
    assert len(shown) <= 9
    assert len(panels["Results on val"]["series"]) == 13
    assert panels["Results on val"]["epoch"] == 10


def test_a_long_curve_keeps_its_peaks_and_its_gaps() -> None:
    y = [math.sin(i / 500) for i in range(50_000)]
    y[12_345], y[40_000], y[7] = 99.0, -99.0, math.nan
    x, kept = thinned(Curve([float(i) for i in range(50_000)], y))
    assert len(x) <= 800
    assert x == sorted(x)
    assert (x[0], x[-1]) == (0, 49_999)
    assert kept[x.index(12_345)] == 99
    assert kept[x.index(40_000)] == -99
    assert thinned(Curve([1, 2, 3], [1.0, math.nan, 2.0])) == ([1, 2, 3], [1.0, None, 2.0])


def test_pictures_are_made_smaller_and_never_more_than_the_page_bears(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for number_ in range(4):
        write_png(tmp_path / f"{number_}.png", generator.integers(0, 255, (200, 2400, 3), dtype=np.uint8))
    write_png(tmp_path / "flat.png", np.full((50, 60, 3), 250, np.uint8))
    (tmp_path / "broken.png").write_bytes(b"no picture")
    header = struct.pack(">4sIIBBBBB", b"IHDR", 1 << 16, 1 << 16, 8, 2, 0, 0, 0)
    huge = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    (tmp_path / "huge.png").write_bytes(b"\x89PNG\r\n\x1a\n" + huge + (tmp_path / "0.png").read_bytes()[33:])
    pictures, size = embed_all(sorted(tmp_path.glob("*.png")))
    found = {picture.path.stem: picture for picture in pictures}
    assert (found["0"].width, found["0"].height) == (1600, 133)
    assert len(found["0"].uri) < (tmp_path / "0.png").stat().st_size
    assert (found["flat"].width, found["flat"].height) == (60, 50)
    assert not found["broken"].uri
    assert not found["huge"].uri, "OpenCV raises"
    assert size == sum(len(picture.uri) for picture in pictures)
    few, less = embed_all(sorted(tmp_path.glob("*.png")), limit=size // 2)
    assert less <= size // 2
    assert 0 < sum(bool(picture.uri) for picture in few) < 5


def test_pictures_without_room_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pet.visualization.report import page as page_module

    folder = write_run(tmp_path / "run")
    monkeypatch.setattr(page_module, "embed_all", lambda paths: embed_all(paths, limit=100))
    page = Page(write_report(folder))
    assert "3 more are not in this page" in page.text
    assert "vis/labels.png" in page.text


def test_colours_of_embedded_pictures_are_those_of_the_file(tmp_path: Path) -> None:
    import base64

    write_png(tmp_path / "a.png", np.tile(np.array([200, 30, 60], np.uint8), (300, 3000, 1)))
    uri = embed_all([tmp_path / "a.png"])[0][0].uri
    pixels = cv2.imdecode(np.frombuffer(base64.b64decode(uri.partition(",")[2]), np.uint8), cv2.IMREAD_COLOR)
    assert np.abs(pixels[50, 50, ::-1].astype(int) - [200, 30, 60]).max() <= 6


def test_warnings_are_counted_and_a_long_log_is_cut(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    lines = [f"2026-01-01 00:00:00,000 WARNING bad {i % 300}" for i in range(900)]
    (tmp_path / "log" / "train.txt").write_text("\n".join([*lines, "2026-01-01 00:00:01,000 ERROR last"]))
    troubles = read_run(tmp_path).troubles
    assert len(troubles) == 200
    assert {trouble.times for trouble in troubles} == {3}


def test_values_of_attributes_and_scripts_cannot_leave_them() -> None:
    assert element("a", "<b>", href='x" onclick="y') == '<a href="x&quot; onclick=&quot;y">&lt;b&gt;</a>'
    assert element("p", element("b", "&")) == "<p><b>&amp;</b></p>"
    assert "</script><" not in data_script("x", ["</script><script>"]).removesuffix("</script>")
    assert json.loads(data_script("x", {"a": math.nan, "b": "<"}).partition(">")[2].removesuffix("</script>")) == {
        "a": None,
        "b": "<",
    }


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.26, "0.3 s"), (59.4, "59.4 s"), (61, "1 min 01 s"), (3600, "1 h 00 min"), (90_000, "25 h 00 min")]
)
def test_times_are_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"), [(1234567, "1,234,567"), (0.123456, "0.1235"), (None, "\u2013"), (math.nan, "\u2013"), ("x", "\u2013")]
)
def test_numbers_are_for_people(value: object, text: str) -> None:
    assert number(value) == text


def test_a_table_of_very_many_classes_shows_the_lowest_or_the_first(tmp_path: Path) -> None:
    names = [f"class_{i}" for i in range(301)]
    for columns, said, absent in (
        ({"class": names}, "The first 300 of 301 classes", "class_300"),
        ({"class": names, "AP": [*range(300, 1, -1), None, 1]}, "The 300 lowest AP of 301 classes", "class_299"),
    ):
        folder = tmp_path / str(len(columns))
        recorded_classes(folder, columns)
        text = Page(write_report(folder)).text
        assert said in text
        assert absent not in text.split()


def recorded_classes(folder: Path, columns: dict[str, list]) -> None:
    (folder / "test").mkdir(parents=True)
    (folder / "test" / "metrics.json").write_text(json.dumps({"eval": {}, "classes": {"val/bbox": columns}}))


def test_names_of_files_are_links_to_these_files(tmp_path: Path) -> None:
    names = ["javascript:alert(1)", "a#b%20c.txt", "vis/what?.png"]
    write_png(tmp_path / names[2], np.zeros((9, 9, 3), np.uint8))
    for name in names[:2]:
        (tmp_path / name).write_text("x")
    (tmp_path / "log").mkdir()
    links = [str(attrs["href"]) for tag, attrs in Page(write_report(tmp_path)).tags if tag == "a"]
    base = (tmp_path / "report.html").as_uri()
    found = {unquote(urlsplit(urljoin(base, link)).path) for link in links if not link.startswith("#")}
    assert found == {str(tmp_path / name) for name in names}


def test_warnings_are_those_of_the_recorded_starts_and_their_tests(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    logs = ["train_20260101_000000_1", "test_20260101_010000_2", "train_20260102_000000_3", "test_20260103_000000_4"]
    for name in logs:
        (tmp_path / "log" / f"{name}.txt").write_text(f"2026-01-01 00:00:00,000 WARNING of {name}\n")
    assert len(read_run(tmp_path).troubles) == 4, "without a record nobody knows whose they are"
    recorded(tmp_path, log=f"log/{logs[2]}.txt")
    assert {trouble.text for trouble in read_run(tmp_path).troubles} == {f"of {name}" for name in logs[2:]}


def test_what_is_not_shown_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_run(tmp_path / "run")
    (folder / "previous_20260101" / "vis").mkdir(parents=True)
    walked: list[str] = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: (walked.append(str(path)), scandir(path))[1])
    write_report(folder)
    monkeypatch.undo()
    assert any(path.endswith("vis") for path in walked)
    assert not [path for path in walked if "previous_" in path]
    decoded: list[int] = []
    imdecode = cv2.imdecode
    monkeypatch.setattr(cv2, "imdecode", lambda content, flags: (decoded.append(1), imdecode(content, flags))[1])
    pictures, size = embed_all(sorted(folder.rglob("*.png")), limit=100)
    assert (len(pictures), size, len(decoded)) == (3, 0, 1), "the first does not fit"


def test_a_report_that_fails_does_not_fail_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from pet import visualization

    def broken(run: object) -> str:
        raise IndexError("list index out of range")

    cfg = SimpleNamespace(VIS=SimpleNamespace(ENABLED=True), MISC=SimpleNamespace(CKPT=str(tmp_path / "my run")))
    write_run(tmp_path / "my run")
    monkeypatch.setattr(visualization.report, "build_page", broken)
    monkeypatch.setattr(LOGGER, "propagate", True)
    with caplog.at_level(logging.DEBUG, logger="pet"):
        report_run(cfg)
    warning, details = [record for record in caplog.records if record.levelno in (logging.WARNING, logging.DEBUG)]
    assert "IndexError: list index out of range" in warning.getMessage()
    assert f"python tools/report.py '{tmp_path}/my run'" in warning.getMessage()
    assert warning.exc_info is None
    assert details.exc_info is not None
