"""Strict YAML: what a file means, and what is refused with file and line."""

from __future__ import annotations

import contextlib
import os
import random
import textwrap
from pathlib import Path

import pytest

from pet.config.loader import MAX_BYTES, MAX_DEPTH, Document, load_file, load_text, resolve
from pet.config.problem import ConfigError


def load(text: str) -> Document:
    return load_text(textwrap.dedent(text), "x.yaml")


def refusal(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(text)
    return str(caught.value)


@pytest.mark.parametrize("text", ["on", "ON", "off", "yes", "YES", "no", "No", "y", "n", "NO"])
def test_words_that_yaml_1_1_takes_for_booleans_stay_text(text):
    assert load(f"A: {text}").data == {"A": text}


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("True", True), ("FALSE", False), ("null", None), ("~", None), ("None", None), ("", None)]
)
def test_booleans_and_null_of_yaml_1_2(text, value):
    assert load(f"A: {text}").data == {"A": value}


@pytest.mark.parametrize(
    "text",
    [
        "0123",
        "-0123",
        "12:30:00",
        "1:30",
        "2024-01-01",
        "2024-01-01 10:00:00",
        "1_000",
        "0x1F",
        "0o17",
        "1.2.3",
        "0.7a",
        "+",
        ".",
    ],
)
def test_octal_base_60_dates_and_underscores_stay_text(text):
    assert load(f"A: {text}").data == {"A": text}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1e4", 1e4),
        ("1E+4", 1e4),
        ("-.5", -0.5),
        ("1.", 1.0),
        ("1.0e-08", 1e-8),
        (".inf", float("inf")),
        ("-.INF", -float("inf")),
    ],
)
def test_numbers_with_an_exponent_are_floats(text, value):
    data = load(f"A: {text}").data
    assert data == {"A": value}
    assert type(data["A"]) is float


@pytest.mark.parametrize(("text", "value"), [("0", 0), ("-7", -7), ("+7", 7), ("190", 190)])
def test_integers(text, value):
    data = load(f"A: {text}").data
    assert data == {"A": value}
    assert type(data["A"]) is int


def test_quoted_scalars_are_always_text():
    assert load("A: ['10', \"true\", 'null', '1e3', '']").data == {"A": ["10", "true", "null", "1e3", ""]}


def test_keys_are_text_even_where_yaml_1_1_sees_booleans_or_numbers():
    assert load("{ON: 1, NO: 2, yes: 3, 7: 4, null: 5}").data == {"ON": 1, "NO": 2, "yes": 3, "7": 4, "null": 5}


def test_every_key_knows_its_line():
    document = load("""
        SOLVER:
          OPTIMIZER: {BASE_LR: 0.1,
                      MOMENTUM: 0.9}
        TRAIN:
          DATASETS:
            - a
            - b
    """)
    assert document.where(("SOLVER",)) == "x.yaml:2"
    assert document.where(("SOLVER", "OPTIMIZER", "BASE_LR")) == "x.yaml:3"
    assert document.where(("SOLVER", "OPTIMIZER", "MOMENTUM")) == "x.yaml:4"
    assert document.where(("TRAIN", "DATASETS")) == "x.yaml:6"
    assert document.where(("SOLVER", "OPTIMIZER", "BASE_LR", "nothing below")) == "x.yaml:3"
    assert document.where(("ABSENT",)) == "x.yaml"


def test_a_key_given_twice_is_a_problem_that_names_both_lines():
    document = load("""
        SOLVER:
          GAMMA: 0.1
          LR_POW: 0.9
          GAMMA: 0.2
        SOLVER: {}
    """)
    assert [str(problem) for problem in document.problems] == [
        "SOLVER.GAMMA (x.yaml:5): is given twice, in lines 3 and 5; remove one",
        "SOLVER (x.yaml:6): is given twice, in lines 2 and 6; remove one",
    ]


@pytest.mark.parametrize(
    "value",
    [
        "!!python/object/apply:os.system ['touch hacked']",
        "!!python/name:os.system ''",
        "!!python/tuple [1]",
        "!!set {a}",
        "!!binary aGk=",
        "!mine 1",
        "!!int '3'",
    ],
)
def test_tags_are_refused_and_run_nothing(value, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = refusal(f"\nA: {value}")
    assert "x.yaml:2" in message
    assert "plain values only" in message
    assert list(tmp_path.iterdir()) == []


def test_an_alias_bomb_is_refused():
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9)
    )
    assert len(bomb) < 500
    assert "more than 20000 values (aliases expanded)" in refusal(bomb)


