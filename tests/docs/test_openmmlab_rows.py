"""Every row of the feature tables has its command and its tests on the page for users of OpenMMLab."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from tests.docs.pages import DOCS
from tests.docs.test_regressions import functions_of
from tests.helpers import REPOSITORY


def numbered(letter: str, *ranges: tuple[int, int]) -> list[str]:
    return [f"{letter}{number}" for first, last in ranges for number in range(first, last + 1)]


# Table and its rows; the spellings of A3b have no ids of their own.
TABLES = {
    "A1.2": numbered("O", (20, 28)),
    "A1.3": numbered("O", (30, 37)),
    "A1.4": numbered("O", (60, 67), (70, 70)),
    "A2.1": numbered("D", (1, 8)),
    "A2.2": numbered("D", (10, 13)),
    "A2.3": numbered("D", (20, 31)),
    "A2.4": numbered("D", (40, 59)),
    "A2.5": numbered("D", (81, 85)),
    "A3": numbered("C", (1, 19)),
    "A3b": [f"A3b.{number}" for number in range(1, 10)],
}
PARTIAL = {"A2.5"}  # the other rows are spellings of A3 and A3b
EXPECTED = [row for rows in TABLES.values() for row in rows]
# Rows that are not there yet, in part or whole; their notes say so.
LATER, _MARK = {"O26", "O28", "O60", "O61", "O62", "O63"}, "not there yet"
_ID = re.compile(r"[OCD]\d+|A3b\.\d+")
_TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
_TOOL = re.compile(r"tools/[\w/]+\.py")


def lines() -> list[list[str]]:
    """Cells of the rows of the page."""
    text = (DOCS / "openmmlab.md").read_text(encoding="utf-8").partition("\n## Row by row\n")[2]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    return [row for row in cells if _ID.fullmatch(row[0])]


ROWS = {row[0]: row for row in lines()}


def test_every_row_is_on_the_page_once() -> None:
    found = Counter(row[0] for row in lines())
    assert [row for row in EXPECTED if row not in found] == []
    assert [row for row, count in found.items() if count > 1 or row not in EXPECTED] == []


def test_the_ids_are_those_of_the_reference() -> None:
    reference = Path(REPOSITORY).parent / "shared" / "reference" / "openmmlab.md"
    if not reference.is_file():
        pytest.skip(f"{reference} is not here")
    text = reference.read_text(encoding="utf-8")
    for name, rows in TABLES.items():
        part = re.split(rf"(?m)^#+ {re.escape(name)}[. ]", text)[1].partition("\n#")[0]
        listed = [line.split("|")[1].strip() for line in part.splitlines() if line.startswith("|")][2:]
        listed = [row for row in listed if row in rows] if name in PARTIAL else listed
        assert len(listed) == len(rows), name
        assert listed == rows or name == "A3b"


@pytest.mark.parametrize("row", EXPECTED)
def test_the_tests_of_a_row_exist(row: str) -> None:
    _, command, tests, note = ROWS[row]
    found = _TEST.findall(tests)
    assert len(found) == tests.count("::"), f"row {row} has a test id that cannot be read"
    assert (found and command) or row in LATER, f"row {row} names no command or no test"
    assert (_MARK in note) == (row in LATER), f"row {row}: its note and LATER disagree"
    for file, name in found:
        assert (REPOSITORY / file).is_file(), f"row {row}: there is no {file}"
        assert name in functions_of(file), f"row {row}: {file} has no {name}"


def test_every_tool_that_is_named_exists_here_or_stands_in_the_column_of_openmmlab() -> None:
    for row in ROWS.values():
        missing = [tool for tool in _TOOL.findall(row[1]) if not (REPOSITORY / tool).is_file()]
        assert not missing, f"row {row[0]} names {missing}"
