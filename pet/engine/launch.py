"""The dispatching launcher: choose the script from the path of the YAML, check the config, start the processes.

Nothing here imports torch until a script really runs, so that a wrong command or a wrong config answers at once. One
process runs in place; several run under torch's elastic agent (``pet.engine.elastic``).
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import runpy
import shlex
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pet.config import CfgNode, ConfigError, get_base_cfg, read_domain_header
from pet.config.explain import help_config
from pet.utils.env import usable_cores
from pet.utils.suggest import did_you_mean, nearest

REPOSITORY = Path(__file__).resolve().parents[2]
EXIT_OK, EXIT_FAILED, EXIT_USAGE = 0, 1, 2
GROUPS = ("vision", "tasks", "projects")
DEFAULT_CFG = "cfgs/vision/mscoco/e2e_faster_rcnn_R-50-FPN_1x.yaml"  # as in the tutorial of Pet

# A word such as SOLVER.OPTIMIZER.BASE_LR or SOLVER.OPTIMIZER.BASE_LR=0.1, as against a path.
_KEY = re.compile(r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)+(=.*)?", re.DOTALL)


class UsageError(ValueError):
    """The command is wrong; nothing was started."""


@dataclass(frozen=True)
class Plan:
    """Where and how the processes of a run are started.

    Attributes:
        nproc: processes on this node.
        gpus: values for ``CUDA_VISIBLE_DEVICES``; empty: the CPU computes; ``None``: leave the variable alone.
        nnodes, node_rank: number of nodes, and which of them this is.
        master_addr, master_port: where the ranks meet; port 0 lets the operating system choose.
        max_restarts: how often a failed group of processes is started again.
        grace_s: seconds a process may take to save and leave after a signal before it is killed.
    """

    nproc: int = 1
    gpus: tuple[str, ...] | None = None
    nnodes: int = 1
    node_rank: int = 0
    master_addr: str = "127.0.0.1"
    master_port: int = 0
    max_restarts: int = 0
    grace_s: int = 60


# ------------------------------------------------------------------------------------------------------ routing


def find_domain(cfg_path: str | Path, type: str | None = None) -> str | None:
    """The domain a YAML belongs to by the components of its path: ``vision``, ``tasks/<t>`` or ``projects/<p>``.

    The components behind the last ``cfgs`` or ``ckpts`` folder decide. A given ``type`` looks for its own name
    anywhere in the path instead, the last one first. ``None`` if the path does not say.

    Example:
        >>> find_domain("cfgs/tasks/cls/MNIST/lenet5.yaml")
        'tasks/cls'
        >>> find_domain("somewhere/vision_notes/x.yaml") is None
        True
    """
    folders = Path(os.path.abspath(cfg_path)).parts[:-1]
    if type == "vision":
        return type
    if type is not None:
        starts = [i for i, name in enumerate(folders) if name == type]
    else:
        starts = [i + 1 for i, name in enumerate(folders) if name in ("cfgs", "ckpts")]
    for start in reversed(starts):
        if folders[start : start + 1] == ("vision",):
            return "vision"
        if len(folders) > start + 1 and folders[start] in GROUPS:
            return f"{folders[start]}/{folders[start + 1]}"
    return None


def find_training_script(
    cfg_path: str | Path, type: str | None = None, name: str = "train_net.py", root: Path = REPOSITORY
) -> tuple[str, Path]:
    """The domain of a YAML and the script that runs it.

    Args:
        cfg_path: the YAML; if its path does not say which domain it belongs to, its first line may (the launcher's
            runs write such a line into ``config.yaml``).
        type: ``vision``, ``tasks`` or ``projects`` to overrule the path; ``None`` and ``"none"``: the path decides.
        name: file name of the script.
        root: folder that holds ``tools/``.

    Raises:
        UsageError: no such YAML, no domain, or no script for it; the text lists what exists.
    """
    type = None if type in (None, "none", "None") else type
    if type is not None and type not in GROUPS:
        raise UsageError(f"--type is '{type}'; allowed: {', '.join(GROUPS)}.{did_you_mean(type, GROUPS)}")
    if not Path(cfg_path).is_file():
        raise UsageError(_missing_yaml(Path(cfg_path), root))
    domain = find_domain(cfg_path, type) or (read_domain_header(cfg_path) if type is None else None)
    scripts = {path.parent.relative_to(root / "tools").as_posix(): path for path in sorted((root / "tools").rglob(name))}
    if domain in scripts:
        return domain, scripts[domain]
    existing = "\n".join(f"  cfgs/{found}/...  ->  {path.relative_to(root)}" for found, path in scripts.items()) or "  none"
    unclear = f"--type {type} needs a folder {type}/<name> in its path" if type else "the path does not say which script runs it"
    what = f"there is no tools/{domain}/{name}" if domain else unclear
    remedy = "" if type else ", or say with --type which of the folders in its path counts"
    raise UsageError(
        f"cannot run {cfg_path}: {what}.{did_you_mean(domain or '', scripts)} The scripts that exist:\n{existing}\n"
        f"Move the YAML under one of these folders{remedy}"
    )


def _missing_yaml(path: Path, root: Path) -> str:
    """Message for a YAML that does not exist, with the nearest that do."""
    candidates = {os.path.relpath(p): p for folder in (root / "cfgs", path.parent) for p in folder.glob("**/*.y*ml")}
    similar = nearest(os.path.relpath(path), candidates, cutoff=0.5)
    similar += [name for name in candidates if Path(name).stem == path.stem and name not in similar]
    hint = " Did you mean:\n" + "\n".join(f"  {name}" for name in similar[:3]) if similar else ""
    return f"{path} {'is not a file' if path.exists() else 'does not exist'} (working folder {os.getcwd()}).{hint}"


# ------------------------------------------------------------------------------------------------------ devices


def visible_gpus() -> list[str]:
    """The GPUs this process may use, as values for ``CUDA_VISIBLE_DEVICES``; found without torch or a CUDA context."""
    count = _count_nvidia_gpus()
    limit = os.environ.get("CUDA_VISIBLE_DEVICES")
    everything = [str(i) for i in range(count)]
    if limit is None:
        return everything
    return [name.strip() for name in limit.split(",") if name.strip() and name.strip() != "-1"] if count else []


def _count_nvidia_gpus() -> int:
    import ctypes

    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return 0
    count = ctypes.c_uint(0)
    if nvml.nvmlInit_v2() != 0 or nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
        return 0
    nvml.nvmlShutdown()
    return count.value


def choose_devices(gpu_id: str | None, nproc: int | None, visible: Sequence[str]) -> tuple[int, tuple[str, ...]]:
    """Number of processes and the GPUs they use; no GPUs means the CPU.

    Args:
        gpu_id: ``"0,1"`` (positions among the visible GPUs), ``"cpu"``, or ``None`` for every visible GPU.
        nproc: number of processes; ``None``: one for each GPU, or one on the CPU.
        visible: what ``visible_gpus`` returned.
    """
    if nproc is not None and nproc < 1:
        raise UsageError(f"--nproc is {nproc}; it must be at least 1")
    if gpu_id == "cpu" or (gpu_id is None and not visible):
        return nproc or 1, ()
    if gpu_id is None:
        chosen = list(visible[:nproc])
    else:
        chosen = _parse_gpu_ids(gpu_id, visible)
    if nproc is not None and nproc != len(chosen):
        raise UsageError(
            f"--nproc {nproc} does not fit {len(chosen)} GPUs ({','.join(chosen)}); each process needs one of its own"
        )
    return len(chosen), tuple(chosen)


def _parse_gpu_ids(gpu_id: str, visible: Sequence[str]) -> list[str]:
    words = [word.strip() for word in gpu_id.split(",") if word.strip()]
    if not words or not all(word.isdecimal() for word in words):
        raise UsageError(f"--gpu_id is '{gpu_id}'; allowed: numbers with commas such as 0,1, or cpu")
    if not visible:
        raise UsageError(f"--gpu_id {gpu_id}: there is no GPU here that can be used; for N processes on the CPU write --nproc N")
    ids = [int(word) for word in words]
    if len(set(ids)) != len(ids):
        raise UsageError(f"--gpu_id {gpu_id} names a GPU twice")
    absent = [str(i) for i in ids if i >= len(visible)]
    if absent:
        raise UsageError(f"--gpu_id {gpu_id}: there is no GPU {', '.join(absent)}; allowed: 0 to {len(visible) - 1}")
    return [visible[i] for i in ids]


# ---------------------------------------------------------------------------------------------------- preflight


def config_options(arguments: Sequence[str]) -> list[str]:
    """The ``KEY VALUE`` and ``KEY=VALUE`` words among the arguments of a script, in order, ``--cfg-options`` included.

    With a flag that no script of Pet knows the words cannot be told apart; then none is returned and the script decides.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False, argument_default=argparse.SUPPRESS)
    for flag in ("--work-dir", "--load-from", "--resume-from", "--seed", "--launcher", "--local_rank", "--local-rank", "--out"):
        parser.add_argument(flag)
    for flag in ("--amp", "--auto-scale-lr", "--auto-resume", "--no-validate", "--deterministic"):
        parser.add_argument(flag, action="store_true")
    for flag in ("--eval", "--metrics"):
        parser.add_argument(flag, nargs="+")
    parser.add_argument("--resume", nargs="?")
    parser.add_argument("--cfg-options", "--options", nargs="+", action="extend", dest="opts", default=[])
    parser.add_argument("words", nargs="*", default=[])
    try:
        known, unknown = parser.parse_known_intermixed_args(separate_resume(arguments))
    except argparse.ArgumentError:
        return []
    return [] if unknown else [*known.words, *known.opts]


