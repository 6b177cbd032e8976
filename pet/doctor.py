"""``python -m pet.doctor``: what this machine offers to Pet, and what is wrong with it, one line each.

It needs no network, and no other package to run: a broken or missing one is what it is for. Exit status: 1 when something fails.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from pet import __version__
from pet.utils.env import git_state, usable_cores
from pet.utils.findings import FAIL, PASS, SKIP, WARN, Doubt, Finding, NeedsError, attempt

_WORDS = {PASS: "ok", WARN: "warn", FAIL: "FAIL", SKIP: "skip"}
_MIB, _GIB = 1 << 20, 1 << 30
_PYTHON = (3, 11)
# Distributions that Pet needs; setup.py says the same, and a test compares them.
REQUIRED = (
    "torch", "torchvision", "timm", "yacs", "numpy", "opencv-python", "pillow", "fvcore", "tensorboard", "rich", "pycocotools",
    "faster-coco-eval", "pyyaml",
)  # fmt: skip
# Extras of setup.py: what one misses without them, and their distributions.
EXTRAS: dict[str, tuple[str, tuple[str, ...]]] = {
    "ocr": ("text detection and recognition", ("shapely", "pyclipper", "rapidfuzz")),
    "track": ("tracking", ("scipy",)),
    "video": ("decoding videos with PyAV", ("av",)),
    "export": ("ONNX files and their check", ("onnx", "onnxscript", "onnxruntime", "safetensors")),
    "notebook": ("running the notebook of the docs", ("nbformat", "nbclient", "ipykernel")),
    "writers": ("logging to Weights & Biases or MLflow", ("wandb", "mlflow-skinny")),
    "docs": ("building this documentation", ("sphinx", "myst-parser", "furo")),
    "dev": (
        "tests and checks of Pet itself",
        ("pytest", "pytest-xdist", "torchmetrics", "ruff", "mypy", "types-PyYAML", "pre-commit"),
    ),
    "bench": ("comparisons with other engines", ("mmengine", "lightning", "accelerate", "pytorch-ignite")),
}
# Without these nothing is wrong for a user.
_FOR_DEVELOPERS = ("docs", "dev", "bench")
# Other builds of a distribution bring the same modules.
_SAME = {"opencv-python": ("opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")}
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def examine() -> list[Finding]:
    """All findings; takes seconds, because torch is loaded."""
    checks: tuple[tuple[str, Callable[[], str], str], ...] = (
        ("Python", _python, f"Install Python {_PYTHON[0]}.{_PYTHON[1]} or newer"),
        ("Pet", _pet, ""),
        ("packages", _packages, "pip install -e . in the folder of Pet"),
        ("PyTorch", _torch, "Install torch as https://pytorch.org says for this machine: pip install torch torchvision"),
        ("torchvision", _torchvision, "Install the torchvision that belongs to this torch: pip install -U torch torchvision"),
        ("NumPy", _numpy, "Install a torch and a numpy that belong together: pip install -U torch numpy"),
        (
            "OpenCV",
            _opencv,
            "Keep one build of OpenCV: pip uninstall opencv-python opencv-python-headless; pip install opencv-python",
        ),
        (
            "GPU",
            _gpu,
            "Without --gpu_id Pet computes on the CPU; else install a driver and a torch with CUDA that fit each other",
        ),
        ("CPU", _cpu, "Leave the thread variables unset: Pet divides the cores among its processes"),
        ("shared memory", _shared_memory, "docker run --shm-size 8g (or --ipc=host), or DATA.LOADER_THREADS 0"),
        ("disk", _disk, "Free some space, or write to another disk with --work-dir"),
        ("open files", _open_files, "ulimit -n 65536"),
        ("display", _display, "Write pictures into files with --show-dir DIR instead of --show"),
        ("data", _data, "Set PET_DATA, or DATA.ROOT, to the folder of the data sets, or let DATA.DOWNLOAD fetch them"),
    )
    return [*(attempt(*check) for check in checks), *_extras()]


# ------------------------------------------------------------------------------------------------------- software


def _version(name: str) -> str:
    """Version of a distribution or of another build of it; empty when it is not installed."""
    for distribution in (name, *_SAME.get(name, ())):
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return ""


def _load(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except Exception as error:  # a broken library raises anything
        raise ImportError(f"{name} {_version(name) or 'is not installed'}: {type(error).__name__}: {_line(error)}") from error


def _line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "no message"


def _torch_or_skip() -> Any:
    try:
        return _load("torch")
    except ImportError as error:
        raise NeedsError("a torch that can be imported") from error


def _python() -> str:
    text = f"{platform.python_version()} at {sys.executable}, {platform.platform()}"
    if sys.version_info < _PYTHON:
        raise ValueError(text)
    return text


def _pet() -> str:
    folder = Path(__file__).resolve().parents[1]
    commit = git_state(folder)
    return f"{__version__}{f', commit {commit}' if commit else ''} at {folder}"


def _packages() -> str:
    versions = {name: _version(name) for name in REQUIRED}
    missing = [name for name, version in versions.items() if not version]
    if missing:
        raise ImportError(f"missing: {', '.join(missing)}")
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _torch() -> str:
    torch = _load("torch")
    cuda = torch.version.cuda
    return f"{torch.__version__}, {f'built for CUDA {cuda}' if cuda else 'for the CPU'}, {torch.get_num_threads()} threads"


def _torchvision() -> str:
    torch, torchvision = _torch_or_skip(), _load("torchvision")
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [1.0, 1.0, 10.0, 10.0], [20.0, 20.0, 30.0, 30.0]])
    try:
        kept = torchvision.ops.nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5).tolist()
    except Exception as error:  # an operator that was not loaded raises several kinds
        raise ImportError(f"{torchvision.__version__} has no operators for torch {torch.__version__}: {_line(error)}") from error
    if kept != [0, 2]:
        raise ValueError(f"{torchvision.__version__}: torchvision.ops.nms keeps boxes {kept} instead of [0, 2]")
    return f"{torchvision.__version__}, its operators work"


def _numpy() -> str:
    torch, numpy = _torch_or_skip(), _load("numpy")
    if torch.from_numpy(numpy.ones(2)).sum().item() != 2.0:
        raise ValueError(f"torch reads other numbers than numpy {numpy.__version__} wrote")
    return f"{numpy.__version__}, exchanges arrays with torch"


def _opencv() -> str:
    cv2, numpy = _load("cv2"), _load("numpy")
    picture = numpy.arange(48, dtype=numpy.uint8).reshape(4, 4, 3)
    if not numpy.array_equal(cv2.imdecode(cv2.imencode(".png", picture)[1], cv2.IMREAD_COLOR), picture):
        raise ValueError(f"{cv2.__version__} does not read the picture that it wrote")
    builds = [name for name in ("opencv-python", *_SAME["opencv-python"]) if _installed(name)]
    if len(builds) > 1:
        raise Doubt(f"{cv2.__version__}, but {' and '.join(builds)} are installed, which overwrite one another")
    return str(cv2.__version__)


def _installed(distribution: str) -> bool:
    try:
        return bool(metadata.version(distribution))
    except metadata.PackageNotFoundError:
        return False


def _extras() -> Iterator[Finding]:
    """One finding for each extra that is not complete, or one that says they all are."""
    missing = {name: [part for part in parts if not _version(part)] for name, (_, parts) in EXTRAS.items()}
    for name, parts in missing.items():
        if parts:
            result = PASS if name in _FOR_DEVELOPERS else WARN
            text = f"not installed: {', '.join(parts)}; for {EXTRAS[name][0]}: pip install -e '.[{name}]'"
            yield Finding(f"extra {name}", result, text)
    complete = [name for name, parts in missing.items() if not parts]
    yield Finding("extras", PASS, f"complete: {', '.join(complete) or 'none'}")


# ------------------------------------------------------------------------------------------------------- hardware


def _gpu() -> str:
    torch, driver = _torch_or_skip(), _driver()
    if torch.cuda.is_available():
        names = []
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            names.append(f"{index}: {torch.cuda.get_device_name(index)}, {free / _GIB:.1f} of {total / _GIB:.1f} GiB free")
        return "; ".join([*names, driver])
    if torch.backends.mps.is_available():
        return "Apple MPS"
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if driver and hidden is None:
        raise Doubt(f"{driver}, but torch {torch.__version__} cannot use it")
    return "hidden by CUDA_VISIBLE_DEVICES" if driver else "none; Pet computes on the CPU"


def _driver() -> str:
    """NVIDIA's driver and the GPUs it knows; empty without one."""
    try:
        command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return f"driver: {'; '.join(done.stdout.split(chr(10))).strip('; ')}"


