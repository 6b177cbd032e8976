"""CheckPointer: everything that changes during a run, saved under one commit point and restored exactly."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

from pet.engine import checkpoint_file as files
from pet.engine.weights import load_weights, read_weights
from pet.utils import comm
from pet.utils.files import remove_temporaries
from pet.utils.logger import LOGGER, logging_rank
from pet.utils.rng import get_rng_state, set_rng_state

M = TypeVar("M", bound=nn.Module)
FORMAT = 1
_OWN_PARTS = {"format", "model", "optimizer", "scheduler", "rng", "meta"}


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

    Attributes:
        resume: whether a run is continued.
        checkpoint: the loaded content; empty when starting fresh.
        mismatch_keys: what did not fit when weights were loaded, one line each.
        last_saved, last_path: update and file of the newest checkpoint of this run, written or resumed from.
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
        self._size = 0
        self.checkpoint: dict[str, Any] = {}
        source = self._choose(str(resume_from), auto_resume)
        self.resume = bool(source)
        if source:
            self.checkpoint = read_resumable(source)
            self.resumed_from = source
            self.last_saved, self.last_path = self.start_iter - 1, Path(source).resolve()
            logging_rank(f"Resuming from {source} (update {self.start_iter - 1})")

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
                files.read_checkpoint(path)
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
                bare.load_state_dict(self.checkpoint["model"])
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
                optimizer.load_state_dict(self.checkpoint["optimizer"])
            except ValueError as error:
                raise ValueError(f"cannot resume from {self.resumed_from}: {error}") from error
        return optimizer

    def load_scheduler(self, scheduler: Any) -> Any:
        """On resume restore the position; the scheduler writes the learning rate of the next update at once."""
        if self.resume:
            scheduler.load_state_dict(self.checkpoint["scheduler"])
        return scheduler

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
            part.load_state_dict(self.checkpoint[name])
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
        """Write ``model_<infix><number>.pth``; called on every rank, written by rank 0.

        Args:
            model: wrapped or not; keys are those of the bare module.
            optimizer, scheduler: their state; the scheduler's ``iteration`` is the next update.
            copy_latest: let ``model_latest.pth`` name the new file.
            infix: ``iter`` or ``epoch``.
            number: defaults to the last update.

        Raises:
            OSError: on every rank, when rank 0 cannot write; earlier files are intact.
        """
        comm.broadcast_buffers(model)
        rng = comm.gather(get_rng_state())
        done = scheduler.iteration - 1
        number = done if number is None else number
        path = self.folder / f"model_{infix}{number}.pth"
        state = {
            "format": FORMAT,
            "model": comm.unwrap(model).state_dict(),
            "optimizer": optimizer.state_dict(),
            "scheduler": scheduler.state_dict(),
            **{name: part.state_dict() for name, part in self._parts.items()},
            "rng": rng,
            "meta": {**self.meta, "iteration": done, "world_size": comm.get_world_size()},
        }
        problem: OSError | None = None
        if comm.is_main_process():
            try:
                self._write(state, path, copy_latest)
            except OSError as error:
                problem = error
        text = comm.broadcast(str(problem) if problem else "")
        if text:
            raise problem or OSError(f"rank 0 could not save: {text}")
        self.last_saved, self.last_path = done, path
        return path

    def _write(self, state: Mapping[str, Any], path: Path, copy_latest: bool) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.folder).free
        if free < 1.1 * self._size:
            LOGGER.warning(f"{free / 2**20:.0f} MiB free in {self.folder}, a checkpoint needs {self._size / 2**20:.0f} MiB")
        self._size = files.write_checkpoint(state, path)
        self._damaged = [damaged for damaged in self._damaged if damaged.resolve() != path.resolve()]
        if copy_latest:
            files.point_latest(self.folder, path)
        if self.keep:
            files.prune(self.folder, self.keep, self._damaged)


def read_resumable(source: str | Path) -> dict[str, Any]:
    """Verify and read a checkpoint that a run can continue from.

    Raises:
        DamagedCheckpoint: it is not there, or not what was written.
        KeyError, ValueError: it is not a checkpoint of a run, or of another version.
    """
    checkpoint = files.read_checkpoint(Path(source))
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
