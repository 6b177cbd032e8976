"""One HTML file that tells about a run: numbers, curves, pictures, data, configuration, environment.

It needs nothing but itself, so it can be mailed, and is made of the files in the folder of the run alone, so it can be
made of any run at any time: of a running or killed one, of one without an evaluation, of a mere test.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from pet.config import CfgNode
from pet.utils import comm
from pet.utils.files import atomic_text
from pet.utils.logger import LOGGER
from pet.visualization.curves import write_curves
from pet.visualization.report.page import build_page
from pet.visualization.report.run import read_run

__all__ = ["report_run", "write_report"]


def write_report(folder: str | Path) -> Path:
    """Write ``<folder>/report.html``; returns its path.

    Args:
        folder: of a run (``MISC.CKPT``).

    Raises:
        FileNotFoundError: there is no such folder, or it holds nothing of a run.
    """
    run = read_run(folder)
    path = run.folder / "report.html"
    atomic_text(path, build_page(run))
    return path


def report_run(cfg: CfgNode) -> None:
    """Curves as a picture, and the report; at the end of a training and of a test. What fails here is no reason to fail a run."""
    if not (cfg.VIS.ENABLED and comm.is_main_process()):
        return
    folder = Path(cfg.MISC.CKPT)
    try:
        if (folder / "metrics.json").is_file():
            write_curves(cfg)
        LOGGER.info(f"Report: {write_report(folder)}")
    except Exception as error:
        LOGGER.warning(
            f"The report of {folder} could not be written: {type(error).__name__}: {error}. The results of the run are complete; "
            f"to write its report again: python tools/report.py {shlex.quote(str(folder))}"
        )
        LOGGER.debug("Why there is no report:", exc_info=True)
