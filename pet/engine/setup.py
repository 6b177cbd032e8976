"""What the scripts of all domains share: config, environment, distribution, exit status."""

from __future__ import annotations

import argparse
import json
import logging
import os
import shlex
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import nn

from pet.config import CfgNode, domain_header, read_domain_header
from pet.config.explain import help_config
from pet.engine import events, interruption, overfit, plan, requeue
from pet.engine.arguments import UsageError, build_cfg, is_config_word, overrides, parse_args
from pet.engine.arguments import add_train_arguments as add_train_arguments
from pet.engine.arguments import default_argument_parser as default_argument_parser
from pet.engine.checkpointer import CheckPointer, get_weights, read_resumable
from pet.engine.evaluation import Evaluation, EvaluationSet
from pet.engine.events import EventStorage
from pet.engine.heartbeat import open_pulse
from pet.engine.launch import EXIT_FAILED, EXIT_OK, EXIT_USAGE, find_domain
from pet.engine.ranks import adopt_launcher, rank_in_environment
from pet.engine.record import close_record, open_record
from pet.engine.resume import report_config_changes
from pet.engine.step import SkipPolicy, TrainStep, make_clip
from pet.utils import comm, env
from pet.utils.files import atomic_json, atomic_text
from pet.utils.findings import InputError
from pet.utils.logger import LOGGER, log_file, logging_rank, setup_logging
from pet.utils.rendezvous import MeetingError
from pet.utils.rng import seed_everything
from pet.utils.suggest import did_you_mean

_ARCHIVED = (
    *("metrics.json", "classes.json", "best.json", "finished.json", "run.json", "report.html"),
    *("tensorboard_log", "vis", "config.yaml", "log", "test"),
)

# A mistake that all ranks find is told once: rank 0 ends first, and whoever started the ranks then stops the others.
_RANK_0_FIRST_S = 5.0

LESS_MEMORY = (
    "The device has too little memory. Raise SOLVER.ACCUMULATE (the same batch in smaller parts), lower TRAIN.BATCH_SIZE, "
    "TEST.IMS_PER_GPU or the size of the pictures, or set SOLVER.AMP.ENABLED True"
)


# ------------------------------------------------------------------------------------------- command line and config


def load_cfg(
    args: argparse.Namespace, get_base_cfg: Callable[[], CfgNode], infer_cfg: Callable[[CfgNode, str | Path], CfgNode]
) -> CfgNode:
    """The frozen config: defaults < YAML < command line. ``--explain`` and ``--help-config`` are answered here."""
    cfg = build_cfg(get_base_cfg, infer_cfg, args.cfg, overrides(args), args)
    if getattr(args, "dry_run", False):
        plan.use_scratch_folder(cfg)
    requeue.continue_own_run(cfg)
    cfg.freeze()
    if args.explain is not None or args.help_config is not None:
        print(cfg.explain(args.explain) if args.explain is not None else help_config(cfg, args.help_config))
        raise SystemExit(EXIT_OK)
    return cfg


# -------------------------------------------------------------------------------------------------------- environment


def default_setup(cfg: CfgNode, args: argparse.Namespace, mode: str = "train") -> torch.device:
    """Device, process group, folder, log, seed and the first page of the log; returns the device."""
    if mode == "test":
        get_weights(cfg.MISC.CKPT, cfg.TEST.WEIGHTS)  # nothing to test: say so before a folder is made
    elif cfg.TRAIN.RESUME_FROM:
        read_resumable(cfg.TRAIN.RESUME_FROM)  # before an earlier run in the folder is moved aside
    warning = requeue.describe_requeue(cfg) if mode == "train" else ""
    adopt_launcher(args.launcher, args.dist_port)
    if args.local_rank:
        os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    device = choose_device(cfg.MISC.DEVICE)
    comm.init_distributed(device, cfg.MISC.DIST_TIMEOUT, cfg.MISC.RDZV_TIMEOUT)
    open_pulse(["what comes before the training"], comm.timeout_s())
    folder = Path(cfg.MISC.CKPT)
    _prepare_together(folder, keep=mode != "train" or _continues_run_in(folder, cfg.TRAIN))
    log = None if cfg.MISC.DRY_RUN else folder / "log" / f"{mode}_{time.strftime('%Y%m%d_%H%M%S')}_{os.getpid()}.txt"
    setup_logging(log)
    seed_everything(cfg.MISC.SEED, comm.get_rank())
    if cfg.MISC.DETERMINISTIC:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = cfg.MISC.CUDNN and not cfg.MISC.DETERMINISTIC
    _log_first_page(cfg, device, folder, mode)
    if warning:
        logging_rank(warning)
    return device


