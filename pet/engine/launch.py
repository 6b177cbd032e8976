"""The dispatching launcher: choose the script from the path of the YAML, check the config, start the processes.

Nothing here imports torch until a script really runs, so that a wrong command or a wrong config answers at once. One
process runs in place; several run under torch's elastic agent (``pet.engine.elastic``).
"""

from __future__ import annotations

import argparse
import importlib
import os
import runpy
import shlex
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pet.config import CfgNode, ConfigError, get_base_cfg, read_domain_header
from pet.config.explain import help_config
from pet.engine import interruption
from pet.engine.arguments import (
    ScriptParser,
    UsageError,
    add_test_arguments,
    add_train_arguments,
    build_cfg,
    check_args,
    check_windows,
    default_argument_parser,
    overrides,
    parse_known,
)
from pet.engine.arguments import is_config_word as is_config_word
from pet.engine.config_names import missing_config
from pet.utils.env import usable_cores
from pet.utils.suggest import did_you_mean

REPOSITORY = Path(__file__).resolve().parents[2]
_CHECKPOINTS = (".pth", ".pt", ".safetensors")
EXIT_OK, EXIT_FAILED, EXIT_USAGE = 0, 1, 2
GROUPS = ("vision", "tasks", "projects")
_EPILOG = (
    "Exit status: 0 done, 1 the run failed, 2 the command or the config is wrong, 128+N stopped by signal N after a good "
    "checkpoint."
)
_FIXED_PORT = 29500
_PORT_HELP = f"default: a free one; {_FIXED_PORT} on several nodes"
DEFAULT_CFG = "cfgs/vision/mscoco/e2e_faster_rcnn_R-50-FPN_1x.yaml"  # as in the tutorial of Pet


@dataclass(frozen=True)
class Plan:
    """Where and how the processes of a run are started.

    Attributes:
        nproc: processes on this node.
        gpus: values for ``CUDA_VISIBLE_DEVICES``; empty: the CPU computes; ``None``: leave the variable alone.
        nnodes, node_rank: number of nodes, and which of them this is.
        master_addr, master_port: where the ranks meet; port 0 lets the operating system choose.
        rdzv_timeout_s: seconds to wait until all nodes have come.
        max_restarts: how often a failed group of processes is started again.
        grace_s: seconds a process may take to save and leave after a signal before it is killed.
        agent: start even a single process as a child of the agent, because the user asked for a launcher.
    """

    nproc: int = 1
    gpus: tuple[str, ...] | None = None
    nnodes: int = 1
    node_rank: int = 0
    master_addr: str = "127.0.0.1"
    master_port: int = 0
    rdzv_timeout_s: int = 300
    max_restarts: int = 0
    grace_s: int = 60
    agent: bool = False

    @property
    def in_place(self) -> bool:
        """Whether the run is this very process."""
        return self.nproc * self.nnodes == 1 and not (self.max_restarts or self.agent)


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
    if not Path(cfg_path).is_file() or Path(cfg_path).suffix == ".py":
        raise UsageError(missing_config(Path(cfg_path), root))
    if Path(cfg_path).suffix in _CHECKPOINTS:
        raise UsageError(f"{cfg_path} is a checkpoint, not a config; CONFIG, a YAML, comes before CHECKPOINT")
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


def check_config(domain: str, cfg_file: str | Path, options: Sequence[str], args: argparse.Namespace | None = None) -> CfgNode:
    """The finished config of a domain; all problems of the file and the options in one ``ConfigError``.

    Args:
        domain: such as ``tasks/cls``.
        cfg_file: the YAML.
        options: ``KEY VALUE`` and ``KEY=VALUE`` words.
        args: flags of a script, which set config keys too.
    """
    module = importlib.import_module(f"pet.{domain.replace('/', '.')}.config")
    return build_cfg(module.get_base_cfg, module.infer_cfg, cfg_file, options, args)


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
    if not 0 <= plan.master_port <= 65535:
        raise UsageError(f"--master-port is {plan.master_port}; it must be 1 to 65535, or 0 for a free one")
    if plan.master_port == 0 or plan.node_rank != 0:
        return
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", plan.master_port))  # the store listens at all addresses
        except OSError as error:
            other = "Choose another one, the same on every node"
            if plan.nnodes == 1:
                other = "Leave the option out (PORT of the shell scripts) to let the operating system choose a free port"
            raise UsageError(f"--master-port {plan.master_port} cannot be used here: {error.strerror}. {other}") from error


