"""What a config key is: default, meaning, type and limits in one place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What is allowed besides the type.

    Attributes:
        choices: the allowed values (of the elements, for a sequence).
        low, high: inclusive bounds (of the elements, for a sequence).
        above: exclusive lower bound.
        unit: unit of the number, for the reference page.
        optional: whether ``None`` is allowed.
        element: type of the elements of a tuple, e.g. ``float``; ``None`` accepts any plain value.
        length: required number of elements of a tuple.
        infinite: whether ``inf`` is allowed.
    """

    choices: tuple[Any, ...] | None = None
    low: float | None = None
    high: float | None = None
    above: float | None = None
    unit: str = ""
    optional: bool = False
    element: type | None = None
    length: int | None = None
    infinite: bool = False


@dataclass(frozen=True)
class Key:
    """One config key. ``type`` is taken from the default unless given (needed when the default is ``None``).

    Types: ``bool int float str``, ``tuple`` (of plain values), ``list`` and ``dict`` (plain Python ones) and ``object`` (any
    plain value; sequences become tuples).
    """

    default: Any
    help: str
    type: type
    limits: Limits

    def __deepcopy__(self, memo: dict[int, Any]) -> Key:
        return self


def key(default: Any, help: str, *, type: type | None = None, **limits: Any) -> Key:
    """Declare a config key; see ``Limits`` for the keyword arguments."""
    if type is None:
        if default is None:
            raise TypeError(f"a key with default None must state its type ({help})")
        type = default.__class__
    return Key(default, help, type, Limits(optional=limits.pop("optional", default is None), **limits))
