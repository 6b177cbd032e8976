"""A training and a test leave their pictures and a report that a real browser shows without a complaint."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.shell import Shell, check
from tests.user_sets import TINY
from tests.visualization.report_folders import NASTY, write_run

CLS = """
MISC: {DEVICE: cpu, CUDNN: False, DISPLAY_ITER: 1}
ANALYSER: {ENABLED: False}
VIS: {NUM_IMAGES: 4}
DATA:
  LOADER_THREADS: 0
  CATALOG:
    tiny_train: {TYPE: shapes_dataset, NUM_IMAGES: 16, IMAGE_SIZE: 32}
    tiny_val: {TYPE: shapes_dataset, NUM_IMAGES: 16, IMAGE_SIZE: 32}
TRAIN: {DATASETS: [tiny_train], BATCH_SIZE: 4, TRANSFORMS: [normalize]}
TEST: {DATASETS: [tiny_val], IMS_PER_GPU: 4, TRANSFORMS: [normalize]}
SOLVER: {SCHEDULER: {TOTAL_EPOCHS: 1}}
MODEL: {BACKBONE: lenet5, GLOBAL_HEAD: {CLS: {NUM_CLASSES: 10}}}
"""
WIDE, PHONE = (1280, 1600), 390


class Seen(NamedTuple):
    """What the browser made of a page: its elements as text, and what it wrote to its console."""

    dom: str
    console: list[str]


Browser = Callable[..., Seen]


@pytest.fixture
def browser(tmp_path: Path) -> Browser:
    """Opens a file in headless Chromium; skipped where there is none."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no Chromium on this machine")

    def browse(page: Path, *flags: str) -> Seen:
        common = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--hide-scrollbars",
        ]
        common += ["--disable-background-networking", "--enable-logging=stderr", "--v=0", "--virtual-time-budget=4000"]
        place = [f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={WIDE[0]},{WIDE[1]}"]
        words = [program, *common, *place, *(flags or ("--dump-dom",)), page.as_uri()]
        done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
        return Seen(done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line])

    return browse


def with_script(page: Path, script: str) -> Path:
    """A copy of the page beside it that runs a script last and keeps what it returns in ``data-told`` of the body."""
    copy = page.with_name("probed.html")
    told = f"<script>document.body.dataset.told = JSON.stringify((() => {{ {script} }})());</script></body>"
    copy.write_text(page.read_text(encoding="utf-8").replace("</body>", told), encoding="utf-8")
    return copy


def told(seen: Seen) -> object:
    found = re.search(r'data-told="([^"]*)"', seen.dom)
    assert found is not None, seen.console
    return json.loads(found[1].replace("&quot;", '"'))


def screenshot(browser: Browser, page: Path, out: Path, *flags: str) -> np.ndarray:
    browser(page, f"--screenshot={out}", *flags)
    picture = cv2.imread(str(out))
    assert picture is not None
    return picture


@pytest.fixture
def report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    """A report written by the tool."""
    folder = write_run(tmp_path / "made" / "by_hand")
    shell = Shell(tmp_path, monkeypatch, capsys, TINY, "vision")
    check(shell.script("tools/report.py", str(folder)), 0, f"{folder / 'report.html'}: ")
    return folder / "report.html"


# ------------------------------------------------------------------------------------------------------- in a browser


