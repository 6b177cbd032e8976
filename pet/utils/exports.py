"""Names of a package that are imported on first use."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazy_exports(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package whose modules must not be loaded before one of their names is used.

    Args:
        package: its ``__name__``.
        modules: name to the module of the package that defines it.
    """

    def find(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"{package} has no '{name}'; it has {', '.join(modules)}")
        return getattr(importlib.import_module(f"{package}.{modules[name]}"), name)

    return find