def is_config_word(word: str) -> bool:
    """Whether a word is a config key or ``KEY=VALUE``."""
    return _KEY.fullmatch(word) is not None


def separate_resume(arguments: Sequence[str]) -> list[str]:
    """Keep ``--resume KEY VALUE`` from taking the key for a path: ``--resume`` becomes ``--resume=`` before a key."""
    words = list(arguments)
    for place, after in enumerate(words[1:]):
        if words[place] == "--resume" and _KEY.fullmatch(after):
            words[place] = "--resume="
    return words


def check_config(domain: str, cfg_file: str | Path, options: Sequence[str]) -> CfgNode:
    """The finished config of a domain; all problems of the file and the options in one ``ConfigError``."""
    module = importlib.import_module(f"pet.{domain.replace('/', '.')}.config")
    cfg: CfgNode = module.get_base_cfg()
    cfg.merge_from_file(cfg_file)
    cfg.merge_from_list(list(options))
    module.infer_cfg(cfg, cfg_file)
    return cfg


def check_shares(cfg: CfgNode, nproc: int) -> None:
    """Refuse a training batch that the processes cannot share equally."""
    batch, parts = cfg.TRAIN.BATCH_SIZE, nproc * cfg.SOLVER.ACCUMULATE
    if batch % parts:
        raise UsageError(
            f"TRAIN.BATCH_SIZE is {batch} ({cfg.origin('TRAIN.BATCH_SIZE')}); {nproc} processes with SOLVER.ACCUMULATE "
            f"{cfg.SOLVER.ACCUMULATE} can only share a multiple of {parts}, e.g. {-(-batch // parts) * parts}"
        )


