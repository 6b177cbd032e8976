"""``tools/selftest.py`` says whether a machine keeps the promises, and what to do where it does not."""

from __future__ import annotations

import argparse
import runpy
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults import catalog
from tests.faults.catalog import Figure, faults_of
from tests.helpers import fork_start, run_cli

pytestmark = pytest.mark.faults


def broken(count: int, seed: int, folder: Path) -> Figure:
    return Figure(count - 1, count, "detected", ["flip 3: loaded without an error"])


def test_check_that_passes_ends_with_0_and_leaves_nothing(tmp_path: Path) -> None:
    done = run_cli(["tools/selftest.py", "corrupt", "--work-dir", tmp_path], start=fork_start)
    assert done.returncode == 0, done.stderr
    assert "corrupt: 20/20 detected" in done.stdout
    assert "ok    corrupt" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_check_that_fails_ends_with_1_and_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fault = next(fault for fault in faults_of("files") if fault.id == "F15")
    monkeypatch.setitem(catalog._FAULTS, "F15", replace(fault, run=_in_files(monkeypatch)))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    main = runpy.run_path("tools/selftest.py", run_name="selftest")["main"]
    assert main(argparse.Namespace(checks=["corrupt"], work_dir=tmp_path, seed=0)) == 1
    printed = capsys.readouterr().out
    assert "FAIL  corrupt" in printed
    assert "-> do not keep checkpoints here" in printed
    assert "corrupt: flip 3: loaded without an error" in printed


def _in_files(monkeypatch: pytest.MonkeyPatch) -> catalog.Campaign:
    monkeypatch.setattr(broken, "__module__", "tests.faults.files")
    return broken


def test_unknown_check_is_refused_with_the_nearest_one() -> None:
    done = run_cli(["tools/selftest.py", "corupt"], start=fork_start)
    assert done.returncode == 2
    assert "there is no check 'corupt'. Did you mean 'corrupt'?" in done.stderr


def test_every_check_is_a_campaign_that_exists() -> None:
    names = runpy.run_path("tools/selftest.py", run_name="selftest")
    known = {fault.id for fault in faults_of(*names["_MODULES"])}
    assert {id for id, _, _ in names["CHECKS"].values()} <= known
