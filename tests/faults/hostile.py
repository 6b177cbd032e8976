"""Files, addresses and names made to harm: refused with a reason, nothing of them runs or leaves its folder (F30)."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import pickle
import stat
import tarfile
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pet.config import get_base_cfg
from pet.data import download
from pet.data.archive import unpack
from pet.data.catalog import build_dataset
from pet.data.datasets.annotation_faults import AnnotationFaults
from pet.data.datasets.cifar import read_pickle
from pet.data.datasets.coco_json import read_json
from pet.data.datasets.voc import parse_voc
from pet.data.transforms import build_transforms
from pet.engine.checkpoint_file import read_checkpoint
from pet.engine.checkpointer import CheckPointer
from pet.engine.hooks.build import RunParts, build_custom_hooks
from pet.engine.requeue import slurm_job
from pet.engine.resume import report_config_changes
from pet.engine.weights import read_weights
from pet.evaluation.predictions import read_plain
from pet.models.backbones import build_backbone
from pet.utils.logger import setup_logging
from pet.visualization.report import write_report
from tests.data.test_download import make_tar
from tests.faults.catalog import Figure, fault
from tests.visualization.report_folders import NASTY, write_run

Attempt = Callable[[Path], Any]
_PAYLOAD = "payload_ran"  # the file that a payload makes, wherever it runs
_ESCAPED = "outside"  # begin of the names of files that leave their folder


class Payload:
    """Unpickling it runs a command."""

    def __init__(self, folder: Path) -> None:
        self._command = f"touch {folder / _PAYLOAD}"

    def __reduce__(self) -> Any:
        return os.system, (self._command,)


# ----------------------------------------------------------------------------------------------- checkpoints, results


def _checkpoint(folder: Path) -> Path:
    path = folder / "model_iter1.pth"
    torch.save({"model": {"weight": torch.zeros(1)}, "more": Payload(folder)}, path)
    return path


def _pointer_out_of_folder(folder: Path) -> None:
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    torch.save({"model": {}}, elsewhere / "model_iter1.pth")
    (folder / "run").mkdir()
    (folder / "run" / "model_latest.pth").symlink_to("../elsewhere/model_iter1.pth")
    CheckPointer(folder / "run")


def _write(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def _config_of_checkpoint(folder: Path) -> None:
    report_config_changes(get_base_cfg(), _ALIAS_BOMB)


_CHECKPOINTS: dict[str, tuple[Attempt, str]] = {
    "pickle in a checkpoint": (lambda folder: read_checkpoint(_checkpoint(folder)), "cannot be loaded"),
    "pickle in the checkpoint of a run": (lambda folder: CheckPointer(_checkpoint(folder).parent), "can be used"),
    "pickle under the name of weights": (
        lambda folder: read_weights(_write(folder / "w.pth", pickle.dumps(Payload(folder)))),
        "cannot be read as a checkpoint",
    ),
    "pointer out of the folder": (_pointer_out_of_folder, "points outside its folder"),
    "alias bomb as config of a checkpoint": (_config_of_checkpoint, "aliases"),
    "pickle in a file of predictions": (
        lambda folder: read_plain(_write(folder / "p.pkl", pickle.dumps(Payload(folder)))),
        "plain values only",
    ),
    "Python tag in a file of predictions": (
        lambda folder: read_plain(_write(folder / "p.yaml", f"a: {_python_tag(folder)}")),
        "could not determine a constructor",
    ),
    "deep nesting in a file of predictions": (
        lambda folder: read_plain(_write(folder / "p.yaml", "a: " + "[" * 200_000)),
        "levels",
    ),
    "pickle in a data set": (
        lambda folder: read_pickle(_write(folder / "data_batch_1", pickle.dumps(Payload(folder)))),
        "which no CIFAR file needs",
    ),
    "deep nesting in annotations": (
        lambda folder: read_json(_write(folder / "a.json", '{"images": ' + "[" * 200_000)),
        "is not JSON",
    ),
}

# ------------------------------------------------------------------------------------------------------------ configs


def _python_tag(folder: Path) -> str:
    return f"!!python/object/apply:os.system ['touch {folder / _PAYLOAD}']"


def _alias_bomb() -> str:
    levels = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    return "\n".join(["a0: &a0 [x, x, x, x, x, x, x, x, x]", *levels])


_ALIAS_BOMB = _alias_bomb()


def _config(text: Callable[[Path], str] | str, name: str = "x.yaml") -> Attempt:
    def merge(folder: Path) -> None:
        content = text if isinstance(text, str) else text(folder)
        cfg = get_base_cfg()
        cfg.merge_from_file(_write(folder / name, content))
        cfg.freeze()

    return merge


def _hook(type: str, **options: Any) -> Attempt:
    def build(folder: Path) -> None:
        cfg = get_base_cfg()
        touch = {name.upper(): value.format(folder / _PAYLOAD) for name, value in options.items()}
        cfg.merge_from_list(["MISC.HOOKS", [{"TYPE": type, **touch}]])
        cfg.freeze()
        build_custom_hooks(RunParts(cfg, *[None] * 7))  # type: ignore[arg-type]

    return build


def _touch(folder: Path) -> list[str]:
    return ["touch", str(folder / _PAYLOAD)]


def _data_type(folder: Path) -> None:
    build_dataset(["mine"], True, catalog={"mine": {"TYPE": "subprocess.Popen", "ARGS": _touch(folder)}}, root=folder)


_PYTHON = f"import pathlib; pathlib.Path('{_PAYLOAD}').touch()"
_CONFIGS: dict[str, tuple[Attempt, str]] = {
    "Python as config": (_config(_PYTHON, "x.py"), "never code"),
    "Python as _BASE_": (_config(lambda folder: f"_BASE_: {_write(folder / 'base.py', _PYTHON)}"), "base.py"),
    "Python tag": (_config(lambda folder: f"MISC: {_python_tag(folder)}"), "plain values only"),
    "alias bomb": (_config(_ALIAS_BOMB), "aliases expanded"),
    "huge config": (_config("# " + "x" * (2 << 20)), "MiB"),
    "deep nesting": (_config("A: " + "[" * 100_000), "levels"),
    "_BASE_ in a circle": (_config("_BASE_: x.yaml"), "circle"),
    "_BASE_ outside": (_config("_BASE_: /etc/hostname.yaml"), "must lie inside"),
    "a function as hook": (_hook("os.system", command="touch {}"), "has no hook class"),
    "a class that runs commands as hook": (_hook("subprocess.Popen", args="touch {}"), "has no hook class"),
    "a function as backbone": (
        lambda folder: build_backbone("os.system", options={"command": " ".join(_touch(folder))}),
        "a config may name a class",
    ),
    "a class that runs commands as data set": (_data_type, "a config may name a class"),
    "a function as transform": (lambda folder: build_transforms(["os.abort"]), "a config may name a class"),
}

# ------------------------------------------------------------------------------------------------ archives, addresses

_GOOD = ("set/a.txt", b"one", {})


def _tar(*entries: tuple[str, bytes | None, dict[str, Any]]) -> Attempt:
    def attempt(folder: Path) -> None:
        inside = folder / "inside"
        inside.mkdir()
        named = [(name.format(folder=folder), data, extra) for name, data, extra in entries]
        unpack(make_tar(folder / "x.tar.gz", _GOOD, *named), inside, ["set"])

    return attempt


def _zip(*entries: tuple[str | zipfile.ZipInfo, bytes]) -> Attempt:
    def attempt(folder: Path) -> None:
        inside = folder / "inside"
        inside.mkdir()
        with zipfile.ZipFile(folder / "x.zip", "w", zipfile.ZIP_DEFLATED) as container:
            container.writestr("set/a.txt", "one")
            for name, data in entries:
                container.writestr(name, data)
        unpack(folder / "x.zip", inside, ["set"])

    return attempt


def _zip_link() -> zipfile.ZipInfo:
    link = zipfile.ZipInfo("set/link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    return link


def _fetch(url: str) -> Attempt:
    return lambda folder: download.fetch(download.RemoteFile((url,), "x.bin", "0" * 32), folder)


def _redirect(url: str) -> Attempt:
    def attempt(folder: Path) -> None:
        request = urllib.request.Request("https://example.org/weights.pth")
        download._Redirects().redirect_request(request, io.BytesIO(), 302, "Found", {}, url)

    return attempt


_ARCHIVES: dict[str, tuple[Attempt, str]] = {
    "tar with ..": (_tar((f"../{_ESCAPED}.txt", b"x", {})), "points outside"),
    "tar with an absolute path": (_tar((f"{{folder}}/{_ESCAPED}.txt", b"x", {})), "points outside"),
    "tar with a symbolic link": (_tar(("set/link", None, {"type": tarfile.SYMTYPE, "linkname": "/etc"})), "link or device"),
    "tar that writes through its link": (
        _tar(("set/up", None, {"type": tarfile.SYMTYPE, "linkname": "../.."}), (f"set/up/{_ESCAPED}.txt", b"x", {})),
        "link or device",
    ),
    "tar with a hard link": (_tar(("set/hard", None, {"type": tarfile.LNKTYPE, "linkname": "/etc/passwd"})), "link or device"),
    "tar with a device": (_tar(("set/device", None, {"type": tarfile.CHRTYPE})), "link or device"),
    "zip with ..": (_zip((f"../{_ESCAPED}.txt", b"x")), "points outside"),
    "zip with a link": (_zip((_zip_link(), b"/etc")), "link or device"),
    "zip bomb": (_zip(("set/bomb", bytes(200 << 20))), "larger than allowed"),
    "http address": (_fetch("http://example.org/weights.pth"), "is not an https address"),
    "file address": (_fetch("file:///etc/passwd"), "is not an https address"),
    "redirect to http": (_redirect("http://example.org/weights.pth"), "is not an https address"),
    "redirect to a file": (_redirect("file:///etc/passwd"), "is not an https address"),
    "address as weights": (lambda folder: read_weights("http://example.org/weights.pth"), "no address"),
}

# -------------------------------------------------------------------------------------------------------------- names


def _xml(body: str) -> Attempt:
    def attempt(folder: Path) -> None:
        faults = AnnotationFaults()
        if parse_voc(_write(folder / "x.xml", body), faults) is None:
            raise ValueError(f"{faults.counts}")

    return attempt


def _entity_bomb() -> str:
    levels = [f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 10)]
    return f'<!DOCTYPE a [<!ENTITY e0 "xxxxxxxxxx">{"".join(levels)}]><annotation><filename>&e9;</filename></annotation>'


def _report(folder: Path) -> None:
    """A report is written; its text must show the names instead of running them."""
    page = write_report(write_run(folder / "run", NASTY)).read_text(encoding="utf-8")
    if "<img src=x" not in page and "</script><script>document" not in page and "&lt;img src=x" in page:
        raise ValueError("escaped")


def _terminal(folder: Path) -> None:
    """Names with codes of a terminal are logged; the codes must not reach it."""
    with contextlib.redirect_stdout(io.StringIO()) as console:
        logger = setup_logging(folder / "log.txt")
        logger.warning("class %s", "\x1b]0;taken\x07\x1b[2Jcat\r")
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
            handler.close()
    text = console.getvalue() + (folder / "log.txt").read_text(encoding="utf-8")
    if text.count(r"class \x1b]0;taken\x07\x1b[2Jcat") == 2 and not set(text) & set("\x1b\x07\r"):
        raise ValueError("spelled out")


_NAMES: dict[str, tuple[Attempt, str]] = {
    "entity bomb in XML": (_xml(_entity_bomb()), "malformed_xml"),
    "external entity in XML": (
        _xml('<!DOCTYPE a [<!ENTITY e SYSTEM "file:///etc/passwd">]><annotation><filename>&e;</filename></annotation>'),
        "malformed_xml",
    ),
    "HTML in names of the report": (_report, "escaped"),
    "codes of a terminal in names": (_terminal, "spelled out"),
    "shell characters in a job id": (lambda folder: slurm_job({"SLURM_JOB_ID": f"1; touch {folder / _PAYLOAD}"}), "Slurm job"),
    "newline in a job id": (lambda folder: slurm_job({"SLURM_JOB_ID": "123\n"}), "Slurm job"),
}

ATTEMPTS = {**_CHECKPOINTS, **_CONFIGS, **_ARCHIVES, **_NAMES}


@fault("F30", "hostile checkpoints, configs, archives, addresses and names are refused with a reason",
       small=len(ATTEMPTS), full=len(ATTEMPTS))  # fmt: skip
def hostile_inputs(count: int, seed: int, folder: Path) -> Figure:
    level = logging.getLogger("pet").level
    figure = Figure(0, count, "refused with a reason")
    before, ran, escaped = os.getcwd(), 0, 0
    for number, (name, (attempt, reason)) in enumerate(list(ATTEMPTS.items())[:count]):
        place = folder / f"{number}"
        place.mkdir()
        os.chdir(place)  # a payload that runs leaves its mark here
        try:
            told = _refusal(attempt, place)
        finally:
            os.chdir(before)
        figure.good += reason in told
        figure.failures += [] if reason in told else [f"{name}: {told}"]
        ran += len(list(folder.rglob(_PAYLOAD)))
        escaped += sum(1 for _ in folder.rglob(f"{_ESCAPED}*")) + sum(1 for _ in (place / "inside").rglob("*"))
    logging.getLogger("pet").setLevel(level)
    if ran or escaped:
        figure.failures.append(f"{ran} payloads ran, {escaped} files were written outside or left behind")
    figure.extra = f"{ran} payloads run, {escaped} files outside"
    return figure


def _refusal(attempt: Attempt, folder: Path) -> str:
    try:
        attempt(folder)
    except (ValueError, TypeError, KeyError, OSError) as error:
        return f"{type(error).__name__}: {error}"
    except Exception as error:
        return f"not refused but failed: {type(error).__name__}"
    return "nothing was said"