def test_the_browser_draws_the_curves_and_complains_of_nothing(browser: Browser, report: Path) -> None:
    actions = """
      const paths = () => [...document.querySelectorAll('.plot path.line')].map((one) => one.getAttribute('d'));
      const before = paths();
      document.querySelector('.chart input[type=checkbox]').click();
      const logarithmic = paths();
      document.querySelector('.legend button').click();
      const hidden = paths();
      const plot = document.querySelector('.plot svg'), box = plot.getBoundingClientRect();
      plot.dispatchEvent(new PointerEvent('pointermove', {clientX: box.left + box.width, clientY: box.top + 50}));
      document.querySelector('table.sortable th:nth-child(2)').click();
      const sorted = [...document.querySelectorAll('table.sortable')[0].tBodies[0].rows].map((row) => row.cells[0].textContent);
      return {charts: document.querySelectorAll('figure.chart svg').length, before: before.length, moved: before[0] !== logarithmic[0],
              broken: logarithmic.some((d) => /NaN|Infinity/.test(d)), hidden: hidden.length, sorted,
              tip: document.querySelector('.tip').textContent, wide: document.documentElement.scrollWidth};
    """
    seen = browser(with_script(report, actions))
    assert seen.console == []
    found = told(seen)
    assert isinstance(found, dict)
    assert found["charts"] == 6, "losses, two data sets, learning rate, accuracy, times"
    assert found["before"] == 3 + 2 + 2 + 1 + 1 + 2
    assert found["moved"], "the logarithmic axis changes the curve"
    assert not found["broken"]
    assert found["hidden"] == found["before"] - 1
    assert "update 30, epoch 3" in found["tip"]
    assert "loss_cls" in found["tip"]
    assert "total_loss" not in found["tip"], "it was switched off"
    assert found["sorted"] == ["cat", "dog"]
    assert found["wide"] <= WIDE[0]


def test_the_page_fits_a_phone_and_follows_the_colour_scheme(browser: Browser, report: Path, tmp_path: Path) -> None:
    # Chromium makes no window as narrow as a phone, but a frame.
    narrow = "parent.postMessage([document.documentElement.scrollWidth, innerWidth, document.querySelectorAll('path.line').length], '*');"
    inner, outer = with_script(report, narrow), report.with_name("phone.html")
    listen = (
        "<script>addEventListener('message', (event) => { document.body.dataset.told = JSON.stringify(event.data); });</script>"
    )
    outer.write_text(f'{listen}<iframe width="{PHONE}" height="800" style="border: 0" src="{inner.name}"></iframe>')
    assert told(browser(outer)) == [PHONE, PHONE, 11], "nothing is wider than the screen"
    light = screenshot(browser, report, tmp_path / "light.png")
    dark = screenshot(browser, report, tmp_path / "dark.png", "--blink-settings=preferredColorScheme=0")
    assert light.shape == (*WIDE[::-1], 3)
    assert light[5, 5].min() > 240
    assert dark[5, 5].max() < 40
    for picture in (light, dark):
        assert (np.abs(picture.astype(int) - picture[5, 5]).max(axis=2) > 60).mean() > 0.01, "there is something to read"


def test_names_of_classes_and_files_run_nothing(browser: Browser, tmp_path: Path) -> None:
    from pet.visualization.report import write_report

    page = write_report(write_run(tmp_path / "nasty", NASTY))
    seen = browser(
        with_script(page, "return [document.title, document.scripts.length, document.querySelectorAll('[onerror]').length];")
    )
    assert told(seen) == ["nasty: report", 3, 0]
    assert seen.console == []


def test_a_page_with_a_fault_is_found_out(browser: Browser, report: Path) -> None:
    broken = report.with_name("broken.html")
    broken.write_text(report.read_text(encoding="utf-8").replace("curves-data", "other", 1), encoding="utf-8")
    assert browser(broken).console, "otherwise the tests above could not fail"


# --------------------------------------------------------------------------------------------------------- after runs


def pictures(folder: Path) -> set[str]:
    found = {path.stem for path in folder.glob("*.png")}
    for name in found:
        assert cv2.imread(str(folder / f"{name}.png")).std() > 5, name
    return found


def tensorboard_pictures(folder: Path) -> dict[str, np.ndarray]:
    events = EventAccumulator(str(folder), size_guidance={"images": 0}).Reload()
    encoded = {tag: events.Images(tag)[0].encoded_image_string for tag in events.Tags()["images"]}
    return {tag: cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) for tag, content in encoded.items()}