def launch(script: Path, arguments: Sequence[str], plan: Plan) -> int:
    """Run a script on the processes of ``plan``; the exit status."""
    prepare_environment(plan)
    if plan.in_place:
        run_script(script, arguments)
        return EXIT_OK
    interruption.watch_start()
    try:
        from pet.engine.elastic import run_processes

        return run_processes(script, arguments, plan)
    finally:
        interruption.release()


# -------------------------------------------------------------------------------------------------------- command


def script_parser(name: str, description: str | None = None) -> argparse.ArgumentParser:
    """The flags of ``train_net.py`` or ``test_net.py``."""
    parser = default_argument_parser(description)
    return add_test_arguments(parser) if name == "test_net.py" else add_train_arguments(parser)


def add_launcher_arguments(parser: Any) -> None:
    """Add what the launcher itself reads to a parser, or to a group of one."""
    add = parser.add_argument
    add("--gpu_id", "--gpu-id", metavar="IDS", help="GPUs such as 0,1, or cpu; default: every visible GPU, else the CPU")
    add("--gpus", type=int, metavar="N", help="old flag: the first N GPUs; write --gpu_id 0,1,...")
    add("--gpu-ids", nargs="+", metavar="ID", help="old flag: --gpu-ids 0 1 is --gpu_id 0,1")
    add("--nproc", type=int, metavar="N", help="processes of this node; default: one for each GPU, one on the CPU")
    add("--nnodes", type=int, default=1, metavar="N", help="number of machines (nodes), each with this command; default: 1")
    add("--node-rank", "--node_rank", type=int, default=0, metavar="R", help="which node this is, 0 to N - 1; default: 0")
    add("--master-addr", "--master_addr", metavar="HOST", help="address of node 0 that all nodes can reach")
    add("--type", metavar="KIND", help="vision, tasks or projects; default: from the path of the YAML")
    add("--master-port", "--master_port", type=int, default=0, metavar="PORT", help=f"port to meet at; {_PORT_HELP}")
    add("--max-restarts", "--max_restarts", type=int, default=0, metavar="N", help="restarts after a failure; default: 0")
    add("--grace-period", type=int, default=60, metavar="S", help="seconds to save and leave after a signal; default: 60")


