"""The pages hang together: every page is reachable, links lead somewhere, tables and quoted code agree with the program."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

from pet.config.reference import domain_modules
from tests.docs.pages import DOCS, SECTIONS, Block, all_blocks, name_of, pages, prose
from tests.helpers import REPOSITORY

PAGES = {name_of(page): page for page in pages()}
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_KEY = re.compile(rf"\b(?:{'|'.join(SECTIONS)})(?:\.[A-Z][A-Z0-9_]*)+\b")
_PATH = re.compile(r"`((?:pet|tests|benchmarks|docs)/[\w/-]+(?:\.\w+)?)/?`")


def directive(name: str) -> list[Block]:
    return [block for block in all_blocks() if block.info == f"{{{name}}}"]


def test_every_page_is_in_a_table_of_contents() -> None:
    listed = {DOCS / "index.md"}
    for toctree in directive("toctree"):
        folder = (REPOSITORY / toctree.page).parent
        for entry in toctree.text.split():
            found = list(folder.glob(f"{entry}.md"))
            assert found, f"{toctree}: there is no page {entry}"
            listed.update(found)
    lost = [name_of(page) for page in PAGES.values() if DOCS in page.parents and page not in listed]
    assert not lost, f"in no toctree: {lost}"


@pytest.mark.parametrize("name", PAGES)
def test_internal_links_lead_somewhere(name: str) -> None:
    page = PAGES[name]
    targets = [link for link in _LINK.findall(prose(page)) if "://" not in link and not link.startswith("mailto:")]
    for target in targets:
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), f"{name} links to {target}, which does not exist"
        if anchor and linked.suffix == ".md":
            assert anchor in anchors(linked), f"{name} links to {target}; the headings there are {sorted(anchors(linked))}"


def anchors(page: Path) -> set[str]:
    """Names of the headings of a page, as MyST and GitHub make them."""
    headings = re.findall(r"(?m)^#+ +(.*)$", prose(page))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_quoted_code_exists() -> None:
    quoted = directive("literalinclude")
    assert quoted
    for block in quoted:
        source = (REPOSITORY / block.page).parent / block.argument
        assert source.is_file(), f"{block}: {block.argument} does not exist"
        text = source.read_text(encoding="utf-8")
        if "pyobject" in block.options:
            assert block.options["pyobject"] in definitions(text), f"{block}: {block.argument} has no {block.options['pyobject']}"
        begin = block.options.get("start-at", "")
        assert begin in text, f"{block}: {block.argument} has no line with {begin!r}"
        end = block.options.get("end-before", "")
        assert end in text[text.index(begin) :], f"{block}: {block.argument} has no line with {end!r} after {begin!r}"


def definitions(text: str) -> set[str]:
    """Names of functions, classes and methods of a module."""
    names = set()
    for node in ast.parse(text).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names.update(f"{node.name}.{part.name}" for part in node.body if isinstance(part, ast.FunctionDef))
    return names


def test_config_keys_that_are_mentioned_exist() -> None:
    configs = [importlib.import_module(name).get_base_cfg() for name in domain_modules()]
    known = {key for cfg in configs for key, _, _ in cfg.keys_of()}
    sections = {".".join(key.split(".")[:length]) for key in known for length in range(1, key.count(".") + 1)}
    for name, page in PAGES.items():
        for key in sorted(set(_KEY.findall(prose(page)))):
            inside_map = key.startswith(("DATA.CATALOG.", "MODEL.BACKBONE_OPTIONS.", "MODEL.NECK_OPTIONS."))
            assert key in known or key in sections or inside_map, f"{name} mentions {key}, which is no config key"


def test_files_that_are_mentioned_exist() -> None:
    shown = {block.file for block in all_blocks()}
    for name, page in PAGES.items():
        for path in _PATH.findall(prose(page)):
            assert (REPOSITORY / path).exists() or path in shown, f"{name} mentions {path}, which does not exist"


def rows(page: Path, heading: str) -> list[str]:
    """First cells of the first table below a heading."""
    text = page.read_text(encoding="utf-8").partition(heading)[2]
    table = re.search(r"(?m)(^\|.*\n)+", text)
    assert table is not None, f"no table under {heading} in {page}"
    return [line.split("|")[1].strip() for line in table[0].splitlines()[2:]]


def test_flags_of_the_scripts_are_the_documented_ones() -> None:
    from pet.engine.setup import add_train_arguments, default_argument_parser

    flags = {option for action in add_train_arguments(default_argument_parser())._actions for option in action.option_strings} - {"-h", "--help"}
    cells = rows(DOCS / "training.md", "## Flags of every training script")
    assert {flag for cell in cells for flag in re.findall(r"--[\w-]+", cell)} == flags


def test_flags_of_test_scripts_are_documented() -> None:
    from argparse import ArgumentParser

    from pet.engine.testing import add_test_arguments

    text = (DOCS / "testing.md").read_text(encoding="utf-8")
    flags = [option for action in add_test_arguments(ArgumentParser())._actions for option in action.option_strings]
    assert not [flag for flag in flags if f"`{flag}" not in text and flag not in ("-h", "--help")]


def test_arguments_of_the_launcher_are_documented() -> None:
    from argparse import ArgumentParser

    from pet.engine.launch import add_launcher_arguments

    documented = {
        flag for cell in rows(DOCS / "training.md", "### Arguments of the launcher") for flag in re.findall(r"--[\w-]+", cell)
    }
    parser = ArgumentParser()
    add_launcher_arguments(parser)
    for action in parser._actions:
        if action.option_strings != ["-h", "--help"]:
            assert documented & set(action.option_strings), f"docs/training.md does not explain {action.option_strings}"


def test_hooks_stages_and_phases_are_the_documented_ones() -> None:
    import pet.engine.hooks
    from pet.engine.hooks.base import STAGES, Hook, Phase

    page = DOCS / "hooks.md"
    modules = [
        importlib.import_module(f"pet.engine.hooks.{module.name}") for module in pkgutil.iter_modules(pet.engine.hooks.__path__)
    ]
    hooks = {
        name: kind
        for module in modules
        for name, kind in vars(module).items()
        if inspect.isclass(kind) and issubclass(kind, Hook) and kind is not Hook
    }
    assert sorted(rows(page, "## Built-in hooks")) == sorted(f"`{name}`" for name in hooks)
    for line in page.read_text(encoding="utf-8").partition("## Built-in hooks")[2].splitlines():
        cells = [cell.strip(" `") for cell in line.split("|")]
        if len(cells) > 3 and cells[1] in hooks:
            assert cells[2] == hooks[cells[1]].phase.name, f"docs/hooks.md: the phase of {cells[1]}"
    stages = [re.sub(r"[`()]|storage", "", cell) for cell in rows(page, "## Seven stages")]
    assert stages == list(STAGES)
    assert [cell.strip("`") for cell in rows(page, "## Five phases")] == [phase.name for phase in Phase]


def test_exports_of_a_domain_are_the_documented_ones() -> None:
    named = {
        re.sub(r"\W.*", "", name.strip("` "))
        for cell in rows(DOCS / "add_a_task.md", "## What a domain exports")
        for name in cell.split(",")
    }
    # The name under which the tutorial knows the analyser; scripts do not use it.
    for name in domain_modules():
        domain = importlib.import_module(name.removesuffix(".config"))
        assert set(domain.__all__) - {"RCNNAnalyser"} <= named


def test_blocks_name_their_language() -> None:
    for block in all_blocks():
        assert block.info, f"{block}: a block without a language; use text for output"


def test_decisions_are_numbered_without_gaps_and_say_context_decision_and_consequences() -> None:
    records = sorted(path for path in (DOCS / "decisions").glob("*.md") if path.name != "index.md")
    assert [int(path.name[:3]) for path in records] == list(range(1, len(records) + 1))
    for path in records:
        text = path.read_text(encoding="utf-8")
        missing = [part for part in ("Status:", "## Context", "## Decision", "## Consequences") if part not in text]
        assert not missing, f"{path.name} has no {missing}"
        assert text.startswith(f"# {path.name[:3]}: "), f"{path.name} must begin with its number"
