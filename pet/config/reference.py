"""The reference page of all keys: ``python -m pet.config.reference`` writes ``docs/configs_reference.md``.

Shared keys come first, then the keys that each domain adds. ``--check`` writes nothing and exits 1 when the page is stale.
"""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from pet.config.base import get_base_cfg
from pet.config.node import CfgNode
from pet.config.resolved import yaml_text
from pet.config.schema import Key
from pet.config.values import describe

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = REPOSITORY / "docs" / "configs_reference.md"
COMMAND = "python -m pet.config.reference"
INTRODUCTION = f"""# All configuration keys

<!-- written by: {COMMAND} -->

One table for each section. What a key allows is checked before anything starts; [](configs.md) tells how values are set.
"""
# What Markdown would take for markup.
_MARKUP = re.compile(r"[\\|<*`\[\]]|(?<!\w)_|_(?!\w)")


def domain_modules() -> list[str]:
    """The config modules of all domains, e.g. ``pet.tasks.cls.config``."""
    package = REPOSITORY / "pet"
    files = [package / "vision/config.py", *package.glob("tasks/*/config.py"), *package.glob("projects/*/config.py")]
    return sorted(".".join(file.relative_to(REPOSITORY).with_suffix("").parts) for file in files if file.is_file())


def reference_page(modules: Iterable[str]) -> str:
    """The page as MyST text: the shared keys, then those each module's ``get_base_cfg`` adds or gives another default."""
    shared = {full: spec for full, spec, _ in get_base_cfg().keys_of()}
    page = INTRODUCTION + _sections(shared)
    for module in modules:
        cfg: CfgNode = importlib.import_module(module).get_base_cfg()
        own = {full: spec for full, spec, _ in cfg.keys_of() if shared.get(full) != spec}
        domain = "/".join(module.split(".")[1:-1])
        page += f"\n## Keys of {domain}\n{_sections(own, level=3)}"
    return page


def _sections(keys: dict[str, Key], level: int = 2) -> str:
    tables: dict[str, list[str]] = {}
    for full, spec in keys.items():
        cells = (f"`{full}`", _escape(describe(spec)), f"`{yaml_text(spec.default)}`", spec.limits.unit, _escape(spec.help))
        tables.setdefault(full.partition(".")[0], []).append(f"| {' | '.join(cells)} |\n")
    head = "| Key | Allowed | Default | Unit | Meaning |\n|---|---|---|---|---|\n"
    return "".join(f"\n{'#' * level} {name}\n\n{head}{''.join(rows)}" for name, rows in tables.items())


def _escape(text: str) -> str:
    return _MARKUP.sub(lambda match: f"\\{match[0]}", text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check the page; returns the exit status."""
    parser = argparse.ArgumentParser(prog=COMMAND, description="Write the reference page of all config keys.")
    parser.add_argument(
        "modules", nargs="*", metavar="MODULE", help="config modules of domains (default: all), e.g. pet.tasks.cls.config"
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the page is stale")
    parser.add_argument("--output", type=Path, default=PAGE, metavar="FILE", help="the page (default: %(default)s)")
    options = parser.parse_args(arguments)
    page = reference_page(options.modules or domain_modules())
    if options.check:
        fresh = options.output.is_file() and options.output.read_text(encoding="utf-8") == page
        if not fresh:
            print(f"{options.output} is stale; run: {COMMAND}", file=sys.stderr)
        return 0 if fresh else 1
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
