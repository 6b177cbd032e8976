"""Files of predictions: JSON, YAML or pickle with the same content, plain values only."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import yaml

from pet.utils.files import PLAIN_SUFFIXES, atomic_write, check_suffix, finite, prepare_file

_MAX_DEPTH = 40


class _PlainUnpickler(pickle.Unpickler):
    """Reads numbers, texts, lists and dicts; refuses everything that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        raise ValueError(
            f"it refers to {module}.{name}, but a file of predictions holds plain values only; it was not written by Pet"
        )


def _read_pickle(handle: IO[bytes]) -> Any:
    return _PlainUnpickler(handle).load()


def _to_json(content: Any) -> bytes:
    return json.dumps(content, allow_nan=False, ensure_ascii=False).encode()


def _to_yaml(content: Any) -> bytes:
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    text: bytes = yaml.dump(
        content, Dumper=dumper, encoding="utf-8", allow_unicode=True, sort_keys=False, default_flow_style=None
    )
    return text


def _read_yaml(handle: IO[bytes]) -> Any:
    # The C loader is the same safe loader, some ten times as fast, but crashes on very deep nesting.
    loader, data, depth = getattr(yaml, "CSafeLoader", yaml.SafeLoader), handle.read(), 0
    for event in yaml.parse(data, Loader=loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH or isinstance(event, yaml.AliasEvent):
            raise ValueError(f"it has aliases or more than {_MAX_DEPTH} levels; it was not written by Pet")
    return yaml.load(data, Loader=loader)


_WRITERS: dict[str, Callable[[Any], bytes]] = {".json": _to_json, ".yaml": _to_yaml, ".yml": _to_yaml, ".pkl": pickle.dumps}
_READERS: dict[str, Callable[[IO[bytes]], Any]] = {
    ".json": json.load,
    ".yaml": _read_yaml,
    ".yml": _read_yaml,
    ".pkl": _read_pickle,
}


def check_output_path(path: str | Path) -> Path:
    """Refuse, before inference, a file that could not be written afterwards; its folder is made.

    Raises:
        ValueError: the suffix is not .json, .yaml, .yml or .pkl, or ``path`` is a folder.
        OSError: its folder cannot be made or written.
    """
    path = Path(path)
    check_suffix(path, PLAIN_SUFFIXES, "--out")
    if path.is_dir():
        raise ValueError(f"--out {path} is a folder; name a file in it, e.g. {path / 'predictions.json'}")
    prepare_file(path)
    return path


def write_plain(path: str | Path, content: dict[str, Any]) -> None:
    """Write plain values to a .json, .yaml, .yml or .pkl file, whole or not at all; NaN and infinity become null."""
    path = check_output_path(path)
    data = _WRITERS[path.suffix.lower()](finite(content))
    with atomic_write(path) as handle:
        handle.write(data)


def read_plain(path: str | Path) -> dict[str, Any]:
    """Read what ``write_plain`` wrote; a pickle can hold plain values only, so that reading one runs no code.

    Raises:
        FileNotFoundError: no such file.
        ValueError: unknown suffix, or a content that is damaged or not plain.
    """
    path = Path(path)
    suffix = check_suffix(path, PLAIN_SUFFIXES)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        with open(path, "rb") as handle:
            content = _READERS[suffix](handle)
    except (ValueError, EOFError, RecursionError, pickle.UnpicklingError, yaml.YAMLError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise ValueError(f"{path} holds a {kind}, not a mapping; it was not written by Pet")  # noqa: TRY004 - the file is wrong, not the call
    return content


def is_plain_file(path: str | Path) -> bool:
    """Whether ``path`` is a file that ``write_plain`` may have written; a list in JSON is COCO's."""
    path = Path(path)
    if not path.is_file() or path.suffix.lower() not in PLAIN_SUFFIXES:
        return False
    with open(path, "rb") as handle:
        return path.suffix.lower() != ".json" or not handle.read(64).lstrip().startswith(b"[")
