"""``--explain`` and ``--help-config``."""

from __future__ import annotations

import pytest

from pet.config import ConfigError, get_base_cfg, infer_cfg
from pet.config.explain import help_config


def test_the_whole_history_of_a_value(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.yaml").write_text("SOLVER:\n  OPTIMIZER:\n    BASE_LR: 0.02\n")
    (tmp_path / "x.yaml").write_text("_BASE_: base.yaml\nSOLVER: {OPTIMIZER: {BASE_LR: 1}}\n")
    cfg = get_base_cfg()
    cfg.merge_from_file("x.yaml")
    cfg.merge_from_list(["SOLVER.OPTIMIZER.BASE_LR", "5e-2"])
    assert (
        cfg.explain("SOLVER.OPTIMIZER.BASE_LR")
        == """\
SOLVER.OPTIMIZER.BASE_LR = 0.05
  set by    command line
  overrode  1.0 (x.yaml:2)
            0.02 (base.yaml:3)
            0.1 (default)
  allowed   a float above 0
  help      learning rate at the end of the warm-up"""
    )


def test_a_default_and_an_inferred_value():
    cfg = get_base_cfg()
    cfg.merge_from_list(["SOLVER.SCHEDULER.TOTAL_ITERS", "10"])
    infer_cfg(cfg, "cfgs/tasks/cls/x.yaml")
    assert cfg.explain("SOLVER.SCHEDULER.GAMMA").splitlines()[1] == "  set by    default"
    assert "an int of at least 0, in updates" in cfg.explain("SOLVER.SCHEDULER.TOTAL_ITERS")
    assert "  set by    inferred: from the name of cfgs/tasks/cls/x.yaml\n  overrode  '' (default)" in cfg.explain("MISC.CKPT")


def test_a_section_and_an_entry_of_a_map():
    cfg = get_base_cfg()
    cfg.merge_from_list(["SOLVER.AMP.ENABLED", "true", "DATA.CATALOG.mine.TYPE=x"])
    assert cfg.explain("SOLVER.AMP").splitlines()[0] == "SOLVER.AMP.ENABLED = True  (command line)"
    assert cfg.explain("DATA.CATALOG.mine.TYPE").startswith("DATA.CATALOG = {'mine': {'TYPE': 'x'}}\n")


@pytest.mark.parametrize("show", [lambda cfg, name: cfg.explain(name), help_config])
def test_an_unknown_key_names_the_nearest_one(show):
    with pytest.raises(ConfigError, match=r"SOLVER\.BASE_LR: no such key\. Did you mean 'SOLVER\.OPTIMIZER\.BASE_LR'"):
        show(get_base_cfg(), "SOLVER.BASE_LR")


def test_help_lists_the_keys_below_a_prefix():
    cfg = get_base_cfg()
    assert help_config(cfg, "SOLVER.SCHEDULER.POLICY") == (
        "SOLVER.SCHEDULER.POLICY: one of STEP, COSINE, STEP_COSINE, POLY, CONSTANT, ONECYCLE; default 'STEP'\n    learning-rate policy"
    )
    keys = [full for full, _, _ in cfg.keys_of()]
    headings = [line.partition(":")[0] for line in help_config(cfg).splitlines() if not line.startswith(" ")]
    assert headings == keys
    assert "EVAL.PERIOD_EPOCHS: an int of at least 1 or None, in epochs; default 1" in help_config(cfg, "EVAL")
