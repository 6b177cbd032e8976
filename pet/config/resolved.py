"""The resolved config as YAML: merging it again gives an equal config."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from pet.config.loader import BOOL, FLOAT, INFINITE, INT, NULL

if TYPE_CHECKING:
    from pet.config.node import CfgNode

_HEADER = re.compile(r"#\s*pet: domain ([\w./-]+)")


class _Dumper(yaml.SafeDumper):
    """Quotes text that this or any YAML 1.1 reader would take for another type; writes no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


class _Section(dict[str, Any]):
    """A section, written one key a line; a value is written in one line."""


def _represent_section(dumper: yaml.SafeDumper, section: _Section) -> yaml.MappingNode:
    return dumper.represent_mapping("tag:yaml.org,2002:map", section.items(), flow_style=False)


_Dumper.add_representer(_Section, _represent_section)
for _tag, _pattern in (("null", NULL), ("bool", BOOL), ("int", INT), ("float", FLOAT), ("float", INFINITE)):
    _Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern.pattern})$"), None)


def dump_resolved(cfg: CfgNode, header: str = "") -> str:
    """All values of ``cfg`` as YAML text, after ``header`` as comment lines."""
    comment = "".join(f"# {line}".rstrip() + "\n" for line in header.splitlines())
    return comment + _dump(_nested(cfg))


def yaml_text(value: Any) -> str:
    """A plain value as YAML in one line, e.g. ``[0.5, 0.5]``."""
    return _dump([value]).strip()[1:-1]


def _dump(value: Any) -> str:
    # The width keeps a value in its line: a folded one would be hard to read and to edit.
    options: dict[str, Any] = {"sort_keys": False, "default_flow_style": True, "allow_unicode": True, "width": 1 << 20}
    return str(yaml.dump(value, Dumper=_Dumper, **options))


def _nested(cfg: CfgNode) -> _Section:
    return _Section({name: _nested(value) if hasattr(value, "keys_of") else value for name, value in cfg.items()})


def domain_header(domain: str, cfg_file: str | Path) -> str:
    """The first line of ``config.yaml``, by which the launcher routes it: ``pet: domain tasks/cls, from <file>``."""
    return f"pet: domain {domain}, from {cfg_file}"


def read_domain_header(path: str | Path) -> str | None:
    """The domain in the first line of a resolved config, e.g. ``tasks/cls``; ``None`` without one."""
    try:
        with open(path, encoding="utf-8", errors="replace") as handle:
            found = _HEADER.match(handle.readline(1000))
    except OSError:
        return None
    return found[1] if found else None
