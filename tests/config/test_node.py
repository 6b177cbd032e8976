"""CfgNode: declared keys only, origins, problems collected, no code run."""

from __future__ import annotations

import copy
import pickle
import random
from pathlib import Path

import pytest
from yacs.config import CfgNode as YacsNode

from pet.config import CfgNode, ConfigError, Problem, get_base_cfg, key

SCHEMA = {
    "MISC": {"SEED": key(0, "seed", low=0), "HOOKS": key([], "hooks", element=dict)},
    "DATA": {"CATALOG": key({}, "data sets"), "ROOT": key("", "folder")},
    "SOLVER": {
        "OPTIMIZER": {"BASE_LR": key(0.1, "rate", above=0.0), "TYPE": key("SGD", "kind", choices=("SGD", "ADAM"))},
        "TOTAL": key(None, "length", type=int, low=1),
        "STEPS": key((), "milestones", element=float),
    },
}


@pytest.fixture
def cfg() -> CfgNode:
    return CfgNode.from_schema(SCHEMA)


def merge(cfg: CfgNode, folder: Path, text: str, name: str = "x.yaml") -> CfgNode:
    (folder / name).write_text(text)
    cfg.merge_from_file(folder / name)
    return cfg


def report(cfg: CfgNode) -> str:
    with pytest.raises(ConfigError) as caught:
        cfg.freeze()
    return str(caught.value)


# ---- reading


def test_defaults_are_read_by_attribute_and_by_item(cfg):
    assert isinstance(cfg, YacsNode)
    assert cfg.SOLVER.OPTIMIZER.BASE_LR == cfg["SOLVER"]["OPTIMIZER"]["BASE_LR"] == cfg.value("SOLVER.OPTIMIZER.BASE_LR") == 0.1


def test_an_unknown_attribute_names_the_nearest_key(cfg):
    with pytest.raises(AttributeError, match=r"config key SOLVER\.OPTIMISER does not exist\. Did you mean 'SOLVER\.OPTIMIZER'"):
        _ = cfg.SOLVER.OPTIMISER
    assert not hasattr(cfg, "ABSENT")


def test_trees_do_not_share_values(cfg):
    cfg.DATA.CATALOG["x"] = {"TYPE": "a"}
    cfg.MISC.HOOKS.append({"TYPE": "a"})
    fresh = CfgNode.from_schema(SCHEMA)
    assert (fresh.DATA.CATALOG, fresh.MISC.HOOKS) == ({}, [])


def test_all_keys_with_declaration_and_value(cfg):
    found = {full: (spec.help, value) for full, spec, value in cfg.keys_of("SOLVER.OPTIMIZER")}
    assert found == {"SOLVER.OPTIMIZER.BASE_LR": ("rate", 0.1), "SOLVER.OPTIMIZER.TYPE": ("kind", "SGD")}
    assert [full for full, _, _ in cfg.keys_of()][:2] == ["MISC.SEED", "MISC.HOOKS"]


# ---- declaring


def test_a_domain_adds_keys_to_sections_that_exist(cfg):
    cfg.extend({"SOLVER": {"OPTIMIZER": {"LAYER_DECAY": key(1.0, "decay")}}, "MODEL": {"HEAD": key("fc", "head")}})
    cfg.merge_from_list(["SOLVER.OPTIMIZER.LAYER_DECAY", "0.75"])
    assert (cfg.SOLVER.OPTIMIZER.LAYER_DECAY, cfg.SOLVER.OPTIMIZER.BASE_LR, cfg.MODEL.HEAD) == (0.75, 0.1, "fc")
    assert "LAYER_DECAY" not in CfgNode.from_schema(SCHEMA).SOLVER.OPTIMIZER


def test_a_key_is_declared_once(cfg):
    with pytest.raises(KeyError, match=r"MISC\.SEED is declared twice"):
        cfg.extend({"MISC": {"SEED": key(1, "")}})
    with pytest.raises(KeyError, match="as a value and as a section"):
        cfg.extend({"MISC": {"SEED": {"A": key(1, "")}}})


def test_a_default_must_be_what_the_key_allows():
    with pytest.raises(ValueError, match=r"the default of config key A is 0: expected an int of at least 1"):
        CfgNode.from_schema({"A": key(0, "", low=1)})
    with pytest.raises(ValueError, match="maps merge"):
        CfgNode.from_schema({"A": key({"x": 1}, "")})
    with pytest.raises(TypeError, match="must state its type"):
        key(None, "a key")


