"""The resolved config: merging it again gives an equal config."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from pet.config import CfgNode, domain_header, get_base_cfg, infer_cfg, key, read_domain_header
from pet.config.schema import Key

TEXTS = (
    "on", "NO", "yes", "1", "1e4", "0123", "12:30:00", "null", "None", "~", "", " padded ", "a: b", "# c", "'", '"', "two\nlines\n", "tab\t", "é ü 漢 🙂",
    "(1, 2", "[x]", "{a: 1}", "-", "*a", "&a", "!t", "%x", "@x", "`", "2024-01-01", "<<", "=", "\\n", ".inf", "0x1F", "\x00\x85\u2028", "x" * 3000,
)  # fmt: skip
FLOATS = (1e-8, 1e16, 1.0, 0.1 + 0.2, 1.3333333333333333, 5e-324, 1.7976931348623157e308, 65536.0)


def reloaded(cfg: CfgNode, fresh: CfgNode, folder: Path) -> CfgNode:
    path = folder / "config.yaml"
    path.write_text(cfg.dump_resolved(), encoding="utf-8")
    fresh.merge_from_file(path)
    fresh.freeze()
    return fresh


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return type(a) is type(b) and a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def random_plain(rng: random.Random, depth: int = 0) -> Any:
    kind = rng.randrange(7 if depth < 3 else 5)
    if kind < 5:
        return (rng.choice(TEXTS), rng.choice(FLOATS), rng.randint(-9, 9), rng.random() < 0.5, None)[kind]
    if kind == 5:
        return [random_plain(rng, depth + 1) for _ in range(rng.randrange(3))]
    return {rng.choice(TEXTS): random_plain(rng, depth + 1) for _ in range(rng.randrange(3))}


def random_number(rng: random.Random, spec: Key, kind: type) -> Any:
    limits = spec.limits
    low = limits.low if limits.low is not None else limits.above if limits.above is not None else -1e3
    high = limits.high if limits.high is not None else low + 1e6
    if kind is int:
        return rng.randint(int(low), int(high))
    return rng.choice([min(max(value, low + (high - low) / 1e9), high) for value in FLOATS] + [low + (high - low) * rng.random()])


def random_value(rng: random.Random, spec: Key) -> Any:
    """Any value that a key allows."""
    limits = spec.limits
    if limits.optional and rng.random() < 0.3:
        return None
    if limits.choices and spec.type is not tuple:
        return rng.choice(limits.choices)
    if spec.type in (int, float):
        return random_number(rng, spec, spec.type)
    if spec.type is bool:
        return rng.random() < 0.5
    if spec.type is str:
        return rng.choice(TEXTS)
    if spec.type is dict:
        return {rng.choice(TEXTS): random_plain(rng) for _ in range(3)}
    if spec.type is list:
        return [{rng.choice(TEXTS): random_plain(rng)} for _ in range(rng.randrange(3))]
    length = limits.length if limits.length is not None else rng.randrange(4)
    return tuple(random_element(rng, spec) for _ in range(length))


def random_element(rng: random.Random, spec: Key) -> Any:
    limits = spec.limits
    if limits.choices:
        return rng.choice(limits.choices)
    if limits.element in (int, float):
        return random_number(rng, spec, limits.element)
    if limits.element is str:
        return rng.choice(TEXTS)
    return rng.choice([(32, 32), ((1, 2), (3.5,)), 256, 0.5, None, True, "layer4", "on", ()])


@pytest.mark.parametrize("seed", range(20))
def test_any_config_survives_writing_and_reading(seed, tmp_path):
    rng = random.Random(seed)
    cfg = get_base_cfg()
    for full, spec, _ in list(cfg.keys_of()):
        cfg.set(full, random_value(rng, spec), "test")
    again = reloaded(cfg, get_base_cfg(), tmp_path)
    for full, _, value in cfg.keys_of():
        assert same(again.value(full), value), full
    assert again.dump_resolved() == cfg.dump_resolved()


def test_no_text_changes_its_type_here_or_in_a_yaml_1_1_reader(tmp_path):
    for text in TEXTS:
        cfg = get_base_cfg()
        cfg.DATA.ROOT = text
        assert reloaded(cfg, get_base_cfg(), tmp_path).value("DATA.ROOT") == text
        assert yaml.safe_load(cfg.dump_resolved())["DATA"]["ROOT"] == text


def test_one_key_stands_in_one_line():
    cfg = CfgNode.from_schema({"A": {"B": key((1, 2), ""), "C": {"D": key({}, "")}}, "E": {}})
    cfg.A.C.D = {"x": {"y": [1, "on"]}}
    assert cfg.dump_resolved("first\nsecond") == "# first\n# second\nA:\n  B: [1, 2]\n  C:\n    D: {x: {y: [1, 'on']}}\nE: {}\n"
    assert cfg.dump() == cfg.dump_resolved()


def test_running_from_the_resolved_config_repeats_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "cfgs/tasks/cls/MNIST/lenet5.yaml"
    source.parent.mkdir(parents=True)
    source.write_text("SOLVER: {SCHEDULER: {TOTAL_ITERS: 100}, SNAPSHOT_ITER: 10}\nEVAL: {PERIOD_ITERS: 5}")
    cfg = get_base_cfg()
    cfg.merge_from_file(source)
    cfg.merge_from_list(["SOLVER.OPTIMIZER.BASE_LR", "0.05"])
    infer_cfg(cfg)
    work = tmp_path / cfg.MISC.CKPT / "config.yaml"
    work.parent.mkdir(parents=True)
    work.write_text(cfg.dump_resolved(domain_header("tasks/cls", source)))
    again = get_base_cfg()
    again.merge_from_file(work)
    infer_cfg(again, work)
    assert again == cfg
    assert again.MISC.CKPT == "ckpts/tasks/cls/MNIST/lenet5"


def test_the_first_line_names_the_domain(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(get_base_cfg().dump_resolved(domain_header("projects/fair_mot", "cfgs/projects/fair_mot/x.yaml")))
    assert path.read_text().startswith("# pet: domain projects/fair_mot, from cfgs/projects/fair_mot/x.yaml\n")
    assert read_domain_header(path) == "projects/fair_mot"


@pytest.mark.parametrize(
    "content", [b"", b"MISC: {}", b"# a comment", b"A: 1\n# pet: domain tasks/cls, from x", b"\xff\xfe\x00", b"# pet: domain "]
)
def test_other_files_name_no_domain(content, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    assert read_domain_header(path) is None
    assert read_domain_header(tmp_path / "absent.yaml") is None
    assert read_domain_header(tmp_path) is None