def _cpu() -> str:
    cores = usable_cores()
    given = {name: os.environ[name] for name in _THREADS if name in os.environ}
    variables = ", ".join(f"{name}={value}" for name, value in given.items()) or "no thread variables set"
    text = f"{cores} of {os.cpu_count()} cores usable; {variables}"
    wanted = [value for value in given.values() if value.isdecimal() and int(value) > cores]
    if wanted:
        raise Doubt(f"{text}: more threads than cores")
    return text


def _shared_memory() -> str:
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return "no /dev/shm here; loader processes use files"
    usage = shutil.disk_usage(folder)
    text = f"{usage.free / _MIB:.0f} of {usage.total / _MIB:.0f} MiB free in {folder}"
    # Four workers with three batches of sixteen pictures of 800 x 1333 pixels.
    needed = 4 * 3 * 16 * 3 * 800 * 1333
    if usage.free < needed:
        raise Doubt(f"{text}; detection with 4 workers may take {needed / _MIB:.0f} MiB (--check measures the need of a config)")
    return text


def _disk() -> str:
    places = {"here": Path.cwd(), "data": _data_root(), "temporary files": Path(os.environ.get("TMPDIR") or "/tmp")}
    texts, few = [], False
    for name, folder in places.items():
        there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        free = shutil.disk_usage(there).free
        few = few or free < 5 * _GIB
        texts.append(f"{name} {free / _GIB:.1f} GiB free ({there})")
    if not os.access(Path.cwd(), os.W_OK):
        raise Doubt(f"{'; '.join(texts)}; the working folder cannot be written, so name another one with --work-dir")
    if few:
        raise Doubt("; ".join(texts))
    return "; ".join(texts)


