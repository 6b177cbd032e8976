"""A folder that looks like the repository to the commands of a page, in which they may write, and small enough runs of them."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np

from pet.engine.launch import find_domain
from tests.docs.pages import Block
from tests.helpers import REPOSITORY, fork_start, run_cli

QUICKSTART = "cfgs/tasks/cls/shapes/resnet_quickstart.yaml"
# Whatever the page says, a run in these tests is short and on the CPU. They come first, so the command may still change them.
SMALL = (
    "SOLVER.SCHEDULER.TOTAL_EPOCHS=None",
    "SOLVER.SCHEDULER.WARM_UP_EPOCHS=None",
    "SOLVER.SCHEDULER.WARM_UP_ITERS=0",
    "SOLVER.SCHEDULER.STEPS=()",
    "TRAIN.BATCH_SIZE=8",
    "DATA.LOADER_THREADS=0",
    "VIS.NUM_IMAGES=2",
    "MISC.DEVICE=cpu",
)
SMALL_SHAPES = ("TRAIN.RESIZE.SCALES=((24,24),)", "TEST.RESIZE.SCALE=(24,24)")
SMALL_SHAPES += tuple(
    f"DATA.CATALOG.shapes_{part}.{name}"
    for part, count in (("train", 64), ("val", 16))
    for name in ("TYPE=shapes_dataset", f"NUM_IMAGES={count}")
)
SMALL_VISION = tuple(
    f"DATA.CATALOG.shapes_small_{part}.{name}"
    for part, count in (("train", 16), ("val", 4))
    for name in ("TYPE=shapes_dataset", "LABELS=all", "IMAGE_SIZE=64", f"NUM_IMAGES={count}")
)
SMALL_PICTURES = (
    "TRAIN.BATCH_SIZE=4",
    "TRAIN.RANDOM_RESIZED_CROP.SIZE=(64,64)",
    "TEST.RESIZE.SCALE=72",
    "TEST.CENTER_CROP.CROP_SCALES=(64,64)",
)


def make_workspace(folder: Path, shown: Sequence[Block] = ()) -> Path:
    """Links to the program, a copy of the configs, the files that a page shows, and pictures in ``mine``."""
    folder.mkdir(exist_ok=True)
    for name in ("tools", "pet", "tests", "benchmarks"):
        (folder / name).symlink_to(REPOSITORY / name)
    shutil.copytree(REPOSITORY / "cfgs", folder / "cfgs")
    for block in shown:
        path = folder / block.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text.replace("/data/mine", str(folder / "mine")), encoding="utf-8")
    generator = np.random.default_rng(0)
    for part in ("train", "val"):
        for name in ("ants", "bees"):
            (folder / "mine" / part / name).mkdir(parents=True)
            for index in range(4):
                picture = generator.integers(0, 256, (40, 48, 3), dtype=np.uint8)
                cv2.imwrite(str(folder / "mine" / part / name / f"{index}.png"), picture)
    return folder


def domain_config(path: Path | str) -> ModuleType:
    """The config module of the domain that the path of a YAML selects."""
    domain = find_domain(path) or "tasks/cls"
    return importlib.import_module(f"pet.{domain.replace('/', '.')}.config")


def config_of(words: Sequence[str]) -> str:
    """The YAML of a command that trains or tests, behind ``--cfg`` or in the first place; empty for others."""
    if "--cfg" in words:
        return words[words.index("--cfg") + 1]
    return words[1] if words[0] in ("tools/train.py", "tools/test.py") else ""


def small(words: Sequence[str], updates: int) -> list[str]:
    """The command with overrides behind its YAML (and checkpoint) that make it short."""
    path = config_of(words)
    flags = [place for place, word in enumerate(words) if word.startswith("-")]
    at = words.index(path) + 1 if "--cfg" in words else min([*flags, len(words)])
    data = SMALL_VISION if "cfgs/vision/" in path else SMALL_SHAPES if "/shapes/" in path else SMALL_PICTURES
    return [*words[:at], *SMALL, *data, f"SOLVER.SCHEDULER.TOTAL_ITERS={updates}", *words[at:]]


def run_python(words: Sequence[str], folder: Path, env: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Run ``python <words>`` in a folder; status and output."""
    done = run_cli(words, dict(env or {}), timeout=120.0, cwd=folder, start=fork_start)
    return done.returncode, done.stdout + done.stderr
