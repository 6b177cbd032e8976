"""The reference page holds every key, and the committed one is up to date."""

from __future__ import annotations

import sys
import types

import pytest

from pet.config import get_base_cfg, key
from pet.config.reference import PAGE, domain_modules, main, reference_page


@pytest.fixture
def domain(monkeypatch) -> str:
    """A domain that adds one key."""

    def get_domain_cfg():
        cfg = get_base_cfg()
        cfg.extend({"MODEL": {"GLOBAL_HEAD": {"POSE": {"SIZE": key((64, 48), "(h | w) of <map>", element=int, unit="pixels")}}}})
        return cfg

    module = types.ModuleType("pet.tasks.pose.config")
    module.get_base_cfg = get_domain_cfg
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module.__name__


def test_every_shared_key_has_a_row():
    page = reference_page([])
    for full, _, _ in get_base_cfg().keys_of():
        assert page.count(f"| `{full}` |") == 1
    for section in get_base_cfg():
        assert f"\n## {section}\n" in page


def test_a_domain_gets_tables_of_its_own_keys(domain):
    page = reference_page([domain])
    tail = page.partition("\n## Keys of tasks/pose\n")[2]
    assert tail.count("\n| `") == 1
    assert "| `MODEL.GLOBAL_HEAD.POSE.SIZE` | a tuple of ints | `[64, 48]` | pixels | (h \\| w) of \\<map> |" in tail


def test_check_tells_a_fresh_page_from_a_stale_one(domain, tmp_path, capsys):
    page = tmp_path / "docs/page.md"
    arguments = ["--output", str(page), domain]
    assert main(["--check", *arguments]) == 1
    assert "is stale; run: python -m pet.config.reference" in capsys.readouterr().err
    assert main(arguments) == 0
    assert main(["--check", *arguments]) == 0
    page.write_text(page.read_text() + "x")
    assert main(["--check", *arguments]) == 1


def test_the_domains_are_found_by_their_files():
    assert all(name.startswith("pet.") and name.endswith(".config") for name in domain_modules())


def test_the_committed_page_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == reference_page(domain_modules()), "run: python -m pet.config.reference"