def test_aliases_work():
    assert load("A: &size [3, 4]\nB: *size").data == {"A": [3, 4], "B": [3, 4]}


def test_an_alias_inside_its_own_anchor_or_without_one_is_refused():
    assert "inside its own anchor" in refusal("A: &a [1, *a]")
    assert "alias" in refusal("A: *nowhere")


def test_merge_keys_are_refused_in_favour_of_base():
    assert "_BASE_" in refusal("A: &a {B: 1}\nC: {<<: *a}")


@pytest.mark.parametrize("opening", ["[", "{a: "])
def test_deep_nesting_is_refused(opening):
    assert f"more than {MAX_DEPTH} levels" in refusal("A: " + opening * 100_000)


def test_a_syntax_error_names_file_line_and_reason():
    message = refusal("A: 1\nB: [1, 2\nC: 3\n")
    assert "x.yaml:3" in message
    assert "valid YAML" in message
    assert "x.yaml:2" in refusal("A:\n\tB: 1")
    assert "x.yaml" in refusal("A: \x00")


def test_only_one_document_and_only_a_map():
    assert "one document" in refusal("A: 1\n---\nB: 2\n")
    assert "top level" in refusal("- 1\n- 2")
    assert "top level" in refusal("text")


def test_a_map_or_list_as_a_key_is_refused():
    assert "a key is plain text" in refusal("? [1, 2]\n: 3")
    assert "a key is plain text" in refusal("? !!int 3\n: 3")


def test_an_empty_file_holds_nothing():
    assert load("").data == {}
    assert load("# only a comment\n").data == {}


@pytest.mark.parametrize("name", ["x.py", "x.json", "x", "x.yaml.py"])
def test_only_yaml_files_are_read(name, tmp_path):
    (tmp_path / name).write_text("open('hacked', 'w')")
    with pytest.raises(ConfigError, match=r"\.yaml or \.yml file \(data, never code\)"):
        load_file(tmp_path / name)


def test_yaml_and_yml_files_with_a_byte_order_mark_are_read(tmp_path):
    for name in ("x.yaml", "x.yml", "X.YAML"):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbfA: \xc3\xa9\n")
        assert load_file(tmp_path / name).data == {"A": "é"}


def test_a_large_file_is_refused(tmp_path):
    (tmp_path / "x.yaml").write_text("# " + "x" * MAX_BYTES)
    with pytest.raises(ConfigError, match="larger than 1 MiB"):
        load_file(tmp_path / "x.yaml")


def test_text_that_is_not_utf_8_is_refused_with_its_line(tmp_path):
    (tmp_path / "x.yaml").write_bytes(b"A: 1\nB: \xff\n")
    with pytest.raises(ConfigError, match=r"x\.yaml:2: is not UTF-8 text \(byte 0xff\)"):
        load_file(tmp_path / "x.yaml")


def test_a_folder_is_refused(tmp_path):
    (tmp_path / "x.yaml").mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        load_file(tmp_path / "x.yaml")


def test_files_inside_the_current_folder_are_shown_relative_to_it(tmp_path, monkeypatch):
    Path(tmp_path, "cfgs").mkdir()
    (tmp_path / "cfgs/x.yaml").write_text("A: 1")
    assert load_file(tmp_path / "cfgs/x.yaml").name == str(tmp_path / "cfgs/x.yaml")
    monkeypatch.chdir(tmp_path)
    assert load_file(tmp_path / "cfgs/x.yaml").name == os.path.join("cfgs", "x.yaml")


def test_an_endless_number_costs_nothing():
    assert isinstance(resolve("9" * 100_000), float)


def test_any_text_is_read_or_refused_but_never_crashes():
    rng = random.Random(0)
    for _ in range(3000):
        text = "".join(rng.choice("ab:{}[](),-#&*!|>'\"%@`\n \t?<019.e~\\/=\x00é") for _ in range(rng.randrange(1, 30)))
        with contextlib.suppress(ConfigError):
            load(text)
