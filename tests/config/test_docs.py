"""``docs/configs.md`` tells the truth."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pet.config import ConfigError, get_base_cfg, infer_cfg

PAGE = Path(__file__).resolve().parents[2] / "docs" / "configs.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.fixture
def experiment(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = Path("cfgs/tasks/cls/shapes/x.yaml")
    path.parent.mkdir(parents=True)
    return path


def test_the_example_is_a_good_config(experiment):
    Path("cfgs/_base_").mkdir()
    Path("cfgs/_base_/schedule.yaml").write_text("SOLVER: {SCHEDULER: {WARM_UP_EPOCHS: 1}}")
    (text,) = blocks("yaml")
    experiment.write_text(text)
    cfg = get_base_cfg()
    cfg.merge_from_file(experiment)
    infer_cfg(cfg).freeze()
    assert (cfg.SOLVER.SCHEDULER.WARM_UP_EPOCHS, cfg.TRAIN.BATCH_SIZE) == (1.0, 64)


def test_the_explanation_shown_is_what_is_printed(experiment):
    experiment.write_text("\n" * 5 + "SOLVER:\n  OPTIMIZER: \n    BASE_LR: 0.02\n")
    cfg = get_base_cfg()
    cfg.merge_from_file(experiment)
    cfg.merge_from_list(["SOLVER.OPTIMIZER.BASE_LR", "0.05"])
    assert cfg.explain("SOLVER.OPTIMIZER.BASE_LR") + "\n" == blocks("text")[0]


def test_the_report_shown_is_what_is_printed(experiment):
    experiment.write_text("\n" * 6 + "SOLVER:\n  SCHEDULER:\n    POLICY: COSIN\n")
    cfg = get_base_cfg()
    cfg.merge_from_file(experiment)
    cfg.merge_from_list(["SOLVER.SCHEDULER.TOTAL_EPOCHS", "3", "SOLVER.BASE_LR", "1", "SOLVER.ACCUMULATE", "3"])
    with pytest.raises(ConfigError) as caught:
        infer_cfg(cfg)
    assert f"{caught.value}\n" == blocks("text")[1]


def test_the_domain_in_the_page_works():
    space: dict = {}
    exec(compile(blocks("python")[0], str(PAGE), "exec"), space)
    cfg = space["get_base_cfg"]()
    cfg.merge_from_list(["SOLVER.SCHEDULER.TOTAL_EPOCHS=1", "MODEL.HEAD.GROUPS=3"])
    with pytest.raises(ConfigError, match=r"MODEL\.HEAD\.WIDTH is 256 \(default\); must be a multiple"):
        infer_cfg(cfg)
