"""Sizes: a function fits a screen, a file fits a head, a script reads like the tutorial."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.helpers import REPOSITORY

MAX_FUNCTION, MAX_FILE, MAX_SCRIPT, MAX_LAUNCHER, MAX_NESTING = 50, 500, 70, 40, 3
MIN_COPY = 4
_LEVELS = (ast.If, ast.For, ast.While, ast.With, ast.Try)


def sources(*folders: str) -> dict[str, str]:
    paths = [path for folder in folders for path in sorted((REPOSITORY / folder).rglob("*.py"))]
    return {str(path.relative_to(REPOSITORY)): path.read_text(encoding="utf-8") for path in paths}


def functions(text: str) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def nesting(node: ast.AST, level: int = 0) -> int:
    """Deepest level of blocks inside a function; an ``elif`` is as deep as its ``if``, a function inside starts anew."""
    deepest = level
    for name, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                continue
            is_elif = isinstance(node, ast.If) and name == "orelse" and isinstance(child, ast.If)
            deepest = max(deepest, nesting(child, level + (isinstance(child, _LEVELS) and not is_elif)))
    return deepest


def test_functions_fit_a_screen() -> None:
    long = [
        f"{path}:{function.lineno} {function.name} has {length} lines"
        for path, text in sources("pet", "tools").items()
        for function in functions(text)
        if (length := (function.end_lineno or 0) - function.lineno + 1) > MAX_FUNCTION
    ]
    assert not long, "\n".join(long)


def test_blocks_are_at_most_three_deep() -> None:
    deep = [
        f"{path}:{function.lineno} {function.name} is {depth} blocks deep"
        for path, text in sources("pet", "tools").items()
        for function in functions(text)
        if (depth := nesting(function)) > MAX_NESTING
    ]
    assert not deep, "\n".join(deep)


def test_files_fit_a_head() -> None:
    long = [
        f"{path} has {length} lines"
        for path, text in sources("pet", "tools", "tests").items()
        if (length := len(text.splitlines())) > MAX_FILE
    ]
    assert not long, "\n".join(long)


def test_scripts_are_short() -> None:
    limits = {
        "train_net.py": MAX_SCRIPT,
        "test_net.py": MAX_SCRIPT,
        "train_net_all.py": MAX_LAUNCHER,
        "test_net_all.py": MAX_LAUNCHER,
    }
    lengths = {path: len(text.splitlines()) for path, text in sources("tools").items()}
    long = [f"{path} has {length} lines" for path, length in lengths.items() if length > limits.get(Path(path).name, MAX_FILE)]
    assert lengths
    assert not long, "\n".join(long)


def test_no_function_is_a_copy_of_another() -> None:
    bodies: dict[str, list[str]] = {}
    # The scripts of the domains are copies on purpose; tests/tools/test_scripts_agree.py keeps them equal.
    scripts = ("train_net.py", "test_net.py")
    for path, text in sources("pet", "tools").items():
        if Path(path).name in scripts:
            continue
        for function in functions(text):
            code = [node for node in function.body if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))]
            if sum(len(ast.unparse(node).splitlines()) for node in code) >= MIN_COPY:
                bodies.setdefault("\n".join(map(ast.unparse, code)), []).append(f"{path}:{function.lineno} {function.name}")
    copies = [" = ".join(places) for places in bodies.values() if len(places) > 1]
    assert not copies, "\n".join(copies)
