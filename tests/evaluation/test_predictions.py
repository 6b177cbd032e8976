"""Files of predictions hold the same plain values in every format, and reading one runs no code."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest

from pet.evaluation import check_output_path, read_plain, write_plain

CONTENT = {
    "pred_label": [0, 1],
    "pred_score": [0.125, 0.5],
    "pred_class": ["Katze 猫", "no"],
    "metrics": {"top1": 50.0, "f1": None},
}


@pytest.mark.parametrize("suffix", [".json", ".yaml", ".yml", ".pkl"])
def test_every_format_reads_back_equal(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    write_plain(path, {**CONTENT, "metrics": {"top1": 50.0, "f1": float("nan")}})
    assert read_plain(path) == CONTENT
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_unknown_suffix_is_refused_with_the_allowed_ones(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must be one of .json, .yaml, .yml, .pkl, not '.jsn'. Did you mean '.json'"):
        check_output_path(tmp_path / "out.jsn")


def test_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    with pytest.raises(NotADirectoryError, match="/f is a file, not a folder"):
        check_output_path(tmp_path / "f" / "deeper" / "out.json")
    assert check_output_path(tmp_path / "missing" / "deeper" / "out.json").parent.is_dir()
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(ValueError, match="is a folder"):
        check_output_path(tmp_path / "folder.json")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(PermissionError, match="not writable"):
            check_output_path(tmp_path / "out.json")
    finally:
        tmp_path.chmod(0o700)


def test_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps(os.getcwd))
    with pytest.raises(ValueError, match="plain values only"):
        read_plain(path)


@pytest.mark.parametrize(
    ("name", "text"), [("a.json", "{"), ("a.yaml", "{"), ("a.pkl", "x"), ("b.pkl", ""), ("b.json", "[1]"), ("a.txt", "")]
)
def test_damaged_file_is_named(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=name):
        read_plain(tmp_path / name)
