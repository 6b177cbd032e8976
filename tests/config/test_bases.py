"""``_BASE_``: order, limits, and messages of a config that builds on others."""

from __future__ import annotations

from pathlib import Path

import pytest

from pet.config import CfgNode, ConfigError, key
from pet.config.bases import MAX_CHAIN


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def cfg() -> CfgNode:
    return CfgNode.from_schema({"A": key(0, ""), "B": key(0, ""), "C": {"D": key((), ""), "E": key({}, "")}})


@pytest.fixture
def repository(tmp_path, monkeypatch) -> Path:
    """A repository that is not the current folder."""
    for folder in ("repository/cfgs", "repository/pet", "elsewhere"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "repository"


def error(cfg: CfgNode, path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        cfg.merge_from_file(path)
    return str(caught.value)


def test_a_file_overrides_its_base_and_a_later_base_an_earlier_one(cfg, tmp_path):
    write(tmp_path / "_base_/one.yaml", "A: 1\nB: 1\nC: {D: [1, 1], E: {x: 1, y: {z: 1}}}")
    write(tmp_path / "_base_/two.yaml", "B: 2\nC: {D: [2]}")
    path = write(tmp_path / "x.yaml", "_BASE_: [_base_/one.yaml, _base_/two.yaml]\nC: {E: {y: {w: 3}}}")
    cfg.merge_from_file(path)
    assert cfg == {"A": 1, "B": 2, "C": {"D": (2,), "E": {"x": 1, "y": {"z": 1, "w": 3}}}}


def test_an_empty_map_empties(cfg, tmp_path):
    write(tmp_path / "base.yaml", "C: {E: {x: 1, y: {z: 1}}}")
    cfg.merge_from_file(write(tmp_path / "x.yaml", "_BASE_: base.yaml\nC: {E: {}}"))
    assert cfg.C.E == {}


def test_a_base_is_relative_to_the_file_that_names_it(cfg, repository):
    write(repository / "cfgs/_base_/deep/one.yaml", "A: 1")
    write(repository / "cfgs/_base_/two.yaml", "_BASE_: deep/one.yaml\nB: 2")
    cfg.merge_from_file(write(repository / "cfgs/vision/x.yaml", "_BASE_: ../_base_/two.yaml"))
    assert (cfg.A, cfg.B) == (1, 2)


def test_the_same_base_on_two_ways_is_no_circle(cfg, tmp_path):
    write(tmp_path / "root.yaml", "A: 1")
    write(tmp_path / "left.yaml", "_BASE_: root.yaml")
    write(tmp_path / "right.yaml", "_BASE_: root.yaml\nB: 2")
    cfg.merge_from_file(write(tmp_path / "x.yaml", "_BASE_: [left.yaml, right.yaml]"))
    assert (cfg.A, cfg.B) == (1, 2)


def test_a_circle_is_refused_and_shown(cfg, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "b.yaml", "# first line\n_BASE_: c.yaml")
    write(tmp_path / "c.yaml", "_BASE_: ./b.yaml")
    message = error(cfg, write(tmp_path / "a.yaml", "_BASE_: b.yaml"))
    assert "c.yaml:1" in message
    assert "circle: b.yaml -> c.yaml -> b.yaml" in message
    assert "circle: x.yaml -> x.yaml" in error(cfg, write(tmp_path / "x.yaml", "_BASE_: x.yaml"))


def test_a_base_outside_the_repository_is_refused(cfg, repository):
    secret = write(repository.parent / "secret.yaml", "A: 7")
    for number, name in enumerate(("../../secret.yaml", str(secret), "link.yaml")):
        path = repository / f"cfgs/{number}.yaml"
        if name == "link.yaml":
            (path.parent / name).symlink_to(secret)
        message = error(cfg, write(path, f"A: 1\n_BASE_: {name}"))
        assert f"{number}.yaml:2" in message
        assert f"must lie inside {repository}" in message
    assert cfg.A == 0


def test_a_base_in_the_current_folder_is_allowed(cfg, repository):
    base = write(repository.parent / "elsewhere/base.yaml", "A: 7")
    cfg.merge_from_file(write(repository / "cfgs/x.yaml", f"_BASE_: {base}"))
    assert cfg.A == 7


def test_a_missing_base_names_the_line_and_the_nearest_file(cfg, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "cfgs/_base_/schedule_1x.yaml", "A: 1")
    message = error(cfg, write(tmp_path / "cfgs/vision/x.yaml", "A: 1\n_BASE_: ../_base_/schedul_1x.yaml"))
    assert "cfgs/vision/x.yaml:2" in message
    assert "Did you mean cfgs/_base_/schedule_1x.yaml?" in message


def test_a_missing_config_names_the_nearest_file(cfg, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "cfgs/tasks/cls/CIFAR10/resnet20.yaml", "A: 1")
    for wrong in ("resnet20.yml", "../cifar10/resnet20.yaml", "resnet_20.yaml"):
        message = error(cfg, Path("cfgs/tasks/cls/CIFAR10") / wrong)
        assert "no such file. Did you mean cfgs/tasks/cls/CIFAR10/resnet20.yaml?" in message


def test_a_folder_lists_its_files(cfg, tmp_path):
    write(tmp_path / "cfgs/a.yaml", "A: 1")
    assert "is a folder; give one of its files: a.yaml" in error(cfg, tmp_path / "cfgs")


@pytest.mark.parametrize("value", ["7", "{a: 1}", "[[a]]", "[a.yaml, 7]", "['']"])
def test_a_base_is_a_name_or_a_list_of_names(cfg, tmp_path, value):
    assert "x.yaml:1); expected a file name or a list" in error(cfg, write(tmp_path / "x.yaml", f"_BASE_: {value}"))


@pytest.mark.parametrize("value", ["", "[]", "null"])
def test_no_base(cfg, tmp_path, value):
    cfg.merge_from_file(write(tmp_path / "x.yaml", f"_BASE_: {value}\nA: 1"))
    assert cfg.A == 1


def test_long_chains_and_many_files_are_refused(cfg, tmp_path):
    for number in range(MAX_CHAIN + 2):
        write(tmp_path / f"{number}.yaml", f"_BASE_: {number + 1}.yaml")
    write(tmp_path / f"{MAX_CHAIN + 2}.yaml", "A: 1")
    assert f"more than {MAX_CHAIN} bases" in error(cfg, tmp_path / "0.yaml")
    write(tmp_path / "leaf.yaml", "A: 1")
    for level in range(7):
        below = "leaf" if level == 0 else f"tree{level - 1}"
        write(tmp_path / f"tree{level}.yaml", f"_BASE_: [{below}.yaml, {below}.yaml]")
    assert "more than 50 files" in error(cfg, tmp_path / "tree6.yaml")


def test_a_base_is_never_python(cfg, tmp_path):
    write(tmp_path / "base.py", "open('hacked', 'w')")
    assert "data, never code" in error(cfg, write(tmp_path / "x.yaml", "_BASE_: base.py"))


def test_base_inside_a_section_is_an_unknown_key(cfg, tmp_path):
    cfg.merge_from_file(write(tmp_path / "x.yaml", "C:\n  _BASE_: a.yaml"))
    with pytest.raises(ConfigError, match=r"C\._BASE_ \(.*x\.yaml:2\): no such key"):
        cfg.freeze()
