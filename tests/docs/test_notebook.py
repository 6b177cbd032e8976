"""The notebook of the documentation runs from its first cell to its last."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import pytest

from tests.apis.models import Saved, save_model
from tests.helpers import REPOSITORY

NOTEBOOK = REPOSITORY / "docs" / "inference_demo.ipynb"


def outputs(cell: Any) -> list[Any]:
    return list(cell.get("outputs", []))


@pytest.fixture
def detector(tmp_path: Path) -> Saved:
    return save_model("boxes", tmp_path / "model")


def test_notebook_runs_and_shows_pictures(detector: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    for variable in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "TMPDIR"):
        (tmp_path / variable).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / variable))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    # The model of the page would do; a smaller one, with a checkpoint, takes a tenth of the time and is silent.
    first = code[0].source
    code[0].source = first.replace('config = "cfgs/vision/shapes/faster_rcnn_quickstart.yaml"', f'config = "{detector.config}"')
    code[0].source = code[0].source.replace('checkpoint = ""', f'checkpoint = "{detector.checkpoint}"')
    assert code[0].source.count(str(tmp_path)) == 2, "the first cell must name config and checkpoint"
    logging.getLogger("traitlets").setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the client, about event loops
        nbclient.NotebookClient(
            notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(NOTEBOOK.parent)}}
        ).execute()
    kinds = [name for cell in code for output in outputs(cell) for name in output.get("data", {})]
    assert kinds.count("image/png") == 2
    assert not [output for cell in code for output in outputs(cell) if output.output_type == "error"]
    assert "4" in outputs(code[-1])[-1]["data"]["text/plain"]


def test_notebook_is_kept_without_outputs() -> None:
    nbformat = pytest.importorskip("nbformat")
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    assert not [cell for cell in cells if outputs(cell) or cell.get("execution_count")]
