"""Values of config keys: what is allowed, in words, and the conversion into the declared type."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from pet.config.loader import parse_value, resolve
from pet.config.problem import ConfigError, show
from pet.config.schema import Key, Limits
from pet.utils.suggest import did_you_mean

_NOUNS: dict[type, tuple[str, str]] = {
    bool: ("true or false", "booleans"),
    int: ("an int", "ints"),
    float: ("a float", "floats"),
    str: ("a string", "strings"),
    tuple: ("a tuple", "tuples"),
    list: ("a list", "lists"),
    dict: ("a map", "maps"),
    object: ("any plain value", "plain values"),
}
_PARENTHESES = re.compile(r"'[^']*'|\"[^\"]*\"|[()]")
# Integers beyond this are not exact as floats, so 1e20 for an int would not mean what it says.
_EXACT = 2**53


class MismatchError(ValueError):
    """A value that its key does not allow; the text says what is expected and how to write it."""


def describe(spec: Key) -> str:
    """What a key allows, in words: ``"a float above 0"``, ``"a tuple of 3 floats"``, ``"one of rgb, bgr"``."""
    limits = spec.limits
    if spec.type in (tuple, list):
        text = _NOUNS[spec.type][0]
        if limits.length is not None or limits.element is not None:
            count = "" if limits.length is None else f"{limits.length} "
            text += f" of {count}{_NOUNS[limits.element or object][1]}"
        text += f", each {_choices(limits)}" if limits.choices else _bounds(limits)
    else:
        text = _choices(limits) if limits.choices else _NOUNS[spec.type][0] + _bounds(limits)
    return f"{text} or None" if limits.optional else text


def _choices(limits: Limits) -> str:
    return "one of " + ", ".join("''" if choice == "" else str(choice) for choice in limits.choices or ())


def _bounds(limits: Limits) -> str:
    if limits.low is not None and limits.high is not None:
        return f" from {limits.low:g} to {limits.high:g}"
    parts = []
    if limits.above is not None:
        parts.append(f"above {limits.above:g}")
    if limits.low is not None:
        parts.append(f"of at least {limits.low:g}")
    if limits.high is not None:
        parts.append(f"of at most {limits.high:g}")
    return " " + " and ".join(parts) if parts else ""


def convert(value: Any, spec: Key) -> Any:
    """``value`` in the declared type of its key.

    Accepted besides the type itself: an int for a float, an integral number such as ``1e4`` for an int, a number as text, a
    list for a tuple and the reverse, and a sequence as text: ``(1, 2)``, ``[1, 2]`` or ``1,2``.

    Raises:
        MismatchError: anything else; a bool for a number and one value for a tuple among it.
    """
    if value is None and spec.limits.optional:
        return None
    try:
        if spec.type in (tuple, list):
            return _convert_sequence(value, spec)
        if spec.type is object:
            return _plain(value, tuple)
        return _convert_one(value, spec.type, spec.limits)
    except MismatchError as error:
        raise MismatchError(f"expected {describe(spec)}{error}") from None


def _convert_one(value: Any, kind: type, limits: Limits) -> Any:
    if kind in (int, float):
        value = _number(value, kind)
        _check_bounds(value, limits)
    elif kind is dict:
        if not isinstance(value, Mapping):
            raise MismatchError("; write {NAME: value}")
        return _plain(value, list)
    elif type(value) is not kind:
        raise MismatchError(_spelling(value, kind))
    if limits.choices is not None and value not in limits.choices:
        raise MismatchError("." + did_you_mean(str(value), map(str, limits.choices)))
    return value


def _number(value: Any, kind: type) -> int | float:
    if isinstance(value, str):
        text = value.strip()
        value = float(text) if kind is float and text in ("inf", "-inf") else resolve(text)
    if type(value) not in (int, float):
        raise MismatchError(_spelling(value, kind))
    if kind is float:
        if type(value) is int and abs(value) > _EXACT:
            raise MismatchError("; it is too large")
        return float(value)
    if type(value) is float:
        if not math.isfinite(value) or value != int(value) or abs(value) > _EXACT:
            raise MismatchError(", without a fraction")
        return int(value)
    return int(value)


def _check_bounds(value: float, limits: Limits) -> None:
    if math.isnan(value):
        raise MismatchError("; nan is no number")
    if math.isinf(value) and not limits.infinite:
        raise MismatchError("; it must be finite")
    too_low = limits.low is not None and value < limits.low
    too_high = limits.high is not None and value > limits.high
    if too_low or too_high or (limits.above is not None and value <= limits.above):
        raise MismatchError("")


def _spelling(value: Any, kind: type) -> str:
    """How to write what was probably meant."""
    if kind is str and value is None:
        return "; write '' for none"
    if kind is str and isinstance(value, (bool, int, float)):
        return f"; write it in quotes: '{value}'"
    if kind is bool and isinstance(value, (str, int)):
        word = {"on": "true", "yes": "true", "1": "true", "off": "false", "no": "false", "0": "false"}.get(str(value).lower())
        return f"; write {word}" if word else ""
    if isinstance(value, bool):
        return "; true and false are no numbers"
    if value is None:
        return "; nothing is given"
    return f"; one value, without brackets: {show(value[0])}" if isinstance(value, (list, tuple)) and len(value) == 1 else ""


def _convert_sequence(value: Any, spec: Key) -> Any:
    limits = spec.limits
    if isinstance(value, str):
        value = parse_sequence(value, typed=limits.element is not str, default=value)
    if not isinstance(value, (list, tuple)):
        raise MismatchError(_sequence_spelling(value, spec))
    if limits.length is not None and len(value) != limits.length:
        raise MismatchError(f"; it has {len(value)}")
    elements = []
    for number, element in enumerate(value, 1):
        try:
            elements.append(_convert_element(element, spec))
        except MismatchError as error:
            raise MismatchError(f"; value {number} is {show(element)}{error}") from None
    return elements if spec.type is list else tuple(elements)


def _convert_element(element: Any, spec: Key) -> Any:
    limits = spec.limits
    if limits.element is not None:
        return _convert_one(element, limits.element, limits)
    element = _plain(element, spec.type)
    if type(element) in (int, float):
        _check_bounds(element, limits)
    if limits.choices is not None and element not in limits.choices:
        raise MismatchError("." + did_you_mean(str(element), map(str, limits.choices)))
    return element


def _sequence_spelling(value: Any, spec: Key) -> str:
    if value is None:
        return "; write [] for an empty one"
    if isinstance(value, Mapping):
        return "; write - before the map" if spec.limits.element is dict else ""
    text = ", ".join([str(value)] * (spec.limits.length or 1))
    return f"; write [{text}]" if text else "; write [] for an empty one"


def parse_sequence(text: str, typed: bool = True, default: Any = None) -> Any:
    """The list in ``(1, 2)``, ``[1, 2]`` or ``1,2``; ``default`` if the text is no sequence."""
    text = text.strip()
    if not text.startswith(("(", "[")):
        if "," not in text:
            return default
        text = f"[{text}]"

    def to_bracket(match: re.Match[str]) -> str:
        return {"(": "[", ")": "]"}.get(match[0], match[0])

    try:
        value = parse_value(_PARENTHESES.sub(to_bracket, text), typed)
    except ConfigError:
        return default
    return value if isinstance(value, list) else default


def _plain(value: Any, sequence: type[list[Any]] | type[tuple[Any, ...]]) -> Any:
    """A copy made of plain values; every sequence becomes a ``sequence``."""
    if value is None or type(value) in (bool, int, float):
        return value
    if type(value) is str:
        return _plain_text(value) if sequence is tuple else value
    if isinstance(value, (list, tuple)):
        return sequence(_plain(element, sequence) for element in value)
    if isinstance(value, Mapping):
        wrong = [name for name in value if type(name) is not str]
        if wrong:
            raise MismatchError(f"; the keys of a map are text, not {show(wrong[0])}")
        return {name: _plain(element, list) for name, element in value.items()}
    raise MismatchError(f"; a {type(value).__name__} is no plain value")


def _plain_text(text: str) -> Any:
    """Text, or the tuple it spells: YAML knows no parentheses, so ``- (32, 32)`` arrives as text."""
    if text.startswith("(") and text.endswith(")"):
        values = parse_sequence(text)
        return text if values is None else _plain(values, tuple)
    if text.startswith("(") != text.endswith(")"):
        raise MismatchError("; inside brackets a tuple is written with brackets: [[32, 32]]")
    return text


def parse_argument(text: str, spec: Key | None) -> Any:
    """The value of a command-line word for a key (``None``: for an entry of a map, whose type is open).

    Text for a key of type ``str`` is never turned into anything but ``None``; a sequence is left to ``convert``.
    """
    if spec is not None and spec.type is str:
        quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
        if quoted:
            return text[1:-1]
        return None if text in ("None", "null") else text
    if spec is not None and spec.type in (tuple, list):
        return None if spec.limits.optional and text in ("None", "null") else text
    if spec is not None and spec.type is object:
        return parse_sequence(text, default=resolve(text))
    try:
        return parse_value(text) if text else text
    except ConfigError:
        return text