def _open_files() -> str:
    try:
        import resource
    except ImportError:
        return "not limited on this system"
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    text = f"limit {soft} (at most {hard})"
    if 0 <= soft < 1024:
        raise Doubt(f"{text}; loader processes pass batches as open files")
    return text


def _display() -> str:
    build = re.search(r"^\s*GUI:\s+(\S+)", _load("cv2").getBuildInformation(), re.MULTILINE)
    window = build[1] if build else "unknown"
    if window == "NONE":
        raise Doubt("this OpenCV opens no windows (opencv-python-headless), so --show does not work")
    screen = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if sys.platform.startswith("linux") and not screen:
        return f"none (DISPLAY is not set), so --show does not work; --show-dir DIR does. OpenCV: {window}"
    return f"{screen or 'of the system'}, OpenCV: {window}"


# ----------------------------------------------------------------------------------------------------------- data


def _data_root() -> Path:
    return Path(os.environ.get("PET_DATA") or "data").expanduser()


def _data() -> str:
    root = _data_root()
    origin = "PET_DATA" if os.environ.get("PET_DATA") else "PET_DATA is not set"
    if not root.is_dir():
        text = f"{root.absolute()} does not exist ({origin})"
        if os.environ.get("PET_DATA"):
            raise Doubt(text)
        return f"{text}; drawn shapes need no data"
    _torch_or_skip()
    catalog = _load("pet.data.catalog")
    found = [name for name, known in catalog.BUILT_IN.items() if known.folders and catalog.find_folder(known, root)]
    return f"{root.absolute()} ({origin}): {', '.join(found) or 'no known data set'}"


# -------------------------------------------------------------------------------------------------------- command


def report(findings: Sequence[Finding]) -> str:
    """The findings as text, one line each."""
    width = max(len(finding.name) for finding in findings)
    lines = []
    for finding in findings:
        text = " ".join(finding.text.split("\n"))
        remedy = f" -> {finding.remedy}" if finding.remedy else ""
        lines.append(f"{_WORDS[finding.result]:<5} {finding.name:<{width}}  {text}{remedy}")
    counts = [f"{sum(finding.result == kind for finding in findings)} {word}" for kind, word in _WORDS.items()]
    return "\n".join([*lines, ", ".join(counts)])


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit status is 1 when something fails, else 0."""
    parser = argparse.ArgumentParser(prog="python -m pet.doctor", description=__doc__, allow_abbrev=False)
    parser.add_argument("--json", action="store_true", help="print a list of {name, result, text, remedy} instead of lines")
    args = parser.parse_args(arguments)
    findings = examine()
    if args.json:
        rows = [{"name": f.name, "result": _WORDS[f.result].lower(), "text": f.text, "remedy": f.remedy} for f in findings]
        print(json.dumps(rows, indent=1))
    else:
        print(report(findings))
    return 1 if any(finding.result == FAIL for finding in findings) else 0


if __name__ == "__main__":
    sys.exit(main())
