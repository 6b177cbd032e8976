"""Checkpoints of a sharded model: a folder to which every process writes what it holds.

``model_iter100.dcp/`` has the tensors that are sharded in the files of torch.distributed.checkpoint (``__<rank>_0.distcp`` and
the index ``.metadata``), everything else in ``state.pth``, where those tensors have a shape and no data, and the checksums of all
files in ``SHA256SUMS``. The folder gets its name when all of it is on the disk. It can be read with any number of processes.
"""

from __future__ import annotations

import errno
import os
import pickle
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from copy import copy
from pathlib import Path
from typing import Any

import torch

from pet.engine import checkpoint_file as files
from pet.utils import comm
from pet.utils.files import TEMPORARY, atomic_text, disk_full, file_digest, fsync_folder

_METADATA = ".metadata"
_INDEX_TYPES = {
    "torch.distributed.checkpoint.metadata": (
        *("Metadata", "TensorStorageMetadata", "TensorProperties", "ChunkStorageMetadata", "MetadataIndex", "StorageMeta"),
        "_MEM_FORMAT_ENCODING",
    ),
    "torch.distributed.checkpoint.filesystem": ("_StorageInfo",),
    "torch.serialization": ("_get_layout",),
    "torch": ("Size",),
    "pathlib": ("Path", "PosixPath", "WindowsPath", "PurePosixPath"),
}
Leaf = Callable[[str, torch.Tensor], Any]


def has_shards(state: Any) -> bool:
    """Whether a nested state holds tensors that are sharded over the processes."""
    return any(comm.is_sharded(tensor) for tensor in files.tensors_in(state))


