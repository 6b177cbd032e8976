"""Which lists of names mean the same by a label."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from pet.utils.labels import compare_names, names_in


@pytest.mark.parametrize(
    ("ours", "theirs", "words"),
    [
        ("a b c", "a c b", "class_names 1 is 'b' in A and 'c' in B: the same names in another order; .* CLASSES: .a, b, c."),
        ("a b c", "b c", "class_names 0 is 'a' in A and 'b' in B: the same name for another label"),
        ("a b", "x a b", "class_names 0 is 'a' in A and 'x' in B: the same name for another label"),
        ("x b y", "a z b", "class_names 1 is 'b' in A and 'z' in B"),
    ],
    ids=["order", "fewer", "more", "shared"],
)
def test_a_name_of_another_label_is_refused(ours: str, theirs: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        compare_names({"class_names": ours.split()}, {"class_names": theirs.split()}, "A", "B")


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [("a b c", "a b"), ("", "a b"), ("crane x crane", "crane x crane")],
    ids=["first-ones", "no-names", "twice"],
)
def test_the_same_names_are_fine(ours: str, theirs: str) -> None:
    assert compare_names({"class_names": ours.split()}, {"class_names": theirs.split()}, "A", "B") == []


def test_other_names_are_a_warning_with_both_lists() -> None:
    ours, theirs = SimpleNamespace(class_names=["cat", "N/A", "N/A"]), {"class_names": ["katze", "N/A", "hund"]}
    (text,) = compare_names(ours, theirs, "A", "B")
    assert text.endswith("labels are compared by number, whatever their names are (A: cat, N/A, N/A; B: katze, N/A, hund)")


def test_classes_of_pixels_are_not_compared_with_those_of_objects() -> None:
    panoptic = SimpleNamespace(class_names=["person", "car"], semseg_names=["sky", "car", "person"])
    semantic = SimpleNamespace(class_names=["sky", "car", "person"], semseg_names=["sky", "car", "person"])
    assert compare_names(panoptic, semantic, "A", "B") == []
    assert names_in(semantic) == {"semseg_names": ["sky", "car", "person"]}


def test_meta_of_others_has_no_names() -> None:
    for meta in (None, "v3", {"class_names": 3}, {"CLASSES": ["a"]}):
        assert compare_names(meta, {"class_names": ["b"]}, "A", "B") == []
