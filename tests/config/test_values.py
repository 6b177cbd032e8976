"""What a key accepts, what it refuses, and how the message says to write it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pet.config.schema import Key, key
from pet.config.values import MismatchError, convert, describe, parse_argument

FLOAT = key(0.5, "", above=0.0)
INT = key(3, "", low=1)
BOOL = key(False, "")
TEXT = key("", "")
CHOICE = key("STEP", "", choices=("STEP", "COSINE"))
NAMES = key((), "", element=str)
PAIR = key((1, 2), "", element=int, length=2, low=1)
FLOATS = key((1.0,), "", element=float)
NESTED = key(((32, 32),), "")
MAPS = key([], "", element=dict)
MAP = key({}, "")
ANY = key(256, "", type=object)
OPTIONAL = key(None, "", type=int, low=1)


def same(value: Any, expected: Any) -> bool:
    """Equal, and of the same types all the way down."""
    if isinstance(expected, (list, tuple)):
        return type(value) is type(expected) and len(value) == len(expected) and all(map(same, value, expected))
    return type(value) is type(expected) and value == expected


@pytest.mark.parametrize(
    ("spec", "value", "expected"),
    [
        (FLOAT, 1, 1.0),
        (FLOAT, "1e-3", 1e-3),
        (INT, 1e4, 10_000),
        (INT, "1e4", 10_000),
        (INT, "12", 12),
        (BOOL, True, True),
        (TEXT, "10", "10"),
        (NAMES, ["a", "b"], ("a", "b")),
        (NAMES, "('a',)", ("a",)),
        (NAMES, "(a, b)", ("a", "b")),
        (NAMES, "a,b", ("a", "b")),
        (NAMES, "[10, 0123]", ("10", "0123")),
        (NAMES, "()", ()),
        (PAIR, [3, 4], (3, 4)),
        (PAIR, "(3, 4)", (3, 4)),
        (PAIR, "3,4", (3, 4)),
        (FLOATS, [1, 2], (1.0, 2.0)),
        (FLOATS, "1, 2.5", (1.0, 2.5)),
        (NESTED, [[32, 32], [64, 64]], ((32, 32), (64, 64))),
        (NESTED, "((32, 32),)", ((32, 32),)),
        (NESTED, "[(32, 32), (64, 64)]", ((32, 32), (64, 64))),
        (NESTED, ["(32, 32)"], ((32, 32),)),
        (NESTED, [256, "layer4", None, 0.5], (256, "layer4", None, 0.5)),
        (MAPS, [{"TYPE": "x", "A": (1, 2)}], [{"TYPE": "x", "A": [1, 2]}]),
        (MAPS, "[{TYPE: x}]", [{"TYPE": "x"}]),
        (MAP, {"a": {"b": (1,)}}, {"a": {"b": [1]}}),
        (ANY, [256, 256], (256, 256)),
        (ANY, 256, 256),
        (OPTIONAL, None, None),
        (key(2.0, "", infinite=True), "inf", float("inf")),
    ],
)
def test_accepted_and_converted(spec: Key, value, expected):
    assert same(convert(value, spec), expected)


@pytest.mark.parametrize(
    ("spec", "value", "message"),
    [
        (INT, True, "expected an int of at least 1; true and false are no numbers"),
        (FLOAT, False, "expected a float above 0; true and false are no numbers"),
        (INT, 1.5, "expected an int of at least 1, without a fraction"),
        (INT, 0, "expected an int of at least 1"),
        (INT, None, "expected an int of at least 1; nothing is given"),
        (INT, "ten", "expected an int of at least 1"),
        (INT, "0123", "expected an int of at least 1"),
        (INT, 1e30, "expected an int of at least 1, without a fraction"),
        (FLOAT, 0, "expected a float above 0"),
        (FLOAT, float("nan"), "expected a float above 0; nan is no number"),
        (FLOAT, float("inf"), "expected a float above 0; it must be finite"),
        (FLOAT, [0.5], "expected a float above 0; one value, without brackets: 0.5"),
        (BOOL, 1, "expected true or false; write true"),
        (BOOL, "on", "expected true or false; write true"),
        (BOOL, "NO", "expected true or false; write false"),
        (TEXT, 10, "expected a string; write it in quotes: '10'"),
        (TEXT, None, "expected a string; write '' for none"),
        (TEXT, Path("x"), "expected a string"),
        (CHOICE, "COSIN", "expected one of STEP, COSINE. Did you mean 'COSINE'?"),
        (CHOICE, "step", "expected one of STEP, COSINE. Did you mean 'STEP'?"),
        (NAMES, "mnist_train", "expected a tuple of strings; write [mnist_train]"),
        (NAMES, [1], "expected a tuple of strings; value 1 is 1; write it in quotes: '1'"),
        (NAMES, None, "expected a tuple of strings; write [] for an empty one"),
        (PAIR, 224, "expected a tuple of 2 ints of at least 1; write [224, 224]"),
        (PAIR, [1, 2, 3], "expected a tuple of 2 ints of at least 1; it has 3"),
        (PAIR, [1, 0], "expected a tuple of 2 ints of at least 1; value 2 is 0"),
        (PAIR, [1, True], "expected a tuple of 2 ints of at least 1; value 2 is True; true and false are no numbers"),
        (FLOATS, 0.5, "expected a tuple of floats; write [0.5]"),
        (
            NESTED,
            ["(32", "32)"],
            "expected a tuple; value 1 is '(32'; inside brackets a tuple is written with brackets: [[32, 32]]",
        ),
        (MAPS, {"TYPE": "x"}, "expected a list of maps; write - before the map"),
        (MAPS, ["x"], "expected a list of maps; value 1 is 'x'; write {NAME: value}"),
        (MAP, [1], "expected a map; write {NAME: value}"),
        (MAP, {1: 2}, "expected a map; the keys of a map are text, not 1"),
        (MAP, {"a": Path("x")}, "expected a map; a PosixPath is no plain value"),
        (ANY, {1, 2}, "expected any plain value; a set is no plain value"),
        (OPTIONAL, 0, "expected an int of at least 1 or None"),
    ],
)
def test_refused_with_what_to_write(spec: Key, value, message):
    with pytest.raises(MismatchError) as caught:
        convert(value, spec)
    assert str(caught.value) == message


def test_every_element_is_checked_against_the_choices():
    spec = key((), "", element=str, choices=("mAP", "recall"))
    assert convert(["mAP", "recall"], spec) == ("mAP", "recall")
    with pytest.raises(MismatchError, match="each one of mAP, recall; value 2 is 'recal'. Did you mean 'recall'"):
        convert(["mAP", "recal"], spec)


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (key(1, "", low=1, high=64), "an int from 1 to 64"),
        (key(1.0, "", above=0.0, high=1.0), "a float above 0 and of at most 1"),
        (key("", "", choices=("", "BN")), "one of '', BN"),
        (key(None, "", type=float), "a float or None"),
        (key((1.0, 1.0, 1.0), "", element=float, length=3, above=0.0), "a tuple of 3 floats above 0"),
        (key((), ""), "a tuple"),
    ],
)
def test_limits_in_words(spec: Key, text):
    assert describe(spec) == text


@pytest.mark.parametrize(
    ("spec", "text", "expected"),
    [
        (TEXT, "0123", "0123"),
        (TEXT, "1e3", "1e3"),
        (TEXT, "true", "true"),
        (TEXT, "", ""),
        (TEXT, "''", ""),
        (TEXT, "'10'", "10"),
        (TEXT, "a: b # c", "a: b # c"),
        (TEXT, "null", None),
        (BOOL, "True", True),
        (BOOL, "false", False),
        (FLOAT, "1e-3", 1e-3),
        (OPTIONAL, "None", None),
        (OPTIONAL, "null", None),
        (MAP, "{a: 1, b: [x]}", {"a": 1, "b": ["x"]}),
        (ANY, "(256, 256)", [256, 256]),
        (ANY, "256", 256),
        (None, "dir/with: colon: twice", "dir/with: colon: twice"),
        (None, "12", 12),
        (None, "", ""),
    ],
)
def test_words_of_a_command_line(spec, text, expected):
    assert same(parse_argument(text, spec), expected)
