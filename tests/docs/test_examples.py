"""The YAML and Python examples of the pages are good YAML and Python for this program."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.docs.pages import SECTIONS, Block, all_blocks
from tests.docs.workspace import QUICKSTART, domain_config, make_workspace, run_python, small

# Fragments that cannot stand for themselves, with the reason.
FRAGMENTS: dict[str, str] = {}

YAML = [block for block in all_blocks() if block.language == "yaml"]
PYTHON = [block for block in all_blocks() if block.language == "python" and not block.file]


@pytest.mark.parametrize("block", YAML, ids=str)
def test_yaml_example_is_a_config_without_problems(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if block.text in FRAGMENTS:
        return
    content = yaml.safe_load(block.text)
    assert set(content) <= {*SECTIONS, "_BASE_"}, (
        f"{block}: these are no sections of a config: {sorted(set(content) - set(SECTIONS))}"
    )
    workspace = make_workspace(tmp_path / "repository", [b for b in all_blocks() if b.file and b.page == block.page])
    path = workspace / (block.file or "cfgs/tasks/cls/shapes/example.yaml")
    if not block.file:
        # An excerpt stands on the experiment that the pages use; what it inherits from is only named.
        path.write_text(yaml.safe_dump({**content, "_BASE_": os.path.basename(QUICKSTART)}), encoding="utf-8")
    monkeypatch.chdir(workspace)
    domain = domain_config(path)
    cfg = domain.get_base_cfg()
    cfg.merge_from_file(path)
    domain.infer_cfg(cfg, path)
    cfg.freeze()


@pytest.mark.parametrize("page", sorted({block.page for block in PYTHON}))
def test_python_examples_run(page: str, tmp_path: Path, trained: Callable[[str, Path], None]) -> None:
    workspace = make_workspace(tmp_path / "repository")
    trained(QUICKSTART, workspace)
    test = ["tools/test_net_all.py", "--cfg", QUICKSTART, "--out", "predictions.json"]
    status, output = run_python(small(test, updates=2), workspace)
    assert status == 0, output
    source = "\n".join(block.text for block in PYTHON if block.page == page)
    (workspace / "example.py").write_text(source, encoding="utf-8")
    status, output = run_python(["example.py"], workspace)
    assert status == 0, f"{page}\n{output}"


def test_hook_of_the_tutorial_logs_the_norm_of_the_gradient(tmp_path: Path) -> None:
    shown = [block for block in all_blocks() if block.file and block.page == "docs/hooks.md"]
    hook = next(block for block in shown if block.file == "my_hooks.py")
    assert len([line for line in hook.text.splitlines() if line.strip()]) <= 20
    workspace = make_workspace(tmp_path / "repository", shown)
    words = small(["tools/train_net_all.py", "--cfg", "cfgs/tasks/cls/shapes/grad_norm.yaml"], updates=10)
    status, output = run_python([*words, "EVAL.ENABLED=False"], workspace, {"PYTHONPATH": "."})
    assert status == 0, output
    rows = [json.loads(line) for line in (workspace / "ckpts/tasks/cls/shapes/grad_norm/metrics.json").read_text().splitlines()]
    assert "gradient" not in rows[0]
    assert rows[-1]["gradient"] > 0.0
    assert "after_backward  GradNorm (UPDATE)" in output


def test_folder_of_a_run_is_as_described(tmp_path: Path, trained: Callable[[str, Path], None]) -> None:
    listing = next(block for block in all_blocks() if block.page == "docs/getting_started.md" and block.text.startswith("ckpts/"))
    folder, *lines = listing.text.splitlines()
    trained(f"cfgs/{folder.strip().removeprefix('ckpts/').rstrip('/')}.yaml", tmp_path)
    # The run in this test is shorter than an epoch, so its checkpoint has another number.
    names = [line.split()[0] for line in lines if not line.split()[0].startswith("model_epoch")]
    assert len(names) >= 8
    missing = [name for name in names if not (tmp_path / folder / name).exists()]
    assert not missing, f"{listing}: a run writes no {missing}"
    undescribed = (
        {path.name for path in (tmp_path / folder).iterdir()} - {name.rstrip("/") for name in names} - {"best.json", "test"}
    )
    assert not {name for name in undescribed if not name.startswith("model_")}, f"{listing} leaves out {undescribed}"
