"""Pictures of a run are drawn once, and from what was computed once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pet.vision as domain
from pet.engine.record import open_record
from pet.vision import pictures
from tests.evaluation.fakes import feed, noisy, random_truth


def test_statistics_are_drawn_at_the_start_and_kept_when_the_run_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(pictures, "draw_statistics", lambda dataset: (drawn.append(dataset), np.zeros((9, 9, 3), np.uint8))[1])
    cfg, file = domain.get_base_cfg(), tmp_path / "vis" / "labels.png"
    cfg.merge_from_list(["MISC.CKPT", str(tmp_path)])

    def start() -> int:
        open_record(tmp_path, {})
        pictures.write_start_pictures(cfg, "data set", [])
        assert file.is_file()
        return len(drawn)

    assert start() == 1
    assert start() == 2, "the first start left no checkpoint: this is another run"
    (tmp_path / "model_last.pth").touch()
    assert start() == 2
    file.unlink()
    assert start() == 3


class NoPredictions:
    """Draws no image."""

    def pictures(self) -> dict[str, Any]:
        return {}


def test_boxes_of_several_evaluators_are_compared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = random_truth(4)
    cfg = domain.get_base_cfg()
    cfg.merge_from_list(["MODEL.GLOBAL_HEAD.DET.TYPE=rpn", "MODEL.ROI_HEAD.TYPE=faster", "EVAL.METRICS=[bbox,mAP]"])
    evaluator = domain.build_evaluator(cfg, truth)
    feed(evaluator, noisy(truth))
    evaluator.evaluate()
    assert len(evaluator.evaluators) == 2
    compared: list[int] = []
    compare = pictures.detection_confusion
    monkeypatch.setattr(pictures, "detection_confusion", lambda *a, **k: (compared.append(1), compare(*a, **k))[1])
    found = pictures.EvaluationPictures(NoPredictions(), evaluator.evaluators).pictures()
    assert {"confusion", "precision_recall", "f1"} <= found.keys()
    assert len(compared) == 1