def write_config(cfg: CfgNode, args: argparse.Namespace, data_report: str = "") -> None:
    """``<CKPT>/config.yaml``: all values; running it again repeats the run, wherever the file is moved. ``run.json``: this start.

    Args:
        cfg: of the run.
        args: of the command line.
        data_report: text about the training data.
    """
    if not comm.is_main_process():
        return
    folder = Path(cfg.MISC.CKPT)
    domain = find_domain(args.cfg) or read_domain_header(args.cfg) or _domain_of_script()
    atomic_text(folder / "config.yaml", cfg.dump_resolved(domain_header(domain, args.cfg)))
    start = {
        "command": env.command(),
        "starters": [*requeue.starters()],
        "log": os.path.relpath(log_file(), folder) if log_file() else "",
        "environment": _describe_environment(cfg, choose_device(cfg.MISC.DEVICE), folder),
        "changed": [[key, repr(default), repr(value), origin] for key, default, value, origin in cfg.diff_from_defaults()],
        "data": data_report,
    }
    open_record(folder, start)


def _domain_of_script() -> str:
    """The domain whose script runs, e.g. ``tasks/cls`` for ``tools/tasks/cls/train_net.py``."""
    folders = Path(sys.argv[0]).resolve().parts[:-1]
    return "/".join(folders[len(folders) - folders[::-1].index("tools") :]) if "tools" in folders else "unknown"


