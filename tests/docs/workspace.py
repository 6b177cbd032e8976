"""A folder that looks like the repository to the commands of a page, in which they may write, and small enough runs of them."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import runpy
import shutil
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np

from pet.engine.launch import find_domain
from tests.docs.pages import Block
from tests.helpers import REPOSITORY

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
PRELOADED = ["torch._dynamo", "torch.utils.tensorboard", "pet.engine.setup", "pet.engine.hooks.build", "pet.solver.optimizer"]
PARTS = ("model_builder", "dataset", "analyser", "evaluation", "pictures")
PRELOADED += [f"{domain}.{name}" for domain in ("pet.tasks.cls", "pet.vision") for name in PARTS]
_TIMEOUT_S = 120.0


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
    """Run ``python <words>`` in a folder; status and output.

    The process is forked from one that has loaded torch already: loading it takes longer than everything else here.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    output = folder / "output.txt"
    process = context.Process(target=_run, args=(list(words), str(folder), dict(env or {}), str(output)))
    process.start()
    try:
        process.join(_TIMEOUT_S)
        if process.exitcode is None:
            raise TimeoutError(f"{words} ran longer than {_TIMEOUT_S:.0f} s\n{output.read_text()}")
        return process.exitcode, output.read_text(encoding="utf-8")
    finally:
        if process.is_alive():
            process.kill()
            process.join()
        process.close()


def _run(words: list[str], folder: str, env: dict[str, str], output: str) -> None:
    """Become ``python <words>``."""
    with open(output, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    os.chdir(folder)
    os.environ.update(env)
    sys.path[:0] = [os.path.abspath(path) for path in env.get("PYTHONPATH", "").split(os.pathsep) if path]
    try:
        if words[0] == "-m":
            sys.argv = words[1:]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = words
            runpy.run_path(words[0], run_name="__main__")
    except Exception:
        traceback.print_exc()
        sys.exit(1)
