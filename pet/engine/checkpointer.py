"""CheckPointer: everything that changes during a run, saved under one commit point and restored exactly."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

from pet.engine import checkpoint_file as files
from pet.engine import sharded
from pet.engine.background import Background, HostCopy, Job
from pet.engine.weights import load_weights, read_weights
from pet.utils import comm
from pet.utils.files import remove_temporaries
from pet.utils.logger import LOGGER, logging_rank
from pet.utils.rng import get_rng_state, set_rng_state

M = TypeVar("M", bound=nn.Module)
FORMAT = 2
_OWN_PARTS = {"format", "model", "optimizer", "scheduler", "rng", "meta"}
_FOLLOWING = {"ema", "scaler"}  # parts that belong to the weights


class Stateful(Protocol):
    """Anything a checkpoint can hold: state of tensors and plain values."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Any) -> Any: ...


class CheckPointer:
    """Loads and saves the state of a run.

    With ``auto_resume`` and a checkpoint in ``ckpt`` the run is resumed: the newest file that is intact is used (an
    unreadable one is named in a warning). Otherwise the model starts from ``weights_path``, or from scratch.

    Args:
        ckpt: folder of the run.
        weights_path: a checkpoint or state dict to start the model from; empty or ``None``: none.
        auto_resume: continue from the newest checkpoint in ``ckpt`` if there is one.
        resume_from: continue from this file instead.
        keep: newest checkpoints that stay (at least two); 0 keeps all.
        allow_mismatch: fnmatch patterns of tensors that may differ when weights are loaded (never on resume).
        meta: plain values stored in every checkpoint (config, class names, versions).
        share_buffers: a save copies the buffers of rank 0, which it writes, to all ranks (MISC.PARALLEL.BUFFERS).
        asynchronous: let ``save`` return when the state is copied in host memory; a thread of rank 0 writes the file.

    Attributes:
        resume: whether a run is continued.
        checkpoint: the loaded content; empty when starting fresh.
        mismatch_keys: what did not fit when weights were loaded, one line each.
        last_saved, last_path: update and file of the newest checkpoint of this run, written, being written or resumed from.
    """

    def __init__(
        self,
        ckpt: str | Path,
        weights_path: str | Path | None = None,
        auto_resume: bool = True,
        *,
        resume_from: str | Path = "",
        keep: int = 2,
        allow_mismatch: Sequence[str] = (),
        meta: Mapping[str, Any] | None = None,
        asynchronous: bool = False,
        share_buffers: bool = True,
    ) -> None:
        self.folder = Path(ckpt)
        self.weights_path = Path(weights_path) if weights_path else None
        self.keep = max(keep, 2) if keep else 0
        self.meta = dict(meta or {})
        self.mismatch_keys: list[str] = []
        self.last_saved = 0
        self.last_path: Path | None = None
        self._allow_mismatch = allow_mismatch
        self._parts: dict[str, Stateful] = {}
        self._damaged: list[Path] = []
        self._asynchronous, self._share_buffers = asynchronous, share_buffers
        self._background, self._copy_to_host = Background("checkpoint writer"), HostCopy()
        self.checkpoint: dict[str, Any] = {}
        source = self._choose(str(resume_from), auto_resume)
        self.resume = bool(source)
        if source:
            self.checkpoint = read_resumable(source)
            self.resumed_from = source
            self.last_saved, self.last_path = self.start_iter - 1, Path(source).resolve()
            logging_rank(f"Resuming from {source} (update {self.start_iter - 1})")
        self._durable = self.last_saved, self.last_path

    # ------------------------------------------------------------------- loading
    @property
    def start_iter(self) -> int:
        """The first update to run, 1-based."""
        return int(self.checkpoint["scheduler"]["iteration"]) if self.resume else 1

    def _choose(self, resume_from: str, auto_resume: bool) -> str:
        """The file to resume from; rank 0 looks and all ranks use the same."""
        chosen, error = "", None
        if comm.is_main_process():
            try:
                chosen = self._find(resume_from, auto_resume)
            except (OSError, ValueError) as problem:
                error = problem
        chosen, text = comm.broadcast((chosen, str(error) if error else ""))
        if error is not None:
            raise error
        if text:
            raise ValueError(text)
        return str(chosen)

    def _find(self, resume_from: str, auto_resume: bool) -> str:
        if resume_from:
            files.verify_checkpoint(Path(resume_from))
            return resume_from
        if not auto_resume or not self.folder.is_dir():
            return ""
        for name in remove_temporaries(self.folder):
            LOGGER.info(f"removed {name}, left behind by a process that was killed while saving")
        candidates, problem = files.resume_candidates(self.folder)
        tried = [problem] if problem else []
        for path in candidates:
            try:
                if path.is_dir():
                    files.verify_checkpoint(path)  # the outline leaves most of it unread
                files.read_outline(path)
            except files.DamagedCheckpoint as damage:
                tried.append(str(damage))
                self._damaged.append(path)
                continue
            if tried:
                LOGGER.warning(f"{'; '.join(tried)}. Falling back to the previous good checkpoint {path}")
            return str(path)
        if tried:
            raise ValueError(
                f"no checkpoint in {self.folder} can be used: {'; '.join(tried)}. Name a good one with --resume PATH, or start "
                "afresh with TRAIN.AUTO_RESUME False"
            )
        return ""

    def load_model(self, model: M, convert_conv1: bool = False) -> M:
        """Load weights: exactly on resume, by name with an allow-list otherwise; returns the model."""
        bare = comm.unwrap(model)
        if self.resume:
            try:
                bare.load_state_dict(sharded.restore(self.resumed_from, "model", self.checkpoint["model"], bare.state_dict()))
            except RuntimeError as error:
                raise ValueError(
                    f"{self.resumed_from} is a checkpoint of another architecture: {_short(error)}. Train in another folder "
                    "(--work-dir), or load what fits with --load-from and TRAIN.ALLOW_MISMATCH"
                ) from error
        elif self.weights_path is not None:
            state = read_weights(self.weights_path, "TRAIN.WEIGHTS or --load-from")
            report = load_weights(bare, state, self._allow_mismatch, str(self.weights_path), flip_conv1=convert_conv1)
            self.mismatch_keys = report.mismatches
            logging_rank(f"{self.weights_path}: {report.summary()}")
        return model

    def load_optimizer(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """On resume restore momenta; learning rate, decay and other options stay those of the present config."""
        if self.resume:
            try:
                optimizer.load_state_dict(sharded.restore_optimizer(self.resumed_from, self.checkpoint["optimizer"], optimizer))
            except ValueError as error:
                raise ValueError(f"cannot resume from {self.resumed_from}: {error}") from error
        return optimizer

    def load_scheduler(self, scheduler: Any) -> Any:
        """On resume restore the position; the scheduler writes the learning rate of the next update at once."""
        if self.resume:
            scheduler.load_state_dict(self.checkpoint["scheduler"])
        return scheduler

    def go_back(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> int | None:
        """Restore weights, optimizer and what follows the weights from the newest good checkpoint of this run, on every rank.

        Counter, schedule, data position, hooks, storage and random generators stay as they are.

        Returns:
            The update it was taken at; ``None`` if this run has none yet.
        """
        self.wait()
        source = self._choose("", auto_resume=True) or str(self.last_path or "")
        if not source:
            return None
        state, bare = read_resumable(source), comm.unwrap(model)
        bare.load_state_dict(sharded.restore(source, "model", state["model"], bare.state_dict()))
        optimizer.load_state_dict(sharded.restore_optimizer(source, state["optimizer"], optimizer))
        for name in _FOLLOWING.intersection(self._parts):
            part = self._parts[name]
            part.load_state_dict(sharded.restore(source, name, state[name], part.state_dict()))
        return int(state["meta"]["iteration"])

    def track(self, **parts: Stateful) -> None:
        """Save and restore these objects too, each under its name."""
        for name, part in parts.items():
            if name in _OWN_PARTS or name in self._parts:
                raise KeyError(f"a part named '{name}' is tracked already")
            for method in ("state_dict", "load_state_dict"):
                if not callable(getattr(part, method, None)):
                    raise TypeError(f"'{name}' ({type(part).__name__}) cannot be tracked: it has no {method}()")
            self._parts[name] = part

    def resume_parts(self) -> None:
        """Restore all tracked parts, and the random generators last. Does nothing in a fresh run."""
        if not self.resume:
            return
        have = self.checkpoint.keys() - _OWN_PARTS
        missing, surplus = sorted(self._parts.keys() - have), sorted(have - self._parts.keys())
        if missing or surplus:
            raise KeyError(
                f"{self.resumed_from} does not fit this run: it has no state for {missing}, and this run has no part for "
                f"{surplus}. "
                "Resume with the config of the run, or start from the weights with --load-from"
            )
        for name, part in self._parts.items():
            try:
                part.load_state_dict(sharded.restore(self.resumed_from, name, self.checkpoint[name], part.state_dict()))
            except KeyError as error:
                text = str(error.args[0])
                lost = text if " " in text else f"it has no '{text}'"
                raise KeyError(f"{self.resumed_from} cannot be resumed because of its part '{name}': {lost}") from error
        states = self.checkpoint["rng"]
        if len(states) == comm.get_world_size():
            set_rng_state(states[comm.get_rank()])
        else:
            logging_rank(
                f"The run had {len(states)} processes, now {comm.get_world_size()}: weights, optimizer, schedule and the order "
                "of samples continue exactly; dropout and other randomness inside the model do not"
            )
        self.checkpoint = {"scheduler": self.checkpoint["scheduler"], "meta": self.checkpoint["meta"]}

    # -------------------------------------------------------------------- saving
    def save(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        scheduler: Any,
        copy_latest: bool = True,
        infix: str = "iter",
        number: int | None = None,
    ) -> Path:
        """Write ``model_<infix><number>.pth``, or of a sharded model the folder ``.dcp``; called on every rank.

        Rank 0 writes a file; to a folder every rank writes what it holds.

        The state is that of the moment of the call. With ``asynchronous`` the file is there after the next ``wait``; a save
        waits for the one before it.

        Args:
            model: wrapped or not; keys are those of the bare module.
            optimizer, scheduler: their state; the scheduler's ``iteration`` is the next update.
            copy_latest: let ``model_latest.pth`` name the new file.
            infix: ``iter`` or ``epoch``.
            number: defaults to the last update.

        Raises:
            OSError: on every rank, when one could not write this checkpoint or the one before it; earlier files are intact.
        """
        self.wait()
        state = self._collect(model, optimizer, scheduler)
        done = state["meta"]["iteration"]
        path = self.folder / f"model_{infix}{done if number is None else number}.pth"
        if sharded.has_shards(state):
            path = path.with_suffix(".dcp")
            self._write_shards(state, path, copy_latest)
        elif comm.is_main_process():
            frozen = self._copy_to_host(state) if self._asynchronous else state
            self._background.submit(lambda: self._write(frozen, path, copy_latest))
        self.last_saved, self.last_path = done, path
        if not self._asynchronous:
            self.wait()
        return path

    def wait(self) -> None:
        """Return when the newest checkpoint, and what follows it, is durable. Called on every rank.

        Raises:
            OSError: on every rank, when one could not write it; earlier files are intact.
        """
        problem: Exception | None = None
        try:
            self._background.wait()
        except Exception as error:
            problem = error
        told = comm.all_gather(str(problem) or type(problem).__name__ if problem else "")
        failed = [rank for rank, text in enumerate(told) if text]
        if failed:
            self.last_saved, self.last_path = self._durable
            raise problem or OSError(f"rank {failed[0]} could not save: {told[failed[0]]}")
        self._durable = self.last_saved, self.last_path

    def finish(self) -> None:
        """Let this rank write to its end what it has begun, without the others: after a failure they may be gone."""
        self._background.wait()

    @property
    def write_failed(self) -> bool:
        """Whether this rank knows that the next ``wait`` will raise."""
        return self._background.failed

    def after_write(self, job: Job) -> None:
        """Run ``job`` on this rank as soon as the newest checkpoint is durable: now if it is. The next ``wait`` waits for it."""
        self._background.follow(job)

    def _collect(self, model: nn.Module, optimizer: torch.optim.Optimizer, scheduler: Any) -> dict[str, Any]:
        """What a checkpoint holds, as references to the living tensors. Called on every rank."""
        if self._share_buffers:
            comm.broadcast_buffers(model)
        rng = comm.gather(get_rng_state())
        return {
            "format": FORMAT,
            "model": comm.unwrap(model).state_dict(),
            "optimizer": optimizer.state_dict(),
            "scheduler": scheduler.state_dict(),
            **{name: part.state_dict() for name, part in self._parts.items()},
            "rng": rng,
            "meta": {**self.meta, "iteration": scheduler.iteration - 1, "world_size": comm.get_world_size()},
        }

    def _write(self, state: Mapping[str, Any], path: Path, copy_latest: bool) -> None:
        """Rank 0: the file, then the pointer to it, then retention."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._look_at_space(state)
        files.write_checkpoint(state, path)
        self._settle(path, copy_latest)

    def _write_shards(self, state: Mapping[str, Any], path: Path, copy_latest: bool) -> None:
        """Every rank: its part of the folder; then rank 0 as ``_write``. What is copied is copied when this returns."""
        common, shards = sharded.split(state)
        write = sharded.ShardedWrite(shards, path, self._asynchronous)
        is_main = comm.is_main_process()
        if is_main:
            self._look_at_space(common)
            common = self._copy_to_host(common) if self._asynchronous else common

        def finish() -> None:
            write.finish(common)
            if is_main:
                self._settle(path, copy_latest)

        self._background.submit(finish)

    def _look_at_space(self, state: Any) -> None:
        needed, free = files.size_of(state), shutil.disk_usage(self.folder).free
        if free < 1.1 * needed:
            LOGGER.warning(f"{free / 2**20:.0f} MiB free in {self.folder}, a checkpoint needs {needed / 2**20:.0f} MiB")

    def _settle(self, path: Path, copy_latest: bool) -> None:
        """What follows a checkpoint that is on the disk: the pointer to it, and retention."""
        self._damaged = [damaged for damaged in self._damaged if damaged.resolve() != path.resolve()]
        if copy_latest:
            files.point_latest(self.folder, path)
        if self.keep:
            files.prune(self.folder, self.keep, self._damaged)


def read_resumable(source: str | Path) -> dict[str, Any]:
    """Verify and read a checkpoint that a run can continue from; of a folder the outline, see ``read_outline``.

    Raises:
        DamagedCheckpoint: it is not there, or not what was written.
        KeyError, ValueError: it is not a checkpoint of a run, or of another version.
    """
    checkpoint = files.read_outline(Path(source))
    missing = sorted(_OWN_PARTS - checkpoint.keys())
    if missing:
        raise KeyError(
            f"{source} has no {', '.join(missing)}; it holds {', '.join(sorted(checkpoint))}. Only a checkpoint "
            "of a run can be resumed; to start from its weights use --load-from"
        )
    if checkpoint["format"] != FORMAT:
        raise ValueError(f"{source} has format {checkpoint['format']}, this version of Pet writes and reads {FORMAT}")
    if "iteration" not in checkpoint["scheduler"]:
        raise KeyError(f"{source}: the state of its scheduler has no iteration, so the position of the run is unknown")
    return checkpoint


def get_weights(ckpt: str | Path, weights: str | Path = "") -> Path:
    """The file to test: ``weights`` if given, else the best, else the latest checkpoint of the folder.

    Raises:
        FileNotFoundError: neither exists; the text says how to name one.
    """
    folder = Path(ckpt)
    choices = [Path(weights)] if weights else [folder / files.BEST, folder / files.LATEST]
    for path in choices:
        if path.exists():
            return path
    looked = " and ".join(str(path) for path in choices)
    raise FileNotFoundError(f"nothing to test: {looked} not found. Train first, or name a checkpoint with TEST.WEIGHTS file.pth")


def _short(error: Exception, limit: int = 6) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    more = f" ... and {len(lines) - limit} more" if len(lines) > limit else ""
    return " ".join(line[:300] for line in lines[:limit]) + more
