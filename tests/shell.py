"""Commands as a user types them, run in this process: the scripts and the launcher are those of ``tools/``."""

from __future__ import annotations

import runpy
import sys
import traceback
from pathlib import Path
from typing import NamedTuple

import pytest

from pet.engine import events, launch


class Ended(NamedTuple):
    """How a command ended."""

    status: int
    text: str


class Shell:
    """Types commands.

    Args:
        folder: an empty folder.
        monkeypatch, capsys: of the test.
        text: the experiment.
        domain: where its YAML lies below ``cfgs``, and the scripts below ``tools``.

    Attributes:
        yaml: the experiment, below a folder ``cfgs/<domain>``.
        run: the folder of its run.
    """

    def __init__(
        self,
        folder: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        text: str,
        domain: str = "tasks/cls",
    ) -> None:
        self._patch, self._capsys, self.domain = monkeypatch, capsys, domain
        self.folder, self.run = folder, folder / "run"
        self.yaml = folder / "cfgs" / domain / "mine.yaml"
        self.yaml.parent.mkdir(parents=True)
        self.yaml.write_text(text)

    def train(self, *words: str, run: Path | str = "") -> Ended:
        script = f"tools/{self.domain}/train_net.py"
        return self.script(script, "--cfg", str(self.yaml), "--work-dir", str(run or self.run), *words)

    def test(self, *words: str) -> Ended:
        script = f"tools/{self.domain}/test_net.py"
        return self.script(script, "--cfg", str(self.yaml), "--work-dir", str(self.run), *words)

    def script(self, path: str, *words: str) -> Ended:
        """Run a script to its end; an exception that leaves it ends a process with 1 and its traceback."""
        self._patch.setattr(sys, "argv", [path, *words])
        self._patch.setattr(events, "_started", "")
        try:
            runpy.run_path(path, run_name="__main__")
        except SystemExit as end:
            return self._ended(end.code if isinstance(end.code, int) else 1)
        except Exception:
            traceback.print_exc()
            return self._ended(1)
        return self._ended(0)

    def launcher(self, *words: str) -> Ended:
        """Start the launcher with a command that it refuses."""
        return self._ended(launch.main(list(words)))

    def _ended(self, status: int) -> Ended:
        printed = self._capsys.readouterr()
        return Ended(status, printed.out + printed.err)


def check(ended: Ended, status: int, *texts: str) -> None:
    """The status, and every text in what was printed."""
    missing = [text for text in texts if text not in ended.text]
    assert not missing, f"{missing} not in\n{ended.text}"
    assert ended.status == status, ended.text