def test_training_and_testing_a_detector_leave_all_pictures_and_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shell = Shell(tmp_path, monkeypatch, capsys, TINY, "vision")
    words = ["VIS.ENABLED=True", "VIS.SCORE_THRESH=0.05", "VIS.NUM_IMAGES=3", "EVAL.PERIOD_ITERS=1"]
    check(shell.train(*words), 0, f"Report: {shell.run / 'report.html'}", "Finished: 2 updates done")
    results = {f"drawn_val_{name}" for name in ("predictions", "confusion", "precision_recall", "f1")}
    start = {"labels", "train_samples", "train_samples_2", "train_samples_3"}
    assert pictures(shell.run / "vis") == results | start | {"curves"}
    shown = tensorboard_pictures(shell.run / "tensorboard_log")
    assert set(shown) == {f"data/{name}" for name in start} | {name.replace("val_", "val/", 1) for name in results}
    for name in start:
        assert (shown[f"data/{name}"] == cv2.imread(str(shell.run / "vis" / f"{name}.png"))).all()
    check(shell.test(*words), 0, "Report: ")
    assert pictures(shell.run / "test" / "vis") == results
    started = json.loads((shell.run / "run.json").read_text())["starts"]
    assert [(one["status"], one["updates"]) for one in started] == [("finished", 2)]
    assert started[0]["hooks"]["Evaluate"] > 0
    table = json.loads((shell.run / "classes.json").read_text())
    assert table["iteration"] == 2
    assert len(table["classes"]["drawn_val/bbox"]["AP"]) == 10
    text = (shell.run / "report.html").read_text(encoding="utf-8")
    for word in (
        "drawn_train: 8 images",
        "SOLVER.SCHEDULER.TOTAL_ITERS",
        "drawn_val/bbox: each class, update 2",
        "test/vis/drawn_val_f1.png",
    ):
        assert word in text, word


def test_training_and_testing_a_classifier_leave_all_pictures_and_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], browser: Browser
) -> None:
    shell = Shell(tmp_path, monkeypatch, capsys, CLS)
    check(shell.train(), 0, "Report: ", "Finished: 4 updates done")
    start = {"labels", "train_samples", "train_samples_2", "train_samples_3"}
    assert pictures(shell.run / "vis") == start | {"curves", "tiny_val_predictions", "tiny_val_confusion"}
    check(shell.test("--out", str(tmp_path / "scores.json")), 0, "Report: ")
    assert pictures(shell.run / "test" / "vis") == {
        f"tiny_val_{n}" for n in ("predictions", "confusion", "precision_recall", "roc")
    }
    seen = browser(shell.run / "report.html")
    assert seen.console == []
    assert seen.dom.count('class="line"') >= 4
    summary = shell.script("tools/summary.py", str(shell.run))
    check(summary, 0, "Result after update 4", f"Report: {shell.run / 'report.html'}")


def test_without_pictures_no_report_is_written_and_the_tool_writes_it_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shell = Shell(tmp_path, monkeypatch, capsys, CLS)
    check(shell.train("VIS.ENABLED=False", "EVAL.ENABLED=False"), 0, "Finished")
    assert not (shell.run / "vis").exists()
    assert not (shell.run / "report.html").exists()
    check(shell.script("tools/summary.py", str(shell.run)), 0, "none yet; python tools/report.py")
    check(shell.script("tools/report.py", str(shell.run)), 0, "report.html")
    assert "Nothing was evaluated" in (shell.run / "report.html").read_text(encoding="utf-8")


def test_a_failed_training_says_so_in_its_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shell = Shell(tmp_path, monkeypatch, capsys, CLS)
    check(shell.train("SOLVER.OPTIMIZER.BASE_LR=1e30", "VIS.ENABLED=False"), 1, "not finite")
    start = json.loads((shell.run / "run.json").read_text())["starts"][0]
    assert start["status"] == "failed"
    assert start["reason"].startswith("FloatingPointError")


def test_a_folder_that_is_none_is_one_message_and_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shell = Shell(tmp_path, monkeypatch, capsys, CLS)
    check(shell.script("tools/report.py", str(tmp_path / "typo")), 2, "error: ", "name the folder of a run")
    check(shell.script("tools/summary.py", str(tmp_path)), 2, "holds no metrics.json")
