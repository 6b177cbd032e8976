"""Every row of docs/regressions.md is guarded by tests that exist."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest

from tests.docs.pages import DOCS
from tests.helpers import REPOSITORY

ROWS = {
    cells[1]: cells
    for line in (DOCS / "regressions.md").read_text(encoding="utf-8").splitlines()
    if len(cells := [cell.strip() for cell in line.split("|")]) == 6 and re.fullmatch(r"R?\d+", cells[1])
}
_TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`( \(gpu\))?")


@cache
def functions_of(file: str) -> dict[str, bool]:
    """Names of the tests in a file, and whether they need a GPU."""
    tree = ast.parse((REPOSITORY / file).read_text(encoding="utf-8"))
    whole = any(isinstance(node, ast.Assign) and ast.unparse(node) == "pytestmark = pytest.mark.gpu" for node in tree.body)
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    return {
        function.name: whole or any(ast.unparse(mark) == "pytest.mark.gpu" for mark in function.decorator_list)
        for function in functions
    }


def test_the_tables_are_complete() -> None:
    assert list(ROWS) == [*map(str, range(1, 42)), *(f"R{number}" for number in range(1, 32))]


@pytest.mark.parametrize("number", ROWS)
def test_the_tests_of_a_row_exist(number: str) -> None:
    _, _, _, promise, tests, _ = ROWS[number]
    found = _TEST.findall(tests)
    assert found or promise.startswith("none: "), f"row {number} has no test and no reason"
    assert len(found) == tests.count("::"), f"row {number} has a test id that cannot be read"
    for file, name, gpu in found:
        assert (REPOSITORY / file).is_file(), f"row {number}: there is no {file}"
        assert name in functions_of(file), f"row {number}: {file} has no {name}"
        assert bool(gpu) == functions_of(file)[name], f"row {number}: mark (gpu) for tests that need one, {name}"
    assert not found or not all(gpu for _, _, gpu in found), f"row {number} is only checked on a GPU"