# ------------------------------------------------------------------------------------------------------ running


def run_script(path: str | Path, arguments: Sequence[str]) -> None:
    """Run a script in this process as ``python path arguments`` would."""
    sys.argv = [str(path), *arguments]
    sys.path.insert(0, str(Path(path).parent))
    runpy.run_path(str(path), run_name="__main__")


def prepare_environment(plan: Plan, root: Path = REPOSITORY) -> None:
    """Set what the processes of a run need to find: GPUs, threads, and the ``pet`` package."""
    if plan.gpus is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(plan.gpus)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // plan.nproc)))
    if "OMP_WAIT_POLICY" not in os.environ:
        # Waiting threads spin on their core; where loader workers or other programs want it, updates took three to ten times as
        # long.
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    known = os.environ.get("PYTHONPATH", "")
    if str(root) not in known.split(os.pathsep):
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(root), known)))


def check_port(plan: Plan) -> None:
    """Refuse a port that the user fixed and something else holds."""
    if plan.master_port == 0 or plan.node_rank != 0:
        return
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((plan.master_addr, plan.master_port))
        except OSError as error:
            raise UsageError(
                f"--master-port {plan.master_port} cannot be used on {plan.master_addr}: {error.strerror}. "
                "Leave the option out to let the operating system choose a free port"
            ) from error


