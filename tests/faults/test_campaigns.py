"""The thirty promises with the small counts of their campaigns; ``make faults`` tries each as often as docs/reliability.md says."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from tests.faults.__main__ import BEGIN, END, chosen, store, summary, table, write_table
from tests.faults.catalog import Fault, Figure, all_faults
from tests.faults.running import Result, Trials, run_all

pytestmark = pytest.mark.faults
# What they take on an idle machine is more than five seconds.
SLOW = {"F01", "F08", "F26", "F29"}


def cases() -> Iterator[Any]:
    for fault in all_faults():
        marks = [pytest.mark.distributed] if fault.several else []
        yield pytest.param(fault, id=fault.id, marks=[*marks, *([pytest.mark.slow] if fault.several or fault.id in SLOW else [])])


@pytest.mark.parametrize("fault", list(cases()))
def test_promise_is_kept(fault: Fault, tmp_path: Path) -> None:
    figure = fault.run(fault.small, 11, tmp_path)
    assert figure.kept, "\n".join([f"{fault.id} {fault.promise}: {figure}", *figure.failures])
    assert figure.total >= fault.small


def test_all_thirty_faults_have_a_campaign() -> None:
    assert [fault.id for fault in all_faults()] == [f"F{number:02d}" for number in range(1, 31)]
    assert all(0 < fault.small <= fault.full for fault in all_faults())


# ------------------------------------------------------------------------------------------- the command itself


def keep_two_of_three(count: int, seed: int, folder: Path) -> Figure:
    figure = Figure(0, 3, "kept")
    for number in range(3):
        figure.judge([f"{count} {seed}"] if number == 1 else [], f"trial {number}")
    return figure


def die(count: int, seed: int, folder: Path) -> Figure:
    print("last words", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def leave_the_folder(count: int, seed: int, folder: Path) -> Figure:
    os.chdir(folder)
    return Figure(count, count, "left")


def made_up(run: Any, id: str, several: bool = False) -> Fault:
    return Fault(id, "something is kept", 1, 4, several, run)


def test_failures_and_dead_campaigns_are_reported_and_disturb_nothing(tmp_path: Path) -> None:
    faults = [made_up(keep_two_of_three, "F01"), made_up(die, "F02", several=True), made_up(leave_the_folder, "F03")]
    before = os.getcwd()
    results = {result.id: result for result in run_all([Trials(f, f.full, 7, tmp_path / f.id) for f in faults], jobs=2)}
    assert os.getcwd() == before
    assert str(results["F01"].figure) == "2/3 kept"
    assert results["F01"].figure.failures == ["trial 1: 4 7"]
    assert "died with exit code -9" in results["F02"].figure.failures[0]
    assert "last words" in results["F02"].figure.failures[1]
    text = summary(list(results.values()))
    assert "F03  4/4 left" in text
    assert text.endswith("1/3 promises kept")
    assert "NOT KEPT" in results["F02"].line
    assert "NOT KEPT" not in results["F03"].line


def test_table_of_the_documentation_comes_from_the_figures(tmp_path: Path) -> None:
    faults = [made_up(keep_two_of_three, "F01"), made_up(die, "F02")]
    page, file = tmp_path / "page.md", tmp_path / "figures.json"
    store(file, [Result("F01", "", Figure(1, 3, "kept"), 3.0, 0), Result("F02", "", Figure(24, 25, "equal"), 3.0, 0)])
    store(file, [Result("F02", "", Figure(25, 25, "equal", extra="p95 1.0 s"), 3.0, 0)])  # a second attempt
    figures = json.loads(file.read_text())
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_table(table(figures, faults), page)
    text = page.read_text()
    assert "| F01 | something is kept | 4 | 1/3 kept |" in text
    assert f"Measured on {date.today()} on " in text
    assert "| F02 | something is kept | 4 | 25/25 equal; p95 1.0 s |" in text
    assert "old" not in text
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    page.write_text("no marks")
    with pytest.raises(ValueError, match="between which the table belongs"):
        write_table("", page)


def test_unknown_fault_is_refused_with_the_nearest_one() -> None:
    faults = [made_up(die, "F01"), made_up(die, "F14")]
    assert [fault.id for fault in chosen(["f14"], faults)] == ["F14"]
    assert chosen([], faults) == faults
    with pytest.raises(ValueError, match=r"no fault F41\. Did you mean 'F14'\?"):
        chosen(["F41"], faults)
