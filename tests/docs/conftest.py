"""Runs that the commands and examples of the pages continue."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.docs.pages import all_blocks
from tests.docs.workspace import make_workspace, run_python, small


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Path], None]:
    """A function ``(cfg, workspace)`` that puts the folder of a run into a workspace; each YAML is trained once."""
    runs: dict[str, Path] = {}

    def put(cfg: str, workspace: Path) -> None:
        if cfg not in runs:
            folder = make_workspace(tmp_path_factory.mktemp("trained"), [block for block in all_blocks() if block.file])
            status, output = run_python(small(["tools/train_net_all.py", "--cfg", cfg], updates=2), folder)
            assert status == 0, output
            runs[cfg] = folder
        shutil.copytree(runs[cfg] / "ckpts", workspace / "ckpts", symlinks=True)

    return put