def launch(script: Path, arguments: Sequence[str], plan: Plan) -> int:
    """Run a script on the processes of ``plan``; the exit status."""
    prepare_environment(plan)
    if plan.nproc * plan.nnodes == 1:
        run_script(script, arguments)
        return EXIT_OK
    from pet.engine.elastic import run_processes

    return run_processes(script, arguments, plan)


def _parser(name: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        description=f"Run the {name} that the path of the YAML selects, on one or several processes.",
        epilog="Everything else goes to that script: its flags (--work-dir, --resume, --load-from, --amp, --seed, ...) and "
        "config overrides as KEY VALUE or KEY=VALUE. Exit status: 0 done, 1 the run failed, 2 the command or the config "
        "is wrong, 128+N stopped by signal N after a good checkpoint.",
    )
    add = parser.add_argument
    add("--cfg", metavar="FILE", help=f"YAML of the experiment; default: {DEFAULT_CFG}")
    add("--gpu_id", "--gpu-id", metavar="IDS", help="GPUs such as 0,1, or cpu; default: every visible GPU, else the CPU")
    add("--nproc", type=int, metavar="N", help="number of processes; default: one for each GPU, one on the CPU")
    add("--type", metavar="KIND", help="vision, tasks or projects; default: from the path of the YAML")
    add("--master-port", "--master_port", type=int, default=0, metavar="PORT", help="port to meet at; default: a free one")
    add("--grace-period", type=int, default=60, metavar="S", help="seconds to save and leave after a signal; default: 60")
    add("--explain", metavar="KEY", help="print the value of a config key and where it was set, then stop")
    add("--help-config", nargs="?", const="", metavar="PREFIX", help="print the config keys below PREFIX, then stop")
    return parser


def main(arguments: Sequence[str] | None = None, name: str = "train_net.py", root: Path = REPOSITORY) -> int:
    """The launcher as a command; returns its exit status.

    Args:
        arguments: the command line without the program; ``None``: that of this process.
        name: which script of a domain to run, ``train_net.py`` or ``test_net.py``.
        root: folder that holds ``tools/``.
    """
    args, rest = _parser(name).parse_known_args(arguments)
    try:
        if args.cfg is None and args.help_config is not None:
            print(help_config(get_base_cfg(), args.help_config))
            return EXIT_OK
        cfg_file = args.cfg or os.path.relpath(root / DEFAULT_CFG)
        domain, script = find_training_script(cfg_file, args.type, name, root)
        cfg = check_config(domain, cfg_file, config_options(rest))
        if args.explain is not None or args.help_config is not None:
            print(cfg.explain(args.explain) if args.explain is not None else help_config(cfg, args.help_config))
            return EXIT_OK
        on_cpu = args.gpu_id is None and cfg.MISC.DEVICE == "cpu"
        nproc, gpus = choose_devices("cpu" if on_cpu else args.gpu_id, args.nproc, visible_gpus())
        if name == "train_net.py":
            check_shares(cfg, nproc)
        plan = Plan(nproc, gpus, master_port=args.master_port, grace_s=args.grace_period)
        check_port(plan)
    except (UsageError, ConfigError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return EXIT_USAGE
    # What a stopped run prints as the command that continues it.
    os.environ["PET_COMMAND"] = shlex.join(["python", *sys.argv])
    return launch(script, ["--cfg", cfg_file, *rest], plan)
