"""The scripts of all domains are one script: after the name of the domain is replaced, their syntax trees are equal."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.helpers import REPOSITORY

# Scripts that differ on purpose, with the reason.
DIFFERENT: dict[str, str] = {}
REFERENCE = "tasks/cls"


def skeleton(path: Path) -> str:
    """The script without its docstring and with the domain's import replaced."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                alias.name = "pet.DOMAIN" if alias.asname == "domain" else alias.name
        # How far up the repository is depends on the folder of the script.
        if isinstance(node, ast.Subscript) and ast.unparse(node.value).endswith(".parents"):
            node.slice = ast.Constant(0)
    return ast.unparse(tree)


@pytest.mark.parametrize("name", ["train_net.py", "test_net.py"])
def test_scripts_agree(name: str) -> None:
    scripts = {path.parent.relative_to(REPOSITORY / "tools").as_posix(): path for path in (REPOSITORY / "tools").rglob(name)}
    expected = skeleton(scripts[REFERENCE])
    drifted = [domain for domain, path in scripts.items() if domain not in DIFFERENT and skeleton(path) != expected]
    assert not drifted, f"{name} of {drifted} differs from that of {REFERENCE}; say why in DIFFERENT, or make them equal"
    assert not [domain for domain in DIFFERENT if domain not in scripts]


def test_every_domain_has_both_scripts_and_the_modules_they_need() -> None:
    for script in sorted((REPOSITORY / "tools").rglob("train_net.py")):
        assert (script.parent / "test_net.py").is_file(), script
        package = REPOSITORY / "pet" / script.parent.relative_to(REPOSITORY / "tools")
        for module in ("config", "dataset", "model_builder", "forward", "analyser", "evaluation"):
            assert (package / f"{module}.py").is_file(), f"{package} has no {module}.py"
