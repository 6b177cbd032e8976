"""Registry: names in YAML to Python objects."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from pet.utils.suggest import did_you_mean

T = TypeVar("T")


class Registry(Generic[T]):
    """A mapping from names to objects of one kind.

    Args:
        kind: what is registered, for messages, e.g. ``"data set type"``.
        where: the package whose import registers the built-in entries; named when a look-up fails.
        base: what a class that is named by its import path must derive from.

    Example:
        >>> NECKS = Registry("neck", "pet.models.necks")
        >>> @NECKS.register("identity")
        ... class Identity: ...
        >>> NECKS.get("identity") is Identity
        True
    """

    def __init__(self, kind: str, where: str, base: type = object) -> None:
        self.kind, self.where, self.base = kind, where, base
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that enters an object under ``name``; a second entry of the same name is a ``KeyError``."""

        def enter(entry: T) -> T:
            if name in self._entries:
                raise KeyError(f"{self.kind} '{name}' is registered twice: {self._entries[name]!r} and {entry!r}")
            self._entries[name] = entry
            return entry

        return enter

    def get(self, name: str) -> T:
        """The object registered under ``name``; an unknown name is a ``KeyError`` that lists the known ones."""
        if name not in self._entries:
            raise KeyError(
                f"no {self.kind} is named '{name}'.{did_you_mean(name, self._entries)} "
                f"Known: {', '.join(sorted(self._entries)) or 'none'} (registered by {self.where})"
            )
        return self._entries[name]

    def find(self, name: str) -> T:
        """As ``get``, and a name with a dot that is not registered is the import path of a class outside Pet.

        Configs may be somebody else's: anything but such a class, for example a function that runs a command, is a ``TypeError``.
        """
        module, _, attribute = name.rpartition(".")
        if not module or name in self._entries:
            return self.get(name)
        try:
            entry: T = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise KeyError(
                f"the {self.kind} '{name}' cannot be imported: {error}. Give an import path that Python finds from here "
                f"(installed, or on PYTHONPATH), or one of: {', '.join(self.names())}"
            ) from error
        if not isinstance(entry, type) or not issubclass(entry, self.base):
            base = "" if self.base is object else f" that derives from {self.base.__module__}.{self.base.__name__}"
            raise TypeError(f"the {self.kind} '{name}' is refused: a config may name a class{base}, this is {entry!r}")
        return entry

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())
