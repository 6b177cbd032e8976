"""Where a value comes from and what a key means, as text for a terminal."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from pet.config.problem import ConfigError, Problem, show
from pet.config.values import describe

if TYPE_CHECKING:
    from pet.config.node import CfgNode

WIDTH = 120


def explain(cfg: CfgNode, key: str) -> str:
    """Value, where it was set, everything it overrode, what is allowed, and help; for a section: every key with its origin.

    Raises:
        ConfigError: there is no such key; names the nearest one.
    """
    full = _entry_of_a_map(cfg, key)
    found = [name for name, _, _ in cfg.keys_of(full)]
    if not found:
        raise ConfigError([Problem(key, f"no such key.{cfg.suggest(key)}")])
    if found != [full]:
        return "\n".join(f"{name} = {show(cfg.history(name)[-1][0])}  ({cfg.origin(name)})" for name in found)
    spec = cfg.spec(full)
    (value, origin), *overrode = reversed(cfg.history(full))
    lines = [f"{full} = {value!r}", f"  set by    {origin}"]
    for number, (earlier, where) in enumerate(overrode):
        lines.append(f"  {'' if number else 'overrode':<8}  {earlier!r} ({where})")
    lines.append(f"  allowed   {describe(spec)}{f', in {spec.limits.unit}' if spec.limits.unit else ''}")
    lines.append(f"  help      {spec.help}")
    return "\n".join(lines)


def help_config(cfg: CfgNode, prefix: str = "") -> str:
    """The keys at and below ``prefix`` (``""``: all) with type, default and help, as text.

    Raises:
        ConfigError: there is no such key or section; names the nearest one.
    """
    blocks = []
    for full, spec, _ in cfg.keys_of(prefix):
        unit = f", in {spec.limits.unit}" if spec.limits.unit else ""
        text = textwrap.fill(spec.help, WIDTH, initial_indent="    ", subsequent_indent="    ")
        blocks.append(f"{full}: {describe(spec)}{unit}; default {show(spec.default)}\n{text}")
    if not blocks:
        raise ConfigError([Problem(prefix, f"no such key.{cfg.suggest(prefix)}")])
    return "\n".join(blocks)


def _entry_of_a_map(cfg: CfgNode, key: str) -> str:
    """The key of the map that ``key`` points into (``DATA.CATALOG.my_train`` -> ``DATA.CATALOG``), else ``key`` itself."""
    parts = key.split(".")
    for end in range(len(parts), 0, -1):
        full = ".".join(parts[:end])
        if any(name == full and spec.type is dict for name, spec, _ in cfg.keys_of(full)):
            return full
    return key
