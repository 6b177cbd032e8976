"""KEY VALUE and KEY=VALUE words."""

from __future__ import annotations

import pytest

from pet.config.arguments import split_arguments

KNOWN = {"A.B", "C"}


@pytest.mark.parametrize(
    ("words", "pairs"),
    [
        ([], []),
        (["A.B", "1", "C", "2"], [("A.B", "1"), ("C", "2")]),
        (["A.B=1", "C", "2", "C=3"], [("A.B", "1"), ("C", "2"), ("C", "3")]),
        (["A.B="], [("A.B", "")]),
        (["A.B", "x=y"], [("A.B", "x=y")]),
        (["A.B=x=y z"], [("A.B", "x=y z")]),
        (["A.B", "-1", "C", 2.5], [("A.B", "-1"), ("C", 2.5)]),
        (["D.my-set.IMAGES=a\nb"], [("D.my-set.IMAGES", "a\nb")]),
        (("A.B", None), [("A.B", None)]),
    ],
)
def test_pairs(words, pairs):
    assert split_arguments(words, KNOWN, "command line") == (pairs, [])


@pytest.mark.parametrize(
    ("words", "keys"),
    [(["A.B"], ["A.B"]), (["A.B", "C", "2"], ["A.B"]), (["A.B", "C=2"], ["A.B"]), ([3], ["3"]), (["", "A.B=1"], ["''"])],
)
def test_a_key_without_a_value_is_a_problem(words, keys):
    _, problems = split_arguments(words, KNOWN, "command line")
    assert [problem.key for problem in problems] == keys