def split(state: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    """The state with shape and type alone of its sharded tensors, and these tensors by their place, ``model.conv.weight``."""
    shards: dict[str, torch.Tensor] = {}

    def part(name: str, tensor: torch.Tensor) -> torch.Tensor:
        if not comm.is_sharded(tensor):
            return tensor
        assert name not in shards, f"two tensors are called {name}"
        shards[name] = tensor.detach()
        return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")

    return _map_tensors(state, part), shards


def _map_tensors(state: Any, function: Leaf, name: str = "") -> Any:
    """A nested state with ``function(name, tensor)`` instead of each tensor; containers are copied."""
    if isinstance(state, torch.Tensor):
        return function(name, state)
    start = f"{name}." if name else ""
    if isinstance(state, Mapping):
        copied: Any = copy(state)  # keeps the versions that torch hangs on a state dict
        for key, value in state.items():
            copied[key] = _map_tensors(value, function, f"{start}{key}")
        return copied
    if isinstance(state, (list, tuple)):
        return type(state)(_map_tensors(value, function, f"{start}{place}") for place, value in enumerate(state))
    return state


# ------------------------------------------------------------------------------------------------------------- writing


class ShardedWrite:
    """A checkpoint on its way to the disk, made and finished on every rank.

    Args:
        shards: of ``split``. With ``asynchronous`` they are copied to host memory now and may change afterwards.
        path: the folder that will be there.
        asynchronous: write in a thread of torch.distributed.checkpoint, which begins at once.

    Raises:
        OSError: on every rank, when rank 0 cannot make the temporary folder.
    """

    def __init__(self, shards: dict[str, torch.Tensor], path: Path, asynchronous: bool) -> None:
        from torch.distributed.checkpoint.filesystem import FileSystemWriter
        from torch.distributed.checkpoint.state_dict_saver import async_save, save

        self._path, self._temporary = path, _make_temporary(path)
        options: dict[str, Any] = {
            "storage_writer": FileSystemWriter(self._temporary),
            "process_group": comm.gloo_group("checkpoint"),
        }
        self._wait: Callable[[], Any] = lambda: save(shards, **options)
        if asynchronous:
            self._wait = async_save(shards, **options).result  # type: ignore[union-attr]

    def finish(self, common: Any) -> None:
        """Return when the folder is durable under its name; every rank calls it, after the same exchanges of checkpoints.

        Args:
            common: of ``split``; that of rank 0 is written.

        Raises:
            OSError: a rank could not write its part, or rank 0 the rest; the temporary folder is removed at the next start.
        """
        from torch.distributed.checkpoint.api import CheckpointException

        try:
            self._wait()
        except CheckpointException as error:  # not an Exception
            raise _write_error(self._path, error.failures) from error
        mine = {file.name: file_digest(file) for file in self._temporary.glob(f"__{comm.get_rank()}_*")}
        digests = {name: digest for part in comm.all_gather(mine, use="checkpoint") for name, digest in part.items()}
        if comm.is_main_process():
            self._commit(common, digests)

    def _commit(self, common: Any, digests: dict[str, str]) -> None:
        folder = self._temporary
        foreign = sorted(name for name in digests if not (folder / name).is_file())
        if foreign:
            raise OSError(
                f"{folder} has no {foreign[0]}, which another process wrote to the folder of that name: MISC.CKPT must lie on a "
                "file system that all processes share"
            )
        files.write_checkpoint(common, folder / files.COMMON)
        digests[_METADATA] = file_digest(folder / _METADATA)
        digests[files.COMMON] = files.digest_path(folder / files.COMMON).read_text(encoding="utf-8").split()[0]
        files.digest_path(folder / files.COMMON).unlink()
        atomic_text(folder / files.DIGESTS, "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items())))
        if self._path.exists():  # damaged, or of a run that was taken back to an earlier update
            files.remove_checkpoint(self._path)
        os.replace(folder, self._path)
        fsync_folder(self._path.parent)


def _make_temporary(path: Path) -> Path:
    """An empty folder beside ``path`` with one name for all ranks."""
    temporary, problem = path.with_name(f"{path.name}{TEMPORARY}{os.getpid()}"), None
    if comm.is_main_process():
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        except OSError as error:
            problem = error
    name, text = comm.broadcast((temporary.name, str(problem) if problem else ""))
    if text:
        raise problem or OSError(f"rank 0 could not save: {text}")
    return path.with_name(name)


def _write_error(path: Path, failures: Mapping[int, Any]) -> OSError:
    """What went wrong on the ranks, as one error."""
    errors = {rank: failure[0] for rank, failure in sorted(failures.items())}
    full = next((e for e in errors.values() if isinstance(e, OSError) and e.errno in (errno.ENOSPC, errno.EDQUOT)), None)
    if full is not None:
        return disk_full(path, full)
    told = "; ".join(f"rank {rank}: {type(error).__name__}: {error}" for rank, error in errors.items())
    return OSError(f"cannot write {path}: {told}. The previous checkpoints are intact")


# ------------------------------------------------------------------------------------------------------------- reading


def restore(source: str | Path, name: str, saved: Any, present: Any = None) -> Any:
    """A part of a checkpoint with all of its data, ready for ``load_state_dict``; not a collective.

    Args:
        source: the file or folder it comes from.
        name: of the part in the checkpoint, e.g. ``model``.
        saved: the part; tensors without data are read from the folder.
        present: the same part of this run. Where it has a sharded tensor, this rank reads or keeps its own shard alone.

    Raises:
        DamagedCheckpoint: the data are not there, or do not fit the part.
    """
    layout: dict[str, torch.Tensor] = {}
    _map_tensors(present, layout.__setitem__, name)
    wanted: dict[str, torch.Tensor] = {}

    def place(path: str, tensor: torch.Tensor) -> torch.Tensor:
        like = layout.get(path)
        if like is not None and not (comm.is_sharded(like) and like.shape == tensor.shape):
            like = None
        if not tensor.is_meta:
            return tensor if like is None else _shard_like(tensor, like)
        empty = torch.empty(tensor.shape, dtype=tensor.dtype) if like is None else torch.empty_like(like, dtype=tensor.dtype)
        wanted[path] = empty
        return empty

    restored = _map_tensors(saved, place, name)
    if wanted:
        _read(Path(source), wanted)
    return restored


def restore_optimizer(source: str | Path, saved: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> Any:
    """As ``restore``, for an optimizer that need not have stepped yet: its state is sharded as its parameters, found by name."""
    present = {name: parameter for group in optimizer.param_groups for name, parameter in _by_name(group)}
    names = {place: name for group in saved["param_groups"] for name, place in _by_name(group)}
    states = {i: dict.fromkeys(state, present[names[i]]) for i, state in saved["state"].items() if names.get(i) in present}
    return restore(source, "optimizer", saved, {"state": states})


def _by_name(group: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """``(name, parameter or its number)``; nothing for an optimizer that was built without names."""
    return zip(group.get("param_names", ()), group["params"], strict=False)


def _shard_like(tensor: torch.Tensor, like: Any) -> torch.Tensor:
    """This rank's part of a whole tensor, laid out as ``like``; nothing is exchanged."""
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def _read(source: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Fill tensors, sharded ones or whole ones, from a folder."""
    if not source.is_dir():
        raise files.DamagedCheckpoint(f"{source} has no data for {len(tensors)} tensors, such as {next(iter(tensors))}")
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.state_dict_loader import load

    index = _read_index(source)
    unknown = sorted(tensors.keys() - index.state_dict_metadata.keys())
    if unknown:
        raise files.DamagedCheckpoint(f"{source} has no data for {len(unknown)} tensors, such as {unknown[0]}")

    class Reader(FileSystemReader):
        def read_metadata(self, *args: Any, **kwargs: Any) -> Any:
            return index

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # each rank reads on its own
            load(dict(tensors), storage_reader=Reader(source), no_dist=True)
    except (OSError, RuntimeError, ValueError, AssertionError, CheckpointException) as error:
        raise files.DamagedCheckpoint(f"{source} cannot be loaded: {error}") from error


class _IndexUnpickler(pickle.Unpickler):
    """Takes the types of an index only: a pickle may name any function, which would be called."""

    def find_class(self, module: str, name: str) -> Any:
        if name in _INDEX_TYPES.get(module, ()):
            return super().find_class(module, name)
        kind = getattr(torch, name, None) if module == "torch" else None
        if isinstance(kind, torch.dtype):
            return kind
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is no part of an index")


def _read_index(source: Path) -> Any:
    """Where each tensor lies; files outside of the folder and anything but tensors are refused."""
    from torch.distributed.checkpoint.metadata import StorageMeta, TensorStorageMetadata

    try:
        with open(source / _METADATA, "rb") as handle:
            index = _IndexUnpickler(handle).load()
        kinds = {type(entry) for entry in index.state_dict_metadata.values()}
        names = {place.relative_path for place in index.storage_data.values()}
        index.storage_meta = index.storage_meta or StorageMeta()
    except Exception as error:
        raise files.DamagedCheckpoint(f"{source} has no usable index: {type(error).__name__}: {error}") from error
    if kinds - {TensorStorageMetadata} or any(Path(name).name != name for name in names):
        raise files.DamagedCheckpoint(f"{source}: its index names more than tensors in this folder")
    return index
