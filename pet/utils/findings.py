"""Checks that stand for themselves: each gives one finding, and one that fails does not hide the next ones."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

PASS, WARN, FAIL, SKIP = "pass", "warn", "fail", "skip"


class InputError(Exception):
    """A file that was read while the work went on is wrong; the text says which, why and what to do."""


# Errors whose text is meant for users; others come with their kind and place.
_USERS_ERRORS = (ValueError, TypeError, KeyError, OSError, ImportError, InputError)


class Doubt(Exception):
    """Raised by a check that found something to look at, which need not stop anything."""


class NeedsError(Exception):
    """Raised by a check that cannot be made, because an earlier one failed; its text names what is missing."""


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        name: what was checked.
        result: ``pass``, ``warn``, ``fail`` or ``skip``.
        text: what was found, one or more lines.
        seconds: how long it took.
        remedy: what to do after ``warn`` and ``fail``.
    """

    name: str
    result: str
    text: str
    seconds: float = 0.0
    remedy: str = ""


def attempt(name: str, check: Callable[[], str], remedy: str = "", explain: Callable[[Exception], str] | None = None) -> Finding:
    """Make a check, whatever it raises.

    Args:
        name: of the finding.
        check: returns what it found; ``Doubt`` is a warning, any other exception a failure.
        remedy: what to do if it does not pass.
        explain: text of a failure; default: ``describe_error``.
    """
    started = perf_counter()
    try:
        result, text = PASS, check()
    except Doubt as doubt:
        result, text = WARN, str(doubt)
    except NeedsError as missing:
        result, text = SKIP, f"needs {missing}, see above"
    except Exception as error:
        result, text = FAIL, (explain or describe_error)(error)
    return Finding(name, result, text, perf_counter() - started, remedy if result in (WARN, FAIL) else "")


def describe_error(error: Exception) -> str:
    """The message of an error for users as it is; of any other with its kind and place."""
    message = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    if isinstance(error, _USERS_ERRORS):
        return message
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {message} ({place.filename}:{place.lineno})"
