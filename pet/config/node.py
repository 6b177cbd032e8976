"""CfgNode: yacs with declared keys, the origin of every value, and problems collected instead of raised one by one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from yacs.config import CfgNode as YacsNode

from pet.config.arguments import split_arguments
from pet.config.bases import load_chain
from pet.config.names import suggest
from pet.config.problem import ConfigError, Problem, show
from pet.config.schema import Key
from pet.config.values import MismatchError, convert, parse_argument

Check = Callable[["CfgNode"], list[Problem]]
Where = Callable[[tuple[str, ...]], str]

DEFAULT = "default"
COMMAND_LINE = "command line"
IN_CODE = "set in code"


@dataclass
class State:
    """What all sections of one tree share.

    Attributes:
        keys: full key -> declaration, in the order of declaration.
        history: full key -> (value, origin) of every time it was set, oldest first; the default is not in it.
        problems: what was wrong with the values merged so far.
        checks: checks of several keys together.
        file: the YAML file merged last.
    """

    keys: dict[str, Key] = field(default_factory=dict)
    history: dict[str, list[tuple[Any, str]]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    file: str = ""


def _refuse(*args: Any, **kwargs: Any) -> NoReturn:
    raise TypeError(
        "a config holds the declared keys, no others: declare keys with extend(), set values by assignment, merge files with "
        "merge_from_file() (YAML only; Python files are never run)"
    )


class CfgNode(YacsNode):  # type: ignore[misc]  # yacs has no type annotations
    """One section of a config; the tree is made with ``from_schema``.

    Only declared keys exist, and a value always has the declared type. Merging collects what is wrong; ``freeze``, ``check_cfg``
    and ``infer_cfg`` raise one ``ConfigError`` with all of it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.__dict__["_path"] = ""
        self.__dict__["_state"] = State()

    # ---- declaring keys

    @classmethod
    def from_schema(cls, sections: Mapping[str, Any]) -> CfgNode:
        """A tree with the defaults of ``sections``: nested maps whose leaves are ``Key``."""
        root = cls()
        root.extend(sections)
        return root

    def extend(self, sections: Mapping[str, Any]) -> None:
        """Declare more keys (a domain's own), with their defaults.

        Raises:
            KeyError: a key is declared already.
            ValueError: a default is not what its own declaration allows.
        """
        for name, entry in sections.items():
            full = self._full(name)
            if isinstance(entry, Key):
                if name in self:
                    raise KeyError(f"config key {full} is declared twice")
                self._declare(name, full, entry)
                continue
            if name not in self:
                section = type(self)()
                shared = ("_state", YacsNode.DEPRECATED_KEYS, YacsNode.RENAMED_KEYS)
                section.__dict__.update({attribute: self.__dict__[attribute] for attribute in shared}, _path=full)
                dict.__setitem__(self, name, section)
            elif not isinstance(self[name], CfgNode):
                raise KeyError(f"config key {full} is declared as a value and as a section")
            self[name].extend(entry)

    def _declare(self, name: str, full: str, spec: Key) -> None:
        try:
            value = convert(spec.default, spec)
        except MismatchError as error:
            raise ValueError(f"the default of config key {full} is {spec.default!r}: {error}") from error
        if spec.type is dict and value:
            raise ValueError(f"the default of config key {full} must be {{}}: maps merge, so an entry could not be removed")
        self._state.keys[full] = spec
        dict.__setitem__(self, name, value)

    def add_check(self, check: Check) -> None:
        """Add a check of several keys: it gets the root and returns problems. A module-level function: cfg is pickled."""
        self._state.checks.append(check)

    # ---- reading

    @property
    def _state(self) -> State:
        state: State = self.__dict__["_state"]
        return state

    @property
    def problems(self) -> list[Problem]:
        """What is wrong with the values merged so far."""
        return list(self._state.problems)

    @property
    def checks(self) -> list[Check]:
        """The checks added with ``add_check``."""
        return list(self._state.checks)

    @property
    def file(self) -> str:
        """The YAML file merged last, or an empty string."""
        return self._state.file

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        if name.startswith("__"):  # copy and pickle look for optional methods
            raise AttributeError(name)
        raise self._no_such_key(name)

    def _no_such_key(self, name: str) -> AttributeError:
        full = self._full(name)
        return AttributeError(f"config key {full} does not exist.{self.suggest(full)}")

    def keys_of(self, prefix: str = "") -> Iterator[tuple[str, Key, Any]]:
        """``(full key, declaration, value)`` of every key of this section, or of those at and below ``prefix``."""
        for name, value in self.items():
            full = self._full(name)
            if isinstance(value, CfgNode):
                yield from value.keys_of(prefix)
            elif not prefix or f"{full}.".startswith(f"{prefix}."):
                yield full, self._state.keys[full], value

    @property
    def known_keys(self) -> Collection[str]:
        """The full paths of all keys of the tree."""
        return self._state.keys.keys()

    def value(self, full_key: str) -> Any:
        """The value of a key of this section by its full path."""
        self.spec(full_key)
        node, name = self._holder(full_key)
        return node[name]

    def spec(self, full_key: str) -> Key:
        """The declaration of a key; a ``ConfigError`` names the nearest one if it does not exist."""
        if full_key not in self._state.keys:
            raise ConfigError([Problem(full_key, f"no such key.{self.suggest(full_key)}")])
        return self._state.keys[full_key]

    def origin(self, full_key: str) -> str:
        """Where the value of a key was set: ``file:line``, ``command line``, ``default``, ``inferred: ...``."""
        self.spec(full_key)
        history = self._state.history.get(full_key)
        return history[-1][1] if history else DEFAULT

    def history(self, full_key: str) -> list[tuple[Any, str]]:
        """``(value, origin)`` of a key from its default to its present value."""
        return [(self.spec(full_key).default, DEFAULT), *self._state.history.get(full_key, [])]

    def diff_from_defaults(self) -> list[tuple[str, Any, Any, str]]:
        """``(full key, default, value, origin)`` of every key that differs from its default."""
        differing = []
        for full, spec, value in self.keys_of():
            if value != convert(spec.default, spec):
                differing.append((full, spec.default, value, self.origin(full)))
        return differing

    def explain(self, key: str) -> str:
        """Value, origin and meaning of a key, and what it overrode, as text; see ``pet.config.explain``."""
        from pet.config.explain import explain

        return explain(self, key)

    def dump_resolved(self, header: str = "") -> str:
        """YAML text of all values; merging it gives an equal config. ``header``: comment lines to begin with."""
        from pet.config.resolved import dump_resolved

        return dump_resolved(self, header)

    def dump(self, **kwargs: Any) -> str:
        """The same as ``dump_resolved`` (yacs' name)."""
        return self.dump_resolved(**kwargs)

    def suggest(self, full_key: str) -> str:
        """``" Did you mean ...?"`` over full paths, or an empty string."""
        return suggest(full_key, self._state.keys)

    # ---- setting values

    def merge_from_file(self, cfg_filename: str | Path) -> None:
        """Merge a YAML file and its ``_BASE_`` chain. Maps merge; everything else replaces; ``{}`` empties a map.

        Raises:
            ConfigError: a file cannot be read. Wrong keys and values are collected.
        """
        for document in load_chain(cfg_filename):
            self._state.problems += document.problems
            self._merge(document.data, document.where)
        self._state.file = str(cfg_filename)

    def merge_from_list(self, cfg_list: Iterable[Any], where: str = COMMAND_LINE) -> None:
        """Merge ``["KEY", "VALUE", ...]`` and ``["KEY=VALUE", ...]``, also mixed; what is wrong is collected.

        Args:
            cfg_list: words of a command line; a VALUE may also be a Python value.
            where: origin of the values, for messages.
        """
        pairs, problems = split_arguments(cfg_list, self._state.keys, where)
        self._state.problems += problems
        for name, value in pairs:
            self._merge_argument(name, value, where)

    def merge_from_other_cfg(self, cfg_other: Mapping[str, Any], where: str = IN_CODE) -> None:
        """Merge nested maps or another CfgNode; what is wrong is collected."""
        self._merge(cfg_other, lambda path: where)

    def set(self, full_key: str, value: Any, where: str) -> None:
        """Set one key by its full path and say where the value comes from, e.g. ``inferred: ...`` or ``--amp``.

        Raises:
            AttributeError: the config is frozen.
            ValueError: the key does not allow the value, or there is no such key.
        """
        self.spec(full_key)
        node, name = self._holder(full_key)
        node._assign(name, value, where)

    def __setattr__(self, name: str, value: Any) -> None:
        self._assign(name, value, IN_CODE)

    def __setitem__(self, name: str, value: Any) -> None:
        self._assign(name, value, IN_CODE)

    def _assign(self, name: str, value: Any, where: str) -> None:
        full = self._full(name)
        if self.is_frozen():
            raise AttributeError(f"cannot set {full}: the config is frozen; call defrost() first")
        if name not in self:
            raise self._no_such_key(name)
        if isinstance(self[name], CfgNode):
            raise ValueError(f"cannot set {full}: it is a section")
        try:
            self._put(name, convert(value, self._state.keys[full]), where)
        except MismatchError as error:
            raise ValueError(str(Problem(full, str(error), where, show(value)))) from error

    def _put(self, name: str, value: Any, where: str) -> None:
        dict.__setitem__(self, name, value)
        self._state.history.setdefault(self._full(name), []).append((copy.deepcopy(value), where))

    def _merge(self, data: Mapping[str, Any], where: Where, path: tuple[str, ...] = ()) -> None:
        for name, value in data.items():
            here = (*path, name)
            section = self.get(name)
            if name not in self:
                self._unknown(self._full(name), value, where, here)
            elif not isinstance(section, CfgNode):
                self._merge_value(name, value, where(here))
            elif isinstance(value, Mapping):
                section._merge(value, where, here)
            elif value is not None:  # a section whose keys are all commented out
                self._problem(name, f"it is a section; it holds {', '.join(section)}", where(here), show(value))

    def _merge_value(self, name: str, value: Any, where: str) -> None:
        full = self._full(name)
        if self.is_frozen():
            raise AttributeError(f"cannot set {full} ({where}): the config is frozen; call defrost() first")
        spec = self._state.keys[full]
        try:
            converted = convert(value, spec)
        except MismatchError as error:
            self._problem(name, str(error), where, show(value))
            return
        self._put(name, _merge_maps(self[name], converted) if spec.type is dict else converted, where)

    def _merge_argument(self, full_key: str, value: Any, where: str) -> None:
        node, (name, *rest) = self, full_key.split(".")
        while rest and isinstance(node.get(name), CfgNode):
            node, (name, *rest) = node[name], rest
        spec = self._state.keys.get(node._full(name))
        if rest and (spec is None or spec.type is not dict):
            node._unknown(node._full(".".join((name, *rest))), value, lambda path: where, ())
            return
        if isinstance(value, str):
            value = parse_argument(value, None if rest else spec)
        for part in reversed(rest):
            value = {part: value}
        node._merge({name: value}, lambda path: where)

    def _unknown(self, full: str, value: Any, where: Where, path: tuple[str, ...]) -> None:
        renamed = self.__dict__[YacsNode.RENAMED_KEYS]
        moved = (*renamed, *self.__dict__[YacsNode.DEPRECATED_KEYS])
        if isinstance(value, Mapping) and any(old.startswith(f"{full}.") for old in moved):
            for name, inner in value.items():
                self._unknown(f"{full}.{name}", inner, where, (*path, name))
        elif full in renamed:
            new, note = renamed[full] if isinstance(renamed[full], tuple) else (renamed[full], "")
            self._state.problems.append(Problem(full, f"was renamed to {new}. {note}".rstrip(), where(path)))
        elif not self.key_is_deprecated(full):  # yacs logs a warning for one that is
            self._state.problems.append(Problem(full, f"no such key.{self.suggest(full)}", where(path)))

    def _problem(self, name: str, message: str, where: str, value: str) -> None:
        self._state.problems.append(Problem(self._full(name), message, where, value))

    def _holder(self, full_key: str) -> tuple[CfgNode, str]:
        """The section that holds a key, and the key's last name."""
        *sections, name = full_key.removeprefix(self._full("")).split(".")
        node = self
        for section in sections:
            node = node[section]
        return node, name

    def _full(self, name: str) -> str:
        path = self.__dict__["_path"]
        return f"{path}.{name}" if path else name

    # ---- freezing and copying

    def freeze(self) -> None:
        """Make this section and those below read-only.

        Raises:
            ConfigError: values merged so far were wrong.
        """
        if self._state.problems:
            raise ConfigError(self._state.problems)
        super().freeze()

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), dict(self.__dict__), dict(self.items()))

    # ---- what yacs and dict offer and a declared tree must not do

    set_new_allowed = __delitem__ = __ior__ = pop = popitem = clear = update = setdefault = _refuse
    load_cfg = _load_cfg_from_file = _load_cfg_from_yaml_str = _load_cfg_py_source = staticmethod(_refuse)


def _restore(kind: type[CfgNode], attributes: dict[str, Any], items: dict[str, Any]) -> CfgNode:
    node = kind.__new__(kind)
    node.__dict__.update(attributes)
    for name, value in items.items():
        dict.__setitem__(node, name, value)
    return node


def _merge_maps(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """``new`` over ``old``, map by map; an empty ``new`` empties."""
    if not new:
        return {}
    merged = dict(old)
    for name, value in new.items():
        before = merged.get(name)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            value = _merge_maps(before, value)
        merged[name] = value
    return merged


def keywords(section: CfgNode) -> dict[str, Any]:
    """The keys of a section, without its sub-sections, as keyword arguments in lower case."""
    return {name.lower(): value for name, value in section.items() if not isinstance(value, CfgNode)}