def _split_arguments(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """What is the launcher's, and the words for the script."""
    parser = ScriptParser(add_help=False, allow_abbrev=False)
    add_launcher_arguments(parser)
    own, rest = parser.parse_known_args(arguments)
    words = own.gpu_ids or []
    count = next((place for place, word in enumerate(words) if not word.isdecimal()), len(words))
    own.gpu_ids = words[:count]
    flag = next((place for place, word in enumerate(rest) if word.startswith("-")), len(rest))
    return own, [*rest[:flag], *words[count:], *rest[flag:]]


def _chosen_gpus(own: argparse.Namespace, device: str | None) -> str | None:
    """``--gpu_id`` in one of its spellings."""
    given = {"--gpu_id": own.gpu_id, "--gpus": own.gpus, "--gpu-ids": own.gpu_ids or None, "--device": device}
    named = [flag for flag, value in given.items() if value is not None]
    if len(named) > 1:
        raise UsageError(f"{' and '.join(named)} exclude one another; give one of them, best --gpu_id (0,1 or cpu)")
    if own.gpus is not None and own.gpus < 1:
        raise UsageError(f"--gpus is {own.gpus}; it must be at least 1. On the CPU: --gpu_id cpu")
    old = [str(i) for i in range(own.gpus or 0)] or own.gpu_ids
    if old:
        print(f"note: {named[0]} is an old flag; Pet's is --gpu_id {','.join(old)}", file=sys.stderr, flush=True)
    return ",".join(old) if old else own.gpu_id


def _plan(own: argparse.Namespace, args: argparse.Namespace, cfg: CfgNode, training: bool) -> Plan:
    """Where the processes of a run start; a process that torchrun, srun or mpirun started is one of them and starts none."""
    gpu_id = _chosen_gpus(own, args.device)
    started = {"RANK", "WORLD_SIZE"} <= os.environ.keys()
    # pytorch: torchrun started this process, or else what is asked for here is what torchrun would do.
    if started or args.launcher in ("slurm", "mpi") or (args.launcher == "pytorch" and own.nproc is None):
        _refuse_with_launcher(own, gpu_id)
        if not started:
            place = {"MASTER_ADDR": own.master_addr, "MASTER_PORT": own.master_port}
            os.environ.update({name: str(value) for name, value in place.items() if value})
        return Plan()
    on_cpu = gpu_id is None and cfg.MISC.DEVICE == "cpu"
    nproc, gpus = choose_devices("cpu" if on_cpu else gpu_id, own.nproc, visible_gpus())
    plan = Plan(
        nproc,
        gpus,
        own.nnodes,
        own.node_rank,
        own.master_addr or Plan.master_addr,
        own.master_port or args.dist_port or (_FIXED_PORT if own.nnodes > 1 else 0),
        cfg.MISC.RDZV_TIMEOUT,
        own.max_restarts,
        own.grace_period,
        agent=args.launcher == "pytorch",
    )
    check_nodes(plan, own.master_addr)
    check_windows(args, nproc * plan.nnodes)
    if training:
        check_shares(cfg, nproc * plan.nnodes)
    check_port(plan)
    return plan


def _refuse_with_launcher(own: argparse.Namespace, gpu_id: str | None) -> None:
    """Refuse flags that say how to start processes in a process that another launcher started."""
    flags = {"--gpu_id": gpu_id is not None, "--nproc": own.nproc is not None, "--nnodes": own.nnodes != 1}
    flags |= {"--node_rank": own.node_rank != 0, "--max_restarts": own.max_restarts != 0}
    given = [flag for flag, is_given in flags.items() if is_given]
    if given:
        raise UsageError(f"another launcher started this process and chooses its device: leave {' and '.join(given)} out")


def check_nodes(plan: Plan, address: str | None) -> None:
    """Refuse a number, a rank or an address of nodes that cannot be."""
    if plan.nnodes < 1:
        raise UsageError(f"--nnodes is {plan.nnodes}; it must be at least 1")
    if not 0 <= plan.node_rank < plan.nnodes:
        raise UsageError(f"--node_rank is {plan.node_rank}; the ranks of {plan.nnodes} nodes are 0 to {plan.nnodes - 1}")
    if plan.nnodes > 1 and not address:
        raise UsageError(f"--nnodes {plan.nnodes} needs --master_addr (MASTER_ADDR of the shell scripts): the address of node 0")
    if plan.max_restarts < 0:
        raise UsageError(f"--max_restarts is {plan.max_restarts}; it must be at least 0")


def main(
    arguments: Sequence[str] | None = None,
    name: str = "train_net.py",
    root: Path = REPOSITORY,
    default_cfg: str | None = DEFAULT_CFG,
    description: str | None = None,
) -> int:
    """The launcher as a command; returns its exit status.

    Args:
        arguments: the command line without the program; ``None``: that of this process.
        name: which script of a domain to run, ``train_net.py`` or ``test_net.py``.
        root: folder that holds ``tools/``.
        default_cfg: the experiment without CONFIG; ``None``: there must be one.
        description: for ``--help``.
    """
    parser = script_parser(name, description)
    parser.epilog = _EPILOG
    add_launcher_arguments(parser.add_argument_group("launcher"))
    try:
        own, rest = _split_arguments(arguments)
        args, unknown = parse_known(parser, rest)
        if args.cfg is None and args.help_config is not None:
            print(help_config(get_base_cfg(), args.help_config))
            return EXIT_OK
        if args.cfg is None and default_cfg is not None:
            args.cfg = os.path.relpath(root / default_cfg)
            rest = ["--cfg", args.cfg, *rest]
        options = overrides(args)
        if unknown:  # the script of the domain decides about its own flags, and which of the words belong to them
            options, args.auto_scale_lr = [], False
        else:
            check_args(parser, args)
        domain, script = find_training_script(args.cfg, own.type, name, root)
        cfg = check_config(domain, args.cfg, options, args)
        if args.explain is not None or args.help_config is not None:
            print(cfg.explain(args.explain) if args.explain is not None else help_config(cfg, args.help_config))
            return EXIT_OK
        plan = _plan(own, args, cfg, training=name == "train_net.py")
    except (UsageError, ConfigError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return EXIT_USAGE
    # What a stopped run prints as the command that continues it.
    os.environ["PET_COMMAND"] = shlex.join(["python", *sys.argv])
    return launch(script, rest, plan)
