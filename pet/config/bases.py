"""``_BASE_``: a config file and the files it builds on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from pet.config.loader import SUFFIXES, Document, display, load_file
from pet.config.problem import ConfigError, Problem, show
from pet.utils.suggest import nearest

BASE = "_BASE_"
MAX_CHAIN = 10
MAX_FILES = 50
# Looking for similar names must not walk a whole disk.
MAX_LISTED = 2000


def load_chain(path: str | Path) -> list[Document]:
    """The documents to merge, in order: bases first, in the order they are named, then the file itself.

    A base is given relative to the file that names it, and must lie inside the repository, the folder of ``path`` or the
    current folder.

    Raises:
        ConfigError: a file is missing or unreadable, the chain is circular or too long, or it leaves these folders.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError([_missing(path)])
    documents: list[Document] = []
    _collect(path, (), _allowed_folders(path), documents)
    return documents


def _collect(path: Path, above: tuple[Path, ...], folders: list[Path], documents: list[Document]) -> None:
    document = load_file(path)
    chain = (*above, path)
    where = document.where((BASE,))
    for name in _base_names(document, where):
        base = path.parent / name
        _check_base(base, name, chain, folders, where)
        _collect(base, chain, folders, documents)
    if len(documents) == MAX_FILES:
        raise ConfigError([Problem(BASE, f"more than {MAX_FILES} files are merged", where)])
    documents.append(document)


def _base_names(document: Document, where: str) -> list[str]:
    names = document.data.pop(BASE, None) or []
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise ConfigError([Problem(BASE, "expected a file name or a list of file names", where, show(names))])
    return names


def _check_base(base: Path, name: str, chain: tuple[Path, ...], folders: list[Path], where: str) -> None:
    real = base.resolve()
    if not any(real.is_relative_to(folder) for folder in folders):
        inside = ", ".join(dict.fromkeys(str(folder) for folder in folders))
        raise ConfigError([Problem(BASE, f"a base must lie inside {inside}", where, show(name))])
    if not base.is_file():
        raise ConfigError([_missing(base, where)])
    files = [path.resolve() for path in chain]
    if real in files:
        circle = " -> ".join(display(path) for path in (*files[files.index(real) :], real))
        raise ConfigError([Problem(BASE, f"the files build on one another in a circle: {circle}", where, show(name))])
    if len(chain) > MAX_CHAIN:
        raise ConfigError([Problem(BASE, f"a chain of more than {MAX_CHAIN} bases", where, show(name))])


def _allowed_folders(path: Path) -> list[Path]:
    """Repository of the file (a folder that holds cfgs/ and pet/) and of this package, folder of the file, current folder."""
    file = path.resolve()
    package = Path(__file__).resolve().parents[2]
    repositories = [folder for folder in (*file.parents, package) if (folder / "cfgs").is_dir() and (folder / "pet").is_dir()]
    return [*repositories, file.parent, Path.cwd().resolve()]


def _missing(path: Path, where: str = "") -> Problem:
    """The problem of a file that is not there, with the nearest names that are."""
    key = f"{BASE} {display(path)}" if where else display(path)
    if path.is_dir():
        inside = ", ".join(sorted(entry.name for entry in path.iterdir() if entry.suffix in SUFFIXES)[:10])
        return Problem(key, f"is a folder; give one of its files: {inside or 'it holds no YAML file'}", where)
    folder = next((parent for parent in path.parents if parent.is_dir()), Path())
    found = [display(file) for file in _yaml_files(folder)]
    names = nearest(display(path), found) or nearest(path.name, [Path(name).name for name in found])
    similar = [name for name in found if name in names or Path(name).name in names][:3]
    hint = f" Did you mean {' or '.join(similar)}?" if similar else ""
    return Problem(key, f"no such file.{hint}", where)


def _yaml_files(folder: Path) -> Iterator[Path]:
    listed = 0
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent, name) for name in sorted(files) if name.endswith(SUFFIXES))
        listed += len(files)
        if listed > MAX_LISTED:
            return
