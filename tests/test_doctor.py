"""``python -m pet.doctor`` says what a machine offers, and works where torch does not."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from pet import doctor
from pet.utils.findings import FAIL, PASS, WARN
from tests.helpers import REPOSITORY, fork_start, run_cli


def named(findings: list) -> dict:
    return {finding.name: finding for finding in findings}


@pytest.fixture(autouse=True)
def _no_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "PET_DATA"):
        monkeypatch.delenv(name, raising=False)


def test_the_command_answers_in_one_line_each(tmp_path: Path) -> None:
    done = run_cli(["-m", "pet.doctor", "--json"], env={"PYTHONPATH": str(REPOSITORY)}, cwd=tmp_path, start=fork_start)
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert done.returncode == 0, done.stdout
    assert set(rows) >= {"Python", "Pet", "packages", "PyTorch", "torchvision", "GPU", "CPU", "shared memory", "disk", "data"}
    assert {row["result"] for row in rows.values()} <= {"ok", "warn"}
    assert rows["torchvision"]["text"].endswith("its operators work")
    assert not list(tmp_path.iterdir())


def test_a_torch_that_cannot_be_loaded_is_told_and_the_rest_is_still_examined(tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text('raise OSError("libcudart.so.99: cannot open shared object file")')
    path = f"{tmp_path}:{REPOSITORY}"
    done = run_cli(["-m", "pet.doctor"], env={"PYTHONPATH": path}, cwd=tmp_path)
    assert done.returncode == 1
    assert re.search(r"^FAIL +PyTorch .*libcudart.so.99.* -> .*pip install torch", done.stdout, re.MULTILINE)
    assert re.search(r"^skip +torchvision .*needs a torch", done.stdout, re.MULTILINE)
    for name in ("Python", "OpenCV", "CPU", "disk"):
        assert re.search(rf"^ok +{name} ", done.stdout, re.MULTILINE), done.stdout
    assert "Traceback" not in done.stderr


def test_torchvision_without_operators_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    def nms(*args: object) -> object:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(torchvision, "ops", SimpleNamespace(nms=nms))
    found = named(doctor.examine())["torchvision"]
    assert found.result == FAIL
    assert "operator torchvision::nms does not exist" in found.text
    assert "pip install -U torch torchvision" in found.remedy


def test_packages_and_extras_are_those_of_setup_py(monkeypatch: pytest.MonkeyPatch) -> None:
    import setuptools

    told: dict = {}
    monkeypatch.setattr(setuptools, "setup", told.update)
    monkeypatch.setattr(sys, "argv", ["setup.py"])
    runpy.run_path(str(REPOSITORY / "setup.py"))

    def plain(names: list[str]) -> list[str]:
        return [re.split(r"[<>=]", name)[0] for name in names]

    assert list(doctor.REQUIRED) == plain(told["install_requires"])
    assert {name: list(parts) for name, (_, parts) in doctor.EXTRAS.items()} == {
        name: plain(parts) for name, parts in told["extras_require"].items()
    }


def test_a_missing_package_fails_and_a_missing_extra_names_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    known = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: "" if name in ("timm", "onnx") else known(name))
    found = named(doctor.examine())
    assert found["packages"].result == FAIL
    assert "missing: timm" in found["packages"].text
    assert found["extra export"].result == WARN
    assert "onnx" in found["extra export"].text
    assert "pip install -e '.[export]'" in found["extra export"].text


@pytest.mark.parametrize(
    ("name", "usage", "result"),
    [
        pytest.param("shared memory", {"free": 64 << 20}, WARN, id="little-shared-memory"),
        pytest.param("disk", {"free": 1 << 30}, WARN, id="little-disk"),
        pytest.param("disk", {"free": 1 << 40}, PASS, id="much-disk"),
    ],
)
def test_little_space_is_a_warning(monkeypatch: pytest.MonkeyPatch, name: str, usage: dict, result: str) -> None:
    real = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: real._replace(**usage))
    assert named(doctor.examine())[name].result == result


def test_more_threads_than_cores_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "4096")
    found = named(doctor.examine())["CPU"]
    assert found.result == WARN
    assert "OMP_NUM_THREADS=4096" in found.text


def test_known_data_sets_are_found(monkeypatch: pytest.MonkeyPatch, shared_data: Path, tmp_path: Path) -> None:
    (tmp_path / "mnist").symlink_to(shared_data / "classification" / "mnist")
    monkeypatch.setenv("PET_DATA", str(tmp_path))
    assert "mnist_train" in named(doctor.examine())["data"].text
    monkeypatch.setenv("PET_DATA", str(tmp_path / "nowhere"))
    lost = named(doctor.examine())["data"]
    assert lost.result == WARN
    assert "nowhere does not exist" in lost.text


def test_the_lines_end_with_a_count() -> None:
    text = doctor.report(doctor.examine())
    counts = re.fullmatch(r"(\d+) ok, (\d+) warn, (\d+) FAIL, (\d+) skip", text.splitlines()[-1])
    assert counts is not None
    assert sum(map(int, counts.groups())) == len(text.splitlines()) - 1
