"""``--check``: try every part of a training once, on one process, and say in one table what would fail later.

Nothing of the folder of the run is changed. A check that fails hides none but those that need its result.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from pet.config import CfgNode
from pet.engine import overfit, setup
from pet.engine.checkpoint_file import read_checkpoint, tensors_in
from pet.engine.checkpointer import CheckPointer
from pet.engine.evaluation import Evaluation, results_text
from pet.engine.events import EventStorage
from pet.engine.hooks.build import RunParts, build_train_hooks
from pet.engine.launch import EXIT_FAILED, EXIT_OK, check_shares
from pet.engine.plan import existing_parent, planned_files, resumable
from pet.engine.ranks import adopt_launcher
from pet.utils import comm
from pet.utils.files import disk_size
from pet.utils.findings import FAIL, PASS, SKIP, WARN, Doubt, Finding, NeedsError, attempt, describe_error
from pet.utils.labels import compare_names
from pet.utils.logger import LOGGER, logging_rank, process_rank, setup_logging
from pet.utils.rng import seed_everything

# What one update computes on a CPU, where a whole batch could take minutes.
_CPU_IMAGES = 2
_MIB = 1 << 20
_WAITING = "Several processes wait for every gradient; set MISC.FIND_UNUSED_PARAMETERS True if the model uses parts in turn"
# What to do when a check does not pass.
_REMEDIES = {
    "processes": "Is the port free, and has every process the same address?",
    "config": "Correct the YAML or the command; --explain KEY says where a value comes from",
    "device": "Set MISC.DEVICE; python -m pet.doctor says what this machine has",
    "work dir": "Set MISC.CKPT or --work-dir; --resume continues, another folder starts afresh",
    "train data": "Correct DATA.CATALOG, DATA.ROOT or PET_DATA; python tools/data_check.py CONFIG lists all faults",
    "test data": "Correct DATA.CATALOG, DATA.ROOT or PET_DATA; python tools/data_check.py CONFIG lists all faults",
    "classes": "Set the number of outputs of the head to the number of classes, or correct the labels",
    "model": "Correct the section MODEL",
    "weights": "Correct TRAIN.WEIGHTS or --resume; TRAIN.ALLOW_MISMATCH names what may differ",
    "schedule": "Correct the section SOLVER",
    "update": "Look at the samples and the loss; lower BASE_LR; freeze or remove parts that get no gradient",
    "evaluation": "Correct EVAL and TEST, or train without evaluation: --no-validate",
    "hooks": "Correct MISC.HOOKS",
    "save and load": "The temporary folder must hold one checkpoint; the variable TMPDIR chooses another one",
    "disk": "Free some space, choose another disk with --work-dir, or lower SOLVER.SNAPSHOT_KEEP",
    "shared memory": "Lower DATA.LOADER_THREADS or DATA.PREFETCH, or enlarge /dev/shm (docker run --shm-size)",
    "TensorBoard": "pip install tensorboard",
}


def check_run(
    cfg: CfgNode, args: argparse.Namespace, domain: Any, make_optimizer: Any, make_scheduler: Any, make_ema: Any
) -> int:
    """Check a training and print the table; the exit status: 0, or 1 when a check failed.

    Of several processes all meet, which tries the port and the network; then the first one checks alone.

    Args:
        cfg: of the run, frozen.
        args: of the command line.
        domain: module of the domain.
        make_optimizer: ``(model, section) -> object with build()``, the class ``Optimizer``.
        make_scheduler: ``(optimizer, section, iter_per_epoch) -> scheduler``, the class ``LearningRateScheduler``.
        make_ema: ``(model, section) -> averages or None``, ``build_ema``.
    """
    adopt_launcher(args.launcher)
    setup_logging()
    started = perf_counter()
    with tempfile.TemporaryDirectory(prefix="pet_check_") as folder:
        preflight = Preflight(cfg, domain, Path(folder), make_optimizer, make_scheduler, make_ema)
        findings = preflight.meet()
        if process_rank() == 0:
            findings += preflight.run()
    failed = sum(finding.result == FAIL for finding in findings)
    counts = ", ".join(f"{sum(f.result == kind for f in findings)} {kind}" for kind in (PASS, WARN, FAIL, SKIP))
    end = "not ready, see fail above" if failed else "ready"
    tell = LOGGER.error if failed else logging_rank  # a failure of any rank is seen
    tell(f"Check of {cfg.file}\n{table(findings)}\n{counts} in {perf_counter() - started:.1f} s: {end}")
    return EXIT_FAILED if failed else EXIT_OK


def table(findings: Sequence[Finding]) -> str:
    """The findings as text."""
    width = max(len(finding.name) for finding in findings)
    lines = [f"{'check':<{width}}  result    time  found"]
    for finding in findings:
        first, *others = finding.text.splitlines() or [""]
        lines.append(f"{finding.name:<{width}}  {finding.result:<6} {finding.seconds:5.1f} s  {first}")
        others += [f"-> {finding.remedy}"] if finding.remedy else []
        lines += [f"{'':<{width}}                  {line}" for line in others]
    return "\n".join(lines)


def small_config(cfg: CfgNode, folder: Path, device: torch.device) -> CfgNode:
    """The config with one small batch, no loader processes, and a folder of its own."""
    images, tested = _micro_batch(cfg), cfg.TEST.IMS_PER_GPU
    if device.type == "cpu":
        images, tested = min(images, _CPU_IMAGES), min(tested, _CPU_IMAGES)
    small: CfgNode = cfg.clone()
    small.defrost()
    values: dict[str, Any] = {
        "MISC.CKPT": str(folder),
        "DATA.LOADER_THREADS": 0,
        "DATA.CHECK": "fast",
        "TRAIN.BATCH_SIZE": images,
        "SOLVER.ACCUMULATE": 1,
        "TEST.IMS_PER_GPU": tested,
        "VIS.ENABLED": False,
        "MISC.PROFILER.ENABLED": False,
    }
    for name, value in values.items():
        small.set(name, value, "--check")
    return small


class Preflight:
    """The checks of one run, in order; what one builds the next ones use.

    Args:
        cfg, domain, make_optimizer, make_scheduler, make_ema: as for ``check_run``.
        folder: an empty folder, removed by the caller.
    """

    def __init__(self, cfg: CfgNode, domain: Any, folder: Path, make_optimizer: Any, make_scheduler: Any, make_ema: Any) -> None:
        self._cfg, self._domain, self._folder = cfg, domain, folder
        self._make_optimizer, self._make_scheduler, self._make_ema = make_optimizer, make_scheduler, make_ema
        self._have: dict[str, Any] = {}
        self._small: CfgNode = small_config(cfg, folder, torch.device("cpu"))

    # ---------------------------------------------------------------------------------------------------- machinery

    def run(self) -> list[Finding]:
        """All checks of one process."""
        seed_everything(self._cfg.MISC.SEED)
        return [attempt(name, check, _remedy(name), _explain) for name, check in self._checks().items()]

    def _need(self, name: str) -> Any:
        if name not in self._have:
            raise NeedsError(name)
        return self._have[name]

    def _checks(self) -> dict[str, Callable[[], str]]:
        return {
            "config": self._config,
            "device": self._device,
            "work dir": self._work_dir,
            **{f"train data {name}": partial(self._train_data, name) for name in self._cfg.TRAIN.DATASETS},
            **{f"test data {name}": partial(self._test_data, name) for name in self._cfg.TEST.DATASETS},
            "classes": self._classes,
            "model": self._model,
            "weights": self._weights,
            "schedule": self._schedule,
            "update": self._update,
            "evaluation": self._evaluation,
            "hooks": self._hooks,
            "save and load": self._save_and_load,
            "disk": self._disk,
            "shared memory": self._shared_memory,
            "TensorBoard": self._tensorboard,
        }

    # ------------------------------------------------------------------------------------------------------- checks

    def meet(self) -> list[Finding]:
        """All processes come together once, and part again; called by every one of them."""
        return [attempt("processes", self._meet, _remedy("processes"), _explain)]

    def _meet(self) -> str:
        if _processes() == 1:
            return "one, which needs no port"
        device = setup.choose_device(self._cfg.MISC.DEVICE)
        try:
            comm.init_distributed(device, self._cfg.MISC.DIST_TIMEOUT, self._cfg.MISC.RDZV_TIMEOUT)
            devices = comm.all_gather(str(device))
        finally:
            comm.shutdown_distributed()
        address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        return f"{len(devices)} met at {address} ({', '.join(devices)}); the first one makes the other checks"

    def _config(self) -> str:
        check_shares(self._cfg, _processes())
        return f"{len(self._cfg.diff_from_defaults())} values differ from the defaults; --explain KEY says where one was set"

    def _device(self) -> str:
        device = setup.choose_device(self._cfg.MISC.DEVICE)
        self._small = small_config(self._cfg, self._folder, device)
        self._have["device"] = device
        if device.type == "cuda":
            free, total = torch.cuda.mem_get_info(device)
            return f"{torch.cuda.get_device_name(device)}, {free / _MIB:.0f} of {total / _MIB:.0f} MiB free"
        threads = torch.get_num_threads()
        return f"{device}, {threads} thread{'s' if threads > 1 else ''}"

    def _work_dir(self) -> str:
        folder = Path(self._cfg.MISC.CKPT)
        parent = existing_parent(folder)
        if not parent.is_dir():
            raise NotADirectoryError(f"{folder} cannot be made: {parent} is a file")
        with tempfile.TemporaryFile(dir=parent) as probe:  # on Linux it never has a name, so the folder does not change
            probe.write(b"pet")
        self._have["resume"] = start = resumable(self._cfg)
        if start:
            return f"{folder}: continues {start}"
        if parent == folder.absolute() and any(folder.glob("model_*.pth")):
            raise Doubt(f"{folder} holds a run, which would be moved into {folder}/previous_<time> (TRAIN.AUTO_RESUME False)")
        return f"{folder}: {'is there' if parent == folder.absolute() else f'can be made in {parent}'}"

    def _train_data(self, name: str) -> str:
        dataset = self._domain.build_dataset(self._small, is_train=True, names=(name,))
        window = _first(self._domain.make_train_data_loader(self._small, dataset))
        if len(self._cfg.TRAIN.DATASETS) == 1:
            self._have.update({"training data": dataset, "a batch": window})
        return f"{len(dataset)} pictures; {_describe(window[0])}"

    def _test_data(self, name: str) -> str:
        dataset = self._domain.build_dataset(self._small, is_train=False, names=(name,))
        batch = _first(self._domain.make_test_data_loader(self._small, dataset))
        self._have[f"the test data {name}"] = dataset
        return f"{len(dataset)} pictures; {_describe(batch)}"

    def _classes(self) -> str:
        if "training data" not in self._have and len(self._cfg.TRAIN.DATASETS) > 1:
            dataset = self._domain.build_dataset(self._small, is_train=True)
            window = _first(self._domain.make_train_data_loader(self._small, dataset))
            self._have.update({"training data": dataset, "a batch": window})
        dataset = self._need("training data")
        report = self._domain.report_dataset(self._small, dataset)
        names = dataset.class_names
        text = f"{len(names)}: {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}"
        warnings = [line.strip() for line in report.splitlines() if line.strip().startswith("warning")]
        for name in self._cfg.TEST.DATASETS:
            warnings += compare_names(dataset, self._have.get(f"the test data {name}"), "the training data", name)
        if warnings:
            raise Doubt("\n".join([text, *warnings]))
        return text

    def _model(self) -> str:
        model = self._domain.GeneralizedCNN(self._small)
        self._have["the model"] = model
        trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
        return f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, {trainable / 1e6:.2f} M of them trainable"

    def _weights(self) -> str:
        cfg, model = self._cfg, self._need("the model")
        model.to(self._need("device"))
        # What follows can be tried with any weights.
        self._have["the weights"] = CheckPointer(self._folder, auto_resume=False)
        checkpointer = CheckPointer(
            self._folder,
            weights_path=cfg.TRAIN.WEIGHTS,
            auto_resume=False,
            resume_from=self._need("resume"),
            allow_mismatch=cfg.TRAIN.ALLOW_MISMATCH,
        )
        if checkpointer.resume:
            overfit.check_resumed(cfg, checkpointer.checkpoint["meta"]["config"])
        checkpointer.load_model(model, convert_conv1=cfg.MISC.CONV1_RGB2BGR)
        self._have["the weights"] = checkpointer
        if checkpointer.resume:
            return f"{checkpointer.resumed_from}, after update {checkpointer.start_iter - 1}"
        if checkpointer.mismatch_keys:
            raise Doubt(f"{cfg.TRAIN.WEIGHTS}: {len(checkpointer.mismatch_keys)} tensors differ, as TRAIN.ALLOW_MISMATCH allows")
        return f"all tensors of {cfg.TRAIN.WEIGHTS} fit" if cfg.TRAIN.WEIGHTS else "none to load (TRAIN.WEIGHTS)"

    def _schedule(self) -> str:
        cfg, model, checkpointer = self._cfg, self._need("the model"), self._need("the weights")
        optimizer = checkpointer.load_optimizer(self._make_optimizer(model, cfg.SOLVER.OPTIMIZER).build())
        loader = self._domain.make_train_data_loader(cfg, self._need("training data"), start_iter=checkpointer.start_iter)
        scheduler = self._make_scheduler(optimizer, cfg.SOLVER, iter_per_epoch=loader.iter_per_epoch)
        scheduler = checkpointer.load_scheduler(scheduler)
        ema = self._make_ema(model, cfg.SOLVER.EMA)
        self._have.update({"the schedule": scheduler, "the loader": loader})
        self._have["the optimizer"] = (optimizer, ema)
        text = str(scheduler.describe()).splitlines()[0]
        if scheduler.iteration > scheduler.max_iter:
            raise Doubt(f"this run is finished: {scheduler.max_iter} updates are done")
        return text

    def _update(self) -> str:
        model, (optimizer, _) = self._need("the model"), self._need("the optimizer")
        window, device = self._need("a batch"), self._need("device")
        step = setup.build_step(self._small, model, optimizer, self._domain.forward_train, device)
        gradients: dict[str, torch.Tensor | None] = {}

        def look(storage: EventStorage) -> None:
            gradients.update((name, p.grad) for name, p in model.named_parameters() if p.requires_grad)

        model.train()
        started = perf_counter()
        with EventStorage(1, 1, max_iter=1) as storage:
            metrics = step(window, look, storage)
            loss = float(metrics["total_loss"])
        seconds = perf_counter() - started
        self._have["an update"] = step
        _check_update(metrics, loss, gradients, storage.update_skipped)
        peak = f", {torch.cuda.max_memory_allocated() / _MIB:.0f} MiB at most" if device.type == "cuda" else ""
        text = f"loss {loss:.4g}; {len(window[0])} images in {seconds:.2f} s{peak}"
        _look_for_unused(text, gradients, optimizer, model, _processes() > 1 and not self._cfg.MISC.FIND_UNUSED_PARAMETERS)
        return f"{text}; gradients reach all {len(gradients)} trainable tensors"

    def _evaluation(self) -> str:
        if not self._cfg.EVAL.ENABLED or not self._cfg.TEST.DATASETS:
            return "none in this run"
        for name in self._cfg.TEST.DATASETS:
            self._need(f"the test data {name}")
        self._small.set("TEST.LIMIT", self._small.TEST.IMS_PER_GPU, "--check")
        model, device = self._need("the model"), self._need("device")
        evaluation = setup.build_evaluation(self._small, model, self._domain, device)
        self._have["the evaluation"] = evaluation
        measured = evaluation() if isinstance(evaluation, Evaluation) else None
        if measured is None:
            return "none in this run"
        shown = dict(list(measured[0].items())[:4])
        return f"{len(measured[0])} numbers from one batch, such as {results_text(shown)}"

    def _hooks(self) -> str:
        optimizer, ema = self._need("the optimizer")
        checkpointer, device = self._need("the weights"), self._need("device")
        loader, scheduler = self._need("the loader"), self._need("the schedule")
        parts = RunParts(
            self._small, self._need("the model"), optimizer, scheduler, checkpointer, loader, self._domain, device, ema
        )
        hooks = build_train_hooks(parts, self._have.get("the evaluation"))
        return ", ".join(type(hook).__name__ for hook in hooks)

    def _save_and_load(self) -> str:
        model, (optimizer, ema), step = self._need("the model"), self._need("the optimizer"), self._need("an update")
        scheduler = self._need("the schedule")
        parts = {"scaler": step, **({"ema": ema} if ema is not None else {})}
        saved = CheckPointer(self._folder / "round_trip", auto_resume=False, keep=0, meta={"config": self._cfg.dump_resolved()})
        saved.track(**parts)
        path = saved.save(model, optimizer, scheduler)
        self._have["a checkpoint"] = size = path.stat().st_size
        content = read_checkpoint(path)
        states = {"model": model, "optimizer": optimizer, "scheduler": scheduler, **parts}
        changed = [name for name, part in states.items() if not _same(part.state_dict(), content[name])]
        before = [tensor.clone() for tensor in tensors_in(model.state_dict())]
        model.load_state_dict(content["model"])
        optimizer.load_state_dict(content["optimizer"])
        if changed or not _same(before, list(tensors_in(model.state_dict()))):
            raise ValueError(f"what was read is not what was written: {', '.join(changed) or 'model'}")
        count = sum(1 for _ in tensors_in(content))
        return f"{size / _MIB:.1f} MiB, {count} tensors, bitwise equal"

    def _disk(self) -> str:
        size, scheduler, loader = self._need("a checkpoint"), self._need("the schedule"), self._need("the loader")
        folder = Path(self._cfg.MISC.CKPT)
        stored = [path for path in folder.glob("model_*") if not path.is_symlink() and path.suffix in (".pth", ".dcp")]
        there = sum(disk_size(path) for path in stored)
        count = planned_files(self._cfg, scheduler.max_iter, loader.iter_per_epoch)
        free = shutil.disk_usage(existing_parent(folder)).free
        needed = max(size * count - there, size)
        text = (
            f"{count} x {size / _MIB:.1f} MiB for checkpoints, at most {needed / _MIB:.0f} MiB more; "
            f"{free / _MIB:.0f} MiB are free"
        )
        if free < needed:
            raise OSError(text)
        if free < 2 * needed:
            raise Doubt(f"{text}, which leaves little for logs and pictures")
        return text

    def _shared_memory(self) -> str:
        world = int(os.environ.get("LOCAL_WORLD_SIZE", "1") or 1)
        workers = self._cfg.DATA.LOADER_THREADS
        if workers < 0:
            workers = self._need("the loader").num_workers // world
        shared = Path("/dev/shm")
        if not workers or not shared.is_dir():
            return "not used: no loader processes" if not workers else "not of a limited size here"
        batch = self._need("a batch")[0]
        size = sum(t.nbytes for t in tensors_in([batch.images, batch.targets])) / len(batch) * _micro_batch(self._cfg)
        needed = size * (self._cfg.DATA.PREFETCH + 1) * workers * world
        free = shutil.disk_usage(shared).free
        text = (
            f"{workers * world} workers with {self._cfg.DATA.PREFETCH} batches of {size / _MIB:.1f} MiB may take "
            f"{needed / _MIB:.0f} MiB; {free / _MIB:.0f} MiB are free"
        )
        if free < needed:
            raise OSError(text)
        return text

    def _tensorboard(self) -> str:
        from torch.utils.tensorboard import SummaryWriter

        folder = self._folder / "tensorboard_log"
        writer = SummaryWriter(str(folder))
        writer.add_scalar("check", 1.0, 1)
        writer.close()
        if not sum(path.stat().st_size for path in folder.iterdir()):
            raise OSError(f"the event file in {folder} is empty")
        return "writes"


def _remedy(name: str) -> str:
    return next(text for kind, text in _REMEDIES.items() if name.startswith(kind))


def _processes() -> int:
    return int(os.environ.get("WORLD_SIZE", "1") or 1)


def _micro_batch(cfg: CfgNode) -> int:
    """Images that one process computes at a time."""
    return max(int(cfg.TRAIN.BATCH_SIZE) // (_processes() * int(cfg.SOLVER.ACCUMULATE)), 1)


def _first(loader: Any) -> Any:
    with closing(iter(loader)) as batches:
        return next(batches)


def _describe(batch: Any) -> str:
    shape = getattr(getattr(batch, "images", None), "shape", None)
    targets = ", ".join(getattr(batch, "targets", {})) or "none"
    return f"a batch of {tuple(shape)}, targets: {targets}" if shape is not None else "a batch was read"


def _check_update(metrics: dict[str, Any], loss: float, gradients: dict[str, torch.Tensor | None], skipped: bool) -> None:
    """Refuse what is not finite; a skipped update is one of float16, whose loss scale is still falling."""
    wrong = [name for name, value in metrics.items() if not torch.isfinite(torch.as_tensor(float(value)))]
    if wrong:
        raise FloatingPointError(f"not finite in the first update: {', '.join(wrong)} (total loss {loss:g})")
    infinite = [name for name, grad in gradients.items() if grad is not None and not bool(torch.isfinite(grad).all())]
    if infinite and not skipped:
        raise FloatingPointError(f"gradients are not finite: {', '.join(infinite[:8])}")


def _look_for_unused(
    text: str, gradients: dict[str, torch.Tensor | None], optimizer: Any, model: torch.nn.Module, all_needed: bool
) -> None:
    """Name trainable parameters without a gradient (an error where ranks would wait for it), and those nobody steps."""
    unused = [name for name, grad in gradients.items() if grad is None]
    stepped = {id(p) for group in optimizer.param_groups for p in group["params"]}
    left = [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in stepped]
    problems = [
        f"{len(names)} trainable tensors {what}: {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}"
        for names, what in ((unused, "got no gradient"), (left, "are in no group of the optimizer"))
        if names
    ]
    if unused and all_needed:
        raise ValueError("\n".join([text, *problems, _WAITING]))
    if problems:
        raise Doubt("\n".join([text, *problems]))


def _same(one: Any, other: Any) -> bool:
    """Whether the tensors of two nested states have the same types, shapes and bits."""
    pairs = list(tensors_in(one)), list(tensors_in(other))
    return len(pairs[0]) == len(pairs[1]) and all(_same_bits(a.cpu(), b.cpu()) for a, b in zip(*pairs, strict=True))


def _same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    raw = (tensor.detach().contiguous().reshape(-1).view(torch.uint8) for tensor in (one, other))
    return torch.equal(*raw)


def _explain(error: Exception) -> str:
    if isinstance(error, torch.OutOfMemoryError):
        return f"{str(error).splitlines()[0]}. {setup.LESS_MEMORY}"
    return describe_error(error)