def choose_device(name: str) -> torch.device:
    """The device of this process: ``auto`` takes CUDA, then MPS, then the CPU; a rank takes the GPU of its local rank."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, usable in available.items() if usable)
    if not available[name]:
        usable = ", ".join(kind for kind, here in available.items() if here)
        raise ValueError(f"MISC.DEVICE is {name}, which cannot be used on this machine; usable: {usable}")
    if name != "cuda":
        return torch.device(name)
    local_rank, count = comm.get_local_rank(), torch.cuda.device_count()
    if count == 1 and "TORCHELASTIC_RUN_ID" not in os.environ:
        local_rank = 0  # Slurm and MPI can show each process a GPU of its own; torchrun shows all of them to every process
    if local_rank >= count:
        raise ValueError(f"process {local_rank} of this machine has no GPU of its own: {count} are visible")
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def _continues_run_in(folder: Path, train: CfgNode) -> bool:
    """Whether a run in the folder goes on; one that begins with the checkpoint of another folder does not continue it."""
    if train.RESUME_FROM:
        return Path(train.RESUME_FROM).resolve().parent == folder.resolve()
    return bool(train.AUTO_RESUME)


def _prepare_together(folder: Path, keep: bool) -> None:
    """Rank 0 prepares the folder; its error is raised on every rank, because the others would wait for it."""
    problem: OSError | None = None
    if comm.is_main_process():
        try:
            prepare_folder(folder, keep)
        except OSError as error:
            problem = error
    text = comm.broadcast(str(problem) if problem else "")
    if text:
        raise problem or OSError(text)


def prepare_folder(folder: Path, keep: bool) -> None:
    """Make the folder of the run and prove that it can be written; without ``keep`` an earlier run in it is moved aside."""
    try:
        (folder / "log").mkdir(parents=True, exist_ok=True)
        probe = folder / "log" / f".probe-{os.getpid()}"
        probe.write_bytes(b"pet")
        probe.unlink()
    except OSError as error:
        lost = folder.is_symlink() and not folder.exists()
        reason = f"it is a link to {os.readlink(folder)}, which does not exist" if lost else error.strerror
        raise type(error)(
            error.errno,
            f"the folder of the run cannot be used: {folder}: {reason}. Set MISC.CKPT or --work-dir to a writable folder",
        ) from error
    earlier = [*folder.glob("model_*.pth*"), *folder.glob("model_*.dcp")]
    earlier += [folder / name for name in _ARCHIVED if (folder / name).exists()]
    if keep or not any(path.suffix == ".pth" for path in earlier):
        return
    aside = folder / f"previous_{time.strftime('%Y%m%d_%H%M%S')}"
    aside.mkdir()
    for path in earlier:
        os.replace(path, aside / path.name)
    (folder / "log").mkdir()
    LOGGER.warning(f"{folder} held an earlier run, which is not continued; it is now in {aside}")


def _describe_environment(cfg: CfgNode, device: torch.device, folder: Path) -> list[str]:
    """Versions, machine, processes and precision, a line each."""
    lines = env.describe_machine(folder)
    name = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
    world, threads = comm.get_world_size(), torch.get_num_threads()
    processes = f"{world} process{'es' if world > 1 else ''} on {device.type}{name}"
    lines.append(f"{processes}, {threads} thread{'s' if threads > 1 else ''} each; folder {folder}")
    amp = amp_dtype(cfg, device)
    scaler = ", loss scaling" if amp == torch.float16 else ""
    lines.append(f"Precision: {str(amp or torch.float32).removeprefix('torch.')}{scaler}; seed {cfg.MISC.SEED}")
    if device.type == "cuda":
        lines.append(f"TF32: {torch.backends.cuda.matmul.allow_tf32}")
    return lines


def _log_first_page(cfg: CfgNode, device: torch.device, folder: Path, mode: str) -> None:
    lines = [f"Command: {env.command()}", *_describe_environment(cfg, device, folder)]
    rate = cfg.origin("SOLVER.OPTIMIZER.BASE_LR")
    if rate.startswith("--auto-scale-lr"):
        lines.append(rate)
    changed = [f"  {key} = {value!r}  ({origin})" for key, _, value, origin in cfg.diff_from_defaults()]
    places = [str(log_file() or ""), "config.yaml" if mode == "train" and not cfg.MISC.DRY_RUN else ""]
    where = " and in ".join(filter(None, places))
    told = f"they are in {where}" if where else "--explain KEY says where one was set"
    lines.append(f"{len(changed)} config values differ from the defaults; {told}")
    logging_rank("\n".join(lines))
    logging_rank("Config, where it differs from the defaults:\n" + "\n".join(changed), logging.DEBUG)


def log_analysis(cfg: CfgNode, domain: Any, model: nn.Module) -> None:
    """Parameters, FLOPs and activations, as ANALYSER wants them."""
    if cfg.ANALYSER.ENABLED and comm.is_main_process():
        logging_rank(domain.Analyser(cfg, model, param_details=cfg.ANALYSER.DETAILS).describe())


def amp_dtype(cfg: CfgNode, device: torch.device) -> torch.dtype | None:
    """Type for autocast, ``None`` for float32."""
    if not cfg.SOLVER.AMP.ENABLED:
        return None
    if cfg.SOLVER.AMP.DTYPE != "auto":
        return torch.bfloat16 if cfg.SOLVER.AMP.DTYPE == "bfloat16" else torch.float16
    # GPUs before Ampere emulate bfloat16, which is slower than float32.
    has_bfloat16 = device.type == "cpu" or (device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False))
    return torch.bfloat16 if has_bfloat16 else torch.float16


# ------------------------------------------------------------------------------------------------------------ training


def build_checkpointer(cfg: CfgNode) -> CheckPointer:
    """The CheckPointer of a run; config and versions go into every checkpoint, the script adds the class names."""
    meta = {"config": cfg.dump_resolved(), "versions": env.package_versions()}
    checkpointer = CheckPointer(
        cfg.MISC.CKPT,
        weights_path=cfg.TRAIN.WEIGHTS,
        auto_resume=cfg.TRAIN.AUTO_RESUME,
        resume_from=cfg.TRAIN.RESUME_FROM,
        keep=cfg.SOLVER.SNAPSHOT_KEEP,
        allow_mismatch=cfg.TRAIN.ALLOW_MISMATCH,
        meta=meta,
        asynchronous=cfg.SOLVER.SNAPSHOT_ASYNC,
        share_buffers=cfg.MISC.PARALLEL.BUFFERS != "none",
    )
    if checkpointer.resume:
        overfit.check_resumed(cfg, checkpointer.checkpoint["meta"]["config"])
        report_config_changes(cfg, checkpointer.checkpoint["meta"]["config"])
    elif cfg.origin("TRAIN.AUTO_RESUME") == "--resume":
        LOGGER.warning(f"--resume: there is no checkpoint in {cfg.MISC.CKPT} to continue from; this run begins with update 1")
    return checkpointer


def build_step(
    cfg: CfgNode, model: nn.Module, optimizer: torch.optim.Optimizer, forward_train: Any, device: torch.device
) -> TrainStep:
    """The TrainStep that the config describes."""
    clip, guard = cfg.SOLVER.OPTIMIZER.CLIP_GRADIENTS, cfg.SOLVER.NON_FINITE
    return TrainStep(
        model,
        optimizer,
        forward_train,
        device=device,
        amp_dtype=amp_dtype(cfg, device),
        init_scale=cfg.SOLVER.AMP.INIT_SCALE,
        clip=make_clip(clip.CLIP_TYPE, clip.CLIP_VALUE, clip.NORM_TYPE) if clip.ENABLED else None,
        skip=SkipPolicy(guard.MAX_SKIPS, guard.MAX_SKIPS_PER_1000) if guard.POLICY == "skip" else None,
    )


def build_evaluation(cfg: CfgNode, model: nn.Module, domain: Any, device: torch.device) -> Evaluation | None:
    """What is measured during training: every data set of TEST.DATASETS by itself; ``None`` if nothing is.

    Args:
        domain: a module with build_dataset, make_test_data_loader, build_evaluator, build_visualizer, forward_test.
    """
    if not cfg.EVAL.ENABLED or not cfg.TEST.DATASETS:
        return None
    sets = []
    for name in cfg.TEST.DATASETS:
        dataset = domain.build_dataset(cfg, is_train=False, names=(name,))
        evaluator = domain.build_evaluator(cfg, dataset)
        visualizer = partial(domain.build_visualizer, cfg, dataset, evaluator) if cfg.VIS.ENABLED else None
        sets.append(EvaluationSet(name, domain.make_test_data_loader(cfg, dataset), evaluator, visualizer))
    _check_best(cfg.EVAL.BEST.METRIC, sets)
    share_buffers = cfg.MISC.PARALLEL.BUFFERS != "none"
    return Evaluation(model, sets, domain.forward_test, device, amp_dtype(cfg, device), share_buffers)


def _check_best(metric: str, sets: Sequence[EvaluationSet]) -> None:
    """A metric that nobody measures would end the run after its first evaluation; evaluators may tell what they return."""
    told = [(part.name, getattr(part.evaluator, "result_names", None)) for part in sets]
    if not metric or any(names is None for _, names in told):
        return
    known = {f"{data}/{name}" for data, names in told if names is not None for name in names()}
    allowed = sorted(known | {name.rpartition("/")[2] for name in known})
    if metric not in allowed:
        raise ValueError(
            f"EVAL.BEST.METRIC is '{metric}', which no evaluation returns.{did_you_mean(metric, allowed)} "
            f"Allowed: {', '.join(allowed) or 'nothing; EVAL.METRICS is empty'}"
        )


def horizon(cfg: CfgNode, scheduler: Any) -> dict[str, int]:
    """Length of the run, as arguments for EventStorage."""
    return {
        "max_iter": scheduler.max_iter,
        "iter_per_epoch": scheduler.iter_per_epoch,
        "stop_check_period": cfg.MISC.STOP_CHECK_ITER,
    }


# ------------------------------------------------------------------------------------------------------ start and end


def is_finished(cfg: CfgNode, scheduler: Any) -> bool:
    """Whether the folder holds a run that reached its end; says so."""
    try:
        record = json.loads((Path(cfg.MISC.CKPT) / "finished.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    if record["next"] != scheduler.iteration or record["max_iter"] != scheduler.max_iter:
        return False
    logging_rank(
        f"This run is finished ({record['reason']}); nothing to do. A longer one: raise SOLVER.SCHEDULER.TOTAL_EPOCHS "
        "or TOTAL_ITERS"
    )
    return True


def finish(
    cfg: CfgNode, storage: EventStorage, scheduler: Any, report_run: Callable[[CfgNode], None] = lambda cfg: None
) -> int:
    """Say how the run ended and return its exit status.

    Args:
        cfg, storage, scheduler: of the run.
        report_run: called after everything else is on disk, also when the run was stopped.
    """
    if cfg.MISC.DRY_RUN:
        return EXIT_OK
    status = storage.stop.status if storage.stop is not None else EXIT_OK
    reason = storage.stop.reason if storage.stop is not None else f"{storage.last_update} updates done"
    folder = Path(cfg.MISC.CKPT)
    if comm.is_main_process() and not status:
        record = {"reason": reason, "next": scheduler.iteration, "max_iter": scheduler.max_iter}
        atomic_json(folder / "finished.json", record)
    ending = {"status": "stopped" if status else "finished", "reason": reason, "updates": storage.last_update}
    close_record(folder, {**ending, "seconds": storage.loop_seconds, "hooks": storage.hook_seconds})
    if storage.stop is not None and status:
        requeue.requeue_after(storage.stop, cfg)
    report_run(cfg)
    if status:
        logging_rank(f"Saved update {storage.last_update}. {resume_hint()}")
        logging_rank(f"Not finished: {reason}")
        # Whoever started the ranks stops all of them when the first leaves with such a status.
        comm.broadcast(None, patient=True)
        return status
    if cfg.DATA.OVERFIT_BATCHES and comm.is_main_process():
        logging_rank(overfit.verdict(cfg))
    logging_rank(f"Finished: {reason}. Everything is in {cfg.MISC.CKPT}")
    return EXIT_OK


def resume_hint() -> str:
    """The command that continues this run from its newest checkpoint, whatever file ``--resume`` named before."""
    words = shlex.split(env.command())
    kept = []
    for before, word in zip(["", *words], words, strict=False):
        names_file = before == "--resume" and not word.startswith("-") and not is_config_word(word)
        if not names_file and word.partition("=")[0] != "--resume":
            kept.append(word)
    return f"Continue with: {shlex.join([*kept, '--resume'])}"


def run_main(main: Callable[[argparse.Namespace], int], parser: argparse.ArgumentParser) -> NoReturn:
    """Run a script's ``main`` and leave with the documented status.

    0 done; 1 the run failed; 2 the command, the config or the data are wrong and nothing was started; 128 + N stopped by
    signal N after a checkpoint.
    """
    try:
        args = parse_args(parser)
    except UsageError as error:
        sys.exit(_report_wrong_start(error))
    status = EXIT_FAILED
    try:
        status = main(args)
    except MeetingError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
    except InputError as error:
        status = _report_wrong_input(error) if events.started() else _report_wrong_start(error)
    except (ValueError, TypeError, KeyError, OSError, ImportError) as error:
        if events.started():
            _record_failure(error)
            raise
        status = _report_wrong_start(error)
    except KeyboardInterrupt:
        running = events.started()
        LOGGER.error(f"interrupted during the {running}" if running else "interrupted before the start; nothing was changed")
        status = 128 + signal.SIGINT
    except Exception as error:
        if env.is_out_of_memory(error) and not any("memory ran out" in note for note in getattr(error, "__notes__", ())):
            error.add_note(LESS_MEMORY)
        if events.started():
            _record_failure(error)
        raise
    finally:
        plan.remove_scratch_folders()
        interruption.release()
    # Not after an exception: the others would notice at once, and what they say about it be recorded before its cause.
    comm.shutdown_distributed()
    sys.exit(status)


def _record_failure(error: Exception) -> None:
    """The traceback in the log file; of a training, also the cause in ``run.json``, and on the console how to go on."""
    LOGGER.debug("%s", "".join(traceback.format_exception(error)))
    if events.started() != "training":
        return
    if log_file():
        with suppress(OSError):  # a full disk, which is often the first error, must not hide it
            close_record(Path(log_file()).parents[1], {"status": "failed", "reason": f"{type(error).__name__}: {error}"})
    logging_rank(resume_hint())


def _report_wrong_input(error: InputError) -> int:
    """The run has failed because of a file: no fault of the program, so the console shows no traceback."""
    _record_failure(error)
    print(f"error: {error}", file=sys.stderr, flush=True)
    if log_file():
        print(f"Traceback: {log_file()}", file=sys.stderr, flush=True)
    return EXIT_FAILED


def _report_wrong_start(error: Exception) -> int:
    """Something is wrong before the first update: the message on the console, the traceback in the log file."""
    LOGGER.debug("%s", "".join(traceback.format_exception(error)))
    message = error.args[0] if isinstance(error, KeyError) and error.args else error
    if rank := rank_in_environment():
        time.sleep(_RANK_0_FIRST_S)
        message = f"rank {rank}: {message}"
    print(f"error: {message}", file=sys.stderr, flush=True)
    where = f" Traceback: {log_file()}" if log_file() else ""
    print(f"Nothing was started.{where}", file=sys.stderr, flush=True)
    return EXIT_USAGE
