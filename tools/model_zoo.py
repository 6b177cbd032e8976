"""Write docs/model_zoo.md: size, cost and published result of every config.

python tools/model_zoo.py [--check]
"""

import argparse
import functools
import importlib
import itertools
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from pet.config.reference import domain_modules

CFGS = REPOSITORY / "cfgs"
PAGE = REPOSITORY / "docs" / "model_zoo.md"
COMMAND = "python tools/model_zoo.py"
# Height and width of the pictures of a data set that is tested in full size, by the start of its name.
PICTURES = {"cityscapes": (1024, 2048), "shapes_small": (64, 64)}
# What Markdown would take for markup.
_MARKUP = re.compile(r"[\\|<*\[\]]")

INTRODUCTION = f"""# Model zoo

<!-- written by: {COMMAND} -->

Every config under `cfgs/`, with the size and cost of its network and the result that others published for it.

- **Published results are those of the source in brackets, not ours**; all are percentages. "Not re-read" marks a number that
  was not looked up again. What we trained ourselves is in [](measured.md). Recipes follow the source, but not in everything:
  mmdetection also trains scale and shift of the batch normalisation that is constant here, mmsegmentation uses another stem
  (v1c), and detectron2 starts from other ImageNet weights.
- **Parameters** (millions) are those that exist in training, auxiliary heads included. With `MODEL.NORM: FrozenBN` scale and
  shift are constants and do not count: 0.05 M of a ResNet-50, 0.11 M of a ResNet-101. Counters that leave out what is frozen
  show another 0.22 M less, the stem and the first stage.
- **Multiply-adds** (billions) are those of one test image of the size beside them, measured by our analyser on shapes alone.
  One multiplication with its addition counts as one. Box heads are counted for 1000 proposals, mask and keypoint heads for
  100 detections, auxiliary heads not at all. RoIAlign, non-maximum suppression, activation functions, pooling and constant
  normalisation are not counted either; other counters include some of them, or count two for one. Where only the shorter side
  is fixed, the picture is taken to be 1.6 times as wide as high.

A config is `cfgs/<heading>/<name>.yaml`. `{COMMAND}` writes this page; a test fails when it is out of date.
"""
_measured: dict[Any, tuple[int, float | None]] = {}
HEAD = "| Config | Network | Parameters | Image | Multiply-adds | Published |\n|---|---|---|---|---|---|\n"


def config_files() -> list[str]:
    """The configs of all domains, relative to ``cfgs/``, in the order of the page."""
    folders = [CFGS.joinpath(*module.split(".")[1:-1]) for module in domain_modules()]
    return [path.relative_to(CFGS).as_posix() for folder in folders for path in sorted(folder.rglob("*.yaml"))]


def domain_of(name: str) -> Any:
    """The package whose configs ``name`` belongs to."""
    packages = [module.removesuffix(".config") for module in domain_modules()]
    return importlib.import_module(next(p for p in packages if name.startswith(p.removeprefix("pet.").replace(".", "/") + "/")))


@functools.cache
def load(name: str) -> Any:
    """The resolved config, frozen."""
    domain = domain_of(name)
    cfg = domain.get_base_cfg()
    cfg.merge_from_file(CFGS / name)
    domain.infer_cfg(cfg, CFGS / name)
    cfg.freeze()
    return cfg


def image_size(name: str) -> tuple[int, int] | None:
    """Height and width of a test image, pixels; ``None`` if unknown."""
    cfg = load(name)
    known = [size for start, size in PICTURES.items() if cfg.TEST.DATASETS[0].startswith(start)]
    size: tuple[int, int] | None = known[0] if known else domain_of(name).input_size(cfg)
    return size


def measure(name: str) -> tuple[int, float | None]:
    """Parameters, and multiply-adds of one test image; nothing is allocated and nothing downloaded.

    Configs that differ in data and schedule only are measured once.
    """
    model = tuple((full, repr(value)) for full, _, value in load(name).keys_of() if full.startswith("MODEL."))
    key = (domain_of(name).__name__, model, image_size(name))
    if key not in _measured:
        _measured[key] = _measure(name)
    return _measured[key]


def _measure(name: str) -> tuple[int, float | None]:
    import torch

    domain, cfg, size = domain_of(name), load(name), image_size(name)
    with torch.device("meta"):
        model = domain.GeneralizedCNN(cfg, is_train=False)
    cost = domain.Analyser(cfg, model).get_flops_activs(*size)[1] * 1e6 if size else None
    return sum(parameter.numel() for parameter in model.parameters()), cost


def network(cfg: Any) -> str:
    """The names of the parts."""
    model, heads = cfg.MODEL, cfg.MODEL.GLOBAL_HEAD
    names = [model.BACKBONE, model.NECK]
    if "DET" in heads:
        roi = model.ROI_HEAD
        box = " (res5)" if roi.TYPE == "faster" and roi.FASTER.HEAD == "res5" else ""
        names += [heads.DET.TYPE, f"{roi.TYPE}{box}", roi.MASK.TYPE, roi.KEYPOINT.TYPE, heads.SEMSEG.TYPE, heads.PANOSEG.TYPE]
    return ", ".join(name for name in names if name)


def published(text: str) -> str:
    """What the comment ``# Published:`` of a YAML says; it ends with a full stop or a bracket at the end of a line."""
    lines = itertools.dropwhile(lambda line: not line.startswith("# Published:"), text.splitlines())
    found = ""
    for line in itertools.takewhile(lambda line: line.startswith("# "), lines):
        found += line.removeprefix("# Published:").removeprefix("#")
        if found.endswith((")", ".")) and found.count("(") == found.count(")"):
            break
    return found.strip().removesuffix(".")


def row(name: str) -> str:
    """The line of a config in its table."""
    size, (parameters, cost) = image_size(name), measure(name)
    note = _MARKUP.sub(lambda match: f"\\{match[0]}", published((CFGS / name).read_text(encoding="utf-8")))
    cells = (
        f"`{Path(name).stem}`",
        network(load(name)),
        f"{parameters / 1e6:.2f}",
        f"{size[0]} x {size[1]}" if size else "",
        "" if cost is None else f"{cost / 1e9:#.3g}" if cost < 1e9 else f"{cost / 1e9:.1f}",
        note,
    )
    return f"| {' | '.join(cells)} |\n"


def page(rows: Mapping[str, str]) -> str:
    """The page, from the line of each config."""
    tables = itertools.groupby(rows, key=lambda name: str(Path(name).parent))
    return INTRODUCTION + "".join(f"\n## {folder}\n\n{HEAD}{''.join(rows[name] for name in names)}" for folder, names in tables)


def main() -> int:
    """Write or check the page; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the page is stale")
    options = parser.parse_args()
    text = page({name: row(name) for name in config_files()})
    if not options.check:
        PAGE.write_text(text, encoding="utf-8")
    elif not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != text:
        print(f"{PAGE} is stale; run: {COMMAND}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