# ---- merging a file


def test_a_file_sets_values_in_the_declared_types(cfg, tmp_path):
    merge(cfg, tmp_path, "SOLVER:\n  OPTIMIZER: {BASE_LR: 1}\n  TOTAL: 1e4\n  STEPS: [1, 2.5]\nDATA: {ROOT: NO}\nMISC:\n")
    assert cfg.SOLVER == {"OPTIMIZER": {"BASE_LR": 1.0, "TYPE": "SGD"}, "TOTAL": 10_000, "STEPS": (1.0, 2.5)}
    assert type(cfg.SOLVER.OPTIMIZER.BASE_LR) is float
    assert type(cfg.SOLVER.TOTAL) is int
    assert cfg.DATA.ROOT == "NO"
    cfg.freeze()


def test_all_problems_are_in_one_report_with_file_and_line(cfg, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = """\
MISC:
  SEED: true
SOLVER:
  OPTIMISER: {BASE_LR: 0.1}
  OPTIMIZER:
    TYPE: ADAMM
    BASE_LR: -1
  STEPS: 3
  STEPS: [4]
DATA: text
"""
    merge(cfg, tmp_path, text).merge_from_list(["SOLVER.BASE_LR", "1"])
    assert (
        report(cfg)
        == """\
the config has 7 problems:
  1. SOLVER.STEPS (x.yaml:9): is given twice, in lines 8 and 9; remove one
  2. MISC.SEED is True (x.yaml:2); expected an int of at least 0; true and false are no numbers
  3. SOLVER.OPTIMISER (x.yaml:4): no such key. Did you mean 'SOLVER.OPTIMIZER'?
  4. SOLVER.OPTIMIZER.TYPE is 'ADAMM' (x.yaml:6); expected one of SGD, ADAM. Did you mean 'ADAM'?
  5. SOLVER.OPTIMIZER.BASE_LR is -1 (x.yaml:7); expected a float above 0
  6. DATA is 'text' (x.yaml:10); it is a section; it holds CATALOG, ROOT
  7. SOLVER.BASE_LR (command line): no such key. Did you mean 'SOLVER.OPTIMIZER.BASE_LR'?"""
    )
    assert "7 problems" in report(cfg)
    assert pickle.loads(pickle.dumps(ConfigError(cfg.problems))).problems == cfg.problems


def test_a_wrong_value_leaves_the_old_one(cfg, tmp_path):
    merge(cfg, tmp_path, "MISC: {SEED: 5}")
    merge(cfg, tmp_path, "MISC: {SEED: five}")
    assert (cfg.MISC.SEED, len(cfg.problems)) == (5, 1)


def test_a_python_file_is_never_run(cfg, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = tmp_path / "x.py"
    code.write_text("open('hacked', 'w')\ncfg = {}")
    with pytest.raises(ConfigError, match="data, never code"):
        cfg.merge_from_file("x.py")
    for load in (cfg.load_cfg, CfgNode.load_cfg, CfgNode._load_cfg_py_source, CfgNode._load_cfg_from_file):
        with code.open() as handle, pytest.raises(TypeError, match="never run"):
            load(handle)
    assert not Path("hacked").exists()


def test_renamed_and_deprecated_keys(cfg, tmp_path, caplog):
    cfg.register_renamed_key("SOLVER.MAX_EPOCHS", "SOLVER.TOTAL")
    cfg.register_renamed_key("TRAIN.LR", "SOLVER.OPTIMIZER.BASE_LR", message="It is the rate after the warm-up.")
    cfg.register_deprecated_key("CLEAN_UP")
    merge(cfg, tmp_path, "CLEAN_UP: True\nTRAIN: {LR: 1}").merge_from_list(["SOLVER.MAX_EPOCHS", "1", "TRAIN.LR=1"])
    text = report(cfg.clone())
    assert "x.yaml:2): was renamed to SOLVER.OPTIMIZER.BASE_LR." in text
    assert "SOLVER.MAX_EPOCHS (command line): was renamed to SOLVER.TOTAL." in text
    assert "TRAIN.LR (command line): was renamed to SOLVER.OPTIMIZER.BASE_LR. It is the rate after the warm-up." in text
    assert "CLEAN_UP" not in text
    assert "CLEAN_UP" in caplog.text


# ---- merging a command line


def test_key_value_and_key_equals_value_mix(cfg):
    cfg.merge_from_list(
        ["MISC.SEED", "7", "SOLVER.OPTIMIZER.BASE_LR=1e-3", "SOLVER.STEPS", "(1, 2)", "DATA.ROOT=a=b", "SOLVER.TOTAL", 5]
    )
    cfg.freeze()
    assert (cfg.MISC.SEED, cfg.SOLVER.OPTIMIZER.BASE_LR, cfg.SOLVER.STEPS, cfg.DATA.ROOT, cfg.SOLVER.TOTAL) == (
        7,
        1e-3,
        (1.0, 2.0),
        "a=b",
        5,
    )


def test_text_keys_stay_text(cfg):
    for text in ("0123", "1e3", "true", "12:30:00", "10", "-x", ""):
        cfg.merge_from_list(["DATA.ROOT", text])
        assert cfg.value("DATA.ROOT") == text


def test_a_path_into_a_map(cfg):
    cfg.merge_from_list(["DATA.CATALOG", "{a: {TYPE: x}}", "DATA.CATALOG.a.IMAGES=dir", "DATA.CATALOG.b.SIZE", "12"])
    cfg.freeze()
    assert cfg.DATA.CATALOG == {"a": {"TYPE": "x", "IMAGES": "dir"}, "b": {"SIZE": 12}}


def test_a_key_without_a_value_says_so(cfg):
    cfg.merge_from_list(["MISC.SEED", "SOLVER.TOTAL=3", "DATA.ROOT", "SOLVER.STEPS", "(1,)", "SOLVER.OPTIMIZER.TYPE"])
    text = report(cfg)
    for name in ("MISC.SEED", "DATA.ROOT", "SOLVER.OPTIMIZER.TYPE"):
        assert f"{name} (command line): has no VALUE; write {name} VALUE or {name}=VALUE" in text
    assert (cfg.SOLVER.TOTAL, cfg.SOLVER.STEPS) == (3, (1.0,))


def test_a_section_or_a_plain_value_has_no_entries(cfg):
    cfg.merge_from_list(["SOLVER", "3", "MISC.SEED.X", "3", "", "3"])
    text = report(cfg)
    assert "SOLVER is 3 (command line); it is a section; it holds OPTIMIZER, TOTAL, STEPS" in text
    assert "MISC.SEED.X (command line): no such key" in text
    assert "'' (command line): expected KEY VALUE" in text


def test_a_flag_names_itself_as_origin(cfg):
    cfg.merge_from_list(["MISC.SEED", 3], where="--seed")
    assert cfg.origin("MISC.SEED") == "--seed"


# ---- origins


def test_origins_follow_every_source(cfg, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.yaml").write_text("MISC: {SEED: 1}\n")
    merge(cfg, tmp_path, "_BASE_: base.yaml\nMISC:\n  SEED: 2\n").merge_from_list(["MISC.SEED", "3"])
    cfg.MISC.SEED = 4
    cfg.set("MISC.SEED", 5, "inferred")
    assert cfg.history("MISC.SEED") == [
        (0, "default"), (1, "base.yaml:1"), (2, "x.yaml:3"), (3, "command line"), (4, "set in code"), (5, "inferred"),
    ]  # fmt: skip
    assert (cfg.origin("MISC.SEED"), cfg.origin("SOLVER.TOTAL")) == ("inferred", "default")
    assert cfg.SOLVER.origin("MISC.SEED") == "inferred"
    with pytest.raises(ConfigError, match=r"Did you mean 'MISC\.SEED'"):
        cfg.origin("MISC.SEEED")


def test_differences_from_the_defaults(cfg):
    cfg.merge_from_list(["MISC.SEED", "3", "SOLVER.OPTIMIZER.TYPE", "SGD"])
    assert cfg.diff_from_defaults() == [("MISC.SEED", 0, 3, "command line")]


# ---- assigning, freezing, copying


def test_assignment_is_checked_like_a_file(cfg):
    cfg.SOLVER.OPTIMIZER.BASE_LR = 1
    assert type(cfg.SOLVER.OPTIMIZER.BASE_LR) is float
    with pytest.raises(ValueError, match=r"SOLVER\.OPTIMIZER\.TYPE is 'ADAMM' \(set in code\); expected one of"):
        cfg.SOLVER.OPTIMIZER.TYPE = "ADAMM"
    with pytest.raises(ValueError, match="it is a section"):
        cfg.SOLVER = 3
    for name in ("SEEDS", "keys"):
        with pytest.raises(AttributeError, match="does not exist"):
            setattr(cfg.MISC, name, 3)
    with pytest.raises(AttributeError, match=r"Did you mean 'MISC\.SEED'"):
        cfg.MISC["SEEDS"] = 3


def test_a_frozen_config_cannot_be_changed(cfg):
    cfg.freeze()
    for change in (
        lambda: setattr(cfg.MISC, "SEED", 1),
        lambda: cfg.MISC.__setitem__("SEED", 1),
        lambda: cfg.set("MISC.SEED", 1, "x"),
        lambda: cfg.merge_from_list(["MISC.SEED", "1"]),
    ):
        with pytest.raises(AttributeError, match=r"cannot set MISC\.SEED.*frozen; call defrost\(\) first"):
            change()
    cfg.defrost()
    cfg.MISC.SEED = 1
    assert cfg.MISC.SEED == 1


def test_the_check_of_names_cannot_be_switched_off(cfg):
    for call in (
        lambda: cfg.set_new_allowed(True),
        lambda: cfg.update(X=1),
        lambda: cfg.setdefault("X", 1),
        lambda: cfg.pop("MISC"),
        lambda: cfg.MISC.clear(),
        lambda: cfg.MISC.__delitem__("SEED"),
    ):
        with pytest.raises(TypeError, match=r"declare keys with extend\(\)"):
            call()


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda cfg: pickle.loads(pickle.dumps(cfg)), lambda cfg: cfg.clone()])
def test_a_copy_is_equal_complete_and_independent(cfg, duplicate):
    cfg.merge_from_list(["DATA.CATALOG.a.TYPE=x", "MISC.SEED", "3"])
    cfg.add_check(get_base_cfg)  # any module-level function
    twin = duplicate(cfg)
    assert twin == cfg
    assert type(twin.SOLVER) is CfgNode
    assert twin.origin("MISC.SEED") == "command line"
    assert twin.checks == cfg.checks
    twin.DATA.CATALOG["a"]["TYPE"] = "y"
    twin.SOLVER.OPTIMIZER.BASE_LR = 5.0
    twin.merge_from_list(["WRONG", "1"])
    assert (cfg.DATA.CATALOG["a"]["TYPE"], cfg.SOLVER.OPTIMIZER.BASE_LR, cfg.problems) == ("x", 0.1, [])
    assert cfg.origin("SOLVER.OPTIMIZER.BASE_LR") == "default"
    assert twin.SOLVER.origin("SOLVER.OPTIMIZER.BASE_LR") == "set in code"
    cfg.freeze()
    assert duplicate(cfg).is_frozen()
    assert duplicate(cfg).SOLVER.is_frozen()


def test_a_section_works_by_itself(cfg):
    cfg.merge_from_list(["SOLVER.TOTAL", "3"])
    solver = cfg.SOLVER.clone()
    solver.OPTIMIZER.BASE_LR = 2
    solver.merge_from_list(["TOTAL", "4"])
    assert (solver.OPTIMIZER.BASE_LR, solver.TOTAL, cfg.SOLVER.TOTAL) == (2.0, 4, 3)
    assert solver.value("SOLVER.TOTAL") == 4
    assert "SOLVER.TOTAL = 4" in solver.explain("SOLVER.TOTAL")
    assert [full for full, _, _ in solver.keys_of("SOLVER.OPTIMIZER")] == ["SOLVER.OPTIMIZER.BASE_LR", "SOLVER.OPTIMIZER.TYPE"]


def test_freezing_never_loses_a_problem(cfg):
    cfg.merge_from_list(["WRONG", "1"])
    for node in (cfg, cfg.SOLVER, cfg.clone()):
        with pytest.raises(ConfigError):
            node.freeze()
    assert cfg.problems == [Problem("WRONG", "no such key.", "command line")]


def test_any_words_are_merged_or_reported_but_never_crash(cfg):
    rng = random.Random(0)
    pieces = [
        "(",
        ")",
        "[",
        "{",
        "}",
        "1",
        "1e400",
        "-1",
        "nan",
        "inf",
        "None",
        "a,b",
        "(1,(2,",
        "((1,2),)",
        "{a: 1}",
        "'",
        "\0",
        "*a",
        "!!set",
        "9" * 50,
        ",",
    ]
    for full in [*cfg.known_keys, "SOLVER", "WRONG"] * 20:
        cfg.merge_from_list([full, "".join(rng.choices(pieces, k=rng.randrange(1, 4)))])
        cfg.merge_from_list([f"{full}.x={rng.choice(pieces)}"])
