"""The command line of the training and test scripts, and the config keys that its flags set. Imports no torch.

The launcher reads the same command line before it starts anything, so that a mistake is answered at once.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from pet.config import CfgNode
from pet.engine import overfit
from pet.utils.display import require_display
from pet.utils.files import PLAIN_SUFFIXES, check_suffix
from pet.utils.suggest import did_you_mean

# A word such as SOLVER.OPTIMIZER.BASE_LR or SOLVER.OPTIMIZER.BASE_LR=0.1, as against a path.
_KEY = re.compile(r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)+(=.*)?", re.DOTALL)
_DIST_PORT = re.compile(r"(?:dist_params|env_cfg\.dist_cfg)\.port=(\d+)")
_PAIR = re.compile(r"[A-Za-z_][\w.\-]*=.*", re.DOTALL)

# Options of --eval-options and the config key that each of them sets.
EVAL_KEYS = {
    "classwise": "EVAL.CLASSWISE",
    "topk": "EVAL.TOPK",
    "thrs": "EVAL.THRESHOLD",
    "thr": "EVAL.THRESHOLD",
    "k": "EVAL.NUM_PREDICTED",
    "average_mode": "EVAL.AVERAGE",
    "iou_thrs": "EVAL.VOC_IOUS",
    "iou_thr": "EVAL.VOC_IOUS",
    "proposal_nums": "EVAL.PROPOSAL_NUMS",
}
PREFIXES = ("jsonfile_prefix", "txtfile_prefix", "outfile_prefix")
ITEMS = "metric_items"


class UsageError(ValueError):
    """The command is wrong; nothing was started."""


class ScriptParser(argparse.ArgumentParser):
    """A parser whose mistakes are a ``UsageError``, so that they end like all others."""

    def error(self, message: str) -> NoReturn:
        """Refuse the command."""
        raise UsageError(f"{message}. All flags: {self.prog} --help")


# ------------------------------------------------------------------------------------------------------------- flags


def default_argument_parser(description: str | None = "") -> ScriptParser:
    """The flags that every script takes, with the same meaning."""
    parser = ScriptParser(
        description=description,
        allow_abbrev=False,
        usage="%(prog)s CONFIG [flags] [KEY VALUE ...]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--cfg", metavar="FILE", help="YAML of the experiment; the same as CONFIG in the first place")
    add("--work-dir", metavar="DIR", help="folder of the run (MISC.CKPT)")
    add("--resume", nargs="?", const="", metavar="PATH", help="continue from the newest checkpoint of the folder, or from PATH")
    add("--resume-from", dest="resume", metavar="PATH", help="the same as --resume PATH")
    add("--auto-resume", dest="resume", action="store_const", const="", help="the same as --resume")
    add("--load-from", metavar="PATH", help="start from these weights (TRAIN.WEIGHTS)")
    add("--amp", action="store_true", help="mixed precision (SOLVER.AMP.ENABLED)")
    add("--auto-scale-lr", action="store_true", help="multiply BASE_LR by BATCH_SIZE / SOLVER.BASE_BATCH_SIZE")
    add("--no-validate", action="store_true", help="no evaluation during training (EVAL.ENABLED False)")
    add("--seed", type=int, metavar="N", help="seed (MISC.SEED)")
    add("--deterministic", action="store_true", help="deterministic kernels only (MISC.DETERMINISTIC)")
    add("--device", choices=("auto", "cuda", "mps", "cpu"), help="where to compute (MISC.DEVICE)")
    add(
        "--launcher",
        choices=("none", "pytorch", "slurm", "mpi"),
        default="none",
        help="who started the processes; found by itself",
    )
    add("--local_rank", "--local-rank", type=int, default=0, help="set by old launchers; LOCAL_RANK in the environment wins")
    add("--explain", metavar="KEY", help="print the value of a config key and where it was set, then stop")
    add("--help-config", nargs="?", const="", metavar="PREFIX", help="print the config keys, then stop")
    add("--cfg-options", nargs="+", action="extend", default=[], metavar="K=V", help="config overrides")
    add("--options", nargs="+", action="extend", default=[], metavar="K=V", help="old name of --cfg-options")
    add("opts", nargs="*", default=[], metavar="KEY VALUE", help="config overrides, KEY VALUE or KEY=VALUE")
    return parser


def add_train_arguments(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The further flags of training scripts."""
    add = parser.add_argument_group("before a training").add_argument
    add("--check", action="store_true", help="try everything once in less than half a minute, print a table, and change nothing")
    add("--dry-run", action="store_true", help="build everything, say what would happen, and end before the first update")
    add(
        "--overfit-batch",
        nargs="?",
        type=int,
        const=1,
        metavar="N",
        help="learn the batches of the first N updates by heart (default 1): the loss must fall towards 0",
    )
    return parser


def add_test_arguments(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The further flags of test scripts."""
    parser.usage = "%(prog)s CONFIG [CHECKPOINT] [flags] [KEY VALUE ...]"
    group = parser.add_argument_group(
        "testing", "CHECKPOINT is the file to test (TEST.WEIGHTS); without it, the best or the newest checkpoint of the run"
    )
    add = group.add_argument
    add("--out", metavar="FILE", help="write all predictions and the metrics to a .json, .yaml or .pkl file")
    add(
        "--save-preds",
        action="store_true",
        help="the same with the name <CKPT>/test/<name of the checkpoint>_predictions.pkl",
    )
    add("--eval", "--metrics", dest="metrics", nargs="+", metavar="M", help="metrics instead of EVAL.METRICS")
    add(
        "--eval-options",
        "--metric-options",
        dest="eval_options",
        nargs="+",
        action="extend",
        default=[],
        metavar="K=V",
        help=f"how to evaluate, and where to write: {', '.join((*EVAL_KEYS, ITEMS, *PREFIXES))}. --options with such keys is the "
        "same",
    )
    add("--format-only", action="store_true", help="only write the predictions; needs no annotations")
    add("--show", action="store_true", help="show every picture in a window: the truth beside the prediction; q or Esc ends that")
    add("--show-dir", metavar="DIR", help="write these pictures into a folder")
    add("--show-score-thr", type=float, default=0.3, metavar="T", help="what has a lower score is not drawn; default: 0.3")
    add("--wait-time", type=float, default=2.0, metavar="S", help="seconds to show a picture, 0: until a key; default: 2")
    add("--tta", action="store_true", help="test-time augmentation (TEST.TTA.ENABLED)")
    add("--fuse-conv-bn", action="store_true", help="fold batch normalisation into the convolutions before it")
    add("--gpu-collect", "--gpu_collect", action="store_true", help="accepted; results are always gathered in memory, once")
    add("--tmpdir", metavar="DIR", help="accepted; no files are needed to gather results")
    return parser


# ----------------------------------------------------------------------------------------------------------- parsing


def parse_args(parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse flags, CONFIG (and CHECKPOINT) and KEY VALUE pairs in any order; LOCAL_RANK in the environment wins over the flag.

    Raises:
        UsageError: what is wrong with the command.
    """
    args, unknown = parse_known(parser, arguments)
    if unknown:
        flags = [flag for action in parser._actions for flag in action.option_strings]
        hint = did_you_mean(unknown[0].partition("=")[0], flags)
        raise UsageError(f"unrecognized arguments: {' '.join(unknown)}.{hint} All flags: {parser.prog} --help")
    check_args(parser, args)
    return args


def parse_known(parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    """As ``parse_args``, without its checks; also the words that belong to flags the parser does not know."""
    words = separate_resume(sys.argv[1:] if arguments is None else arguments)
    args, unknown = parser.parse_known_intermixed_args(words)
    args.local_rank = int(os.environ.get("LOCAL_RANK", args.local_rank))
    args.dist_port = _take_port(args)
    for name in ("metrics", "eval_options"):  # such a flag takes every word that follows, overrides included
        taken = getattr(args, name, None) or []
        first_key = next((i for i, word in enumerate(taken) if is_config_word(word)), len(taken))
        if first_key < len(taken):
            setattr(args, name, taken[:first_key])
            args.opts = [*args.opts, *taken[first_key:]]
    testing = hasattr(args, "eval_options")
    if args.cfg is None and _is_file_word(args.opts):
        args.cfg = args.opts.pop(0)
    # A word behind a flag that only the script knows may be the value of that flag.
    args.checkpoint = args.opts.pop(0) if testing and not unknown and _is_file_word(args.opts) else None
    if testing:
        _sort_options(args)
    args.cfg_options, args.options = [*args.cfg_options, *args.options], []
    return args, unknown


def _take_port(args: argparse.Namespace) -> int:
    """Take OpenMMLab's override for the port where the processes meet out of the config overrides; 0 without it."""
    port = 0
    for name in ("opts", "cfg_options", "options"):
        words = getattr(args, name)
        port = next((int(found[1]) for word in reversed(words) if (found := _DIST_PORT.fullmatch(word))), port)
        setattr(args, name, [word for word in words if not _DIST_PORT.fullmatch(word)])
    return port


def check_args(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse a command without CONFIG, a number among the words, and flags that contradict one another."""
    if args.cfg is None:
        raise UsageError(f"CONFIG is missing, the YAML of the experiment: {parser.prog} CONFIG, or --cfg CONFIG")
    number = next((word for word in args.opts[:1] if word.isdecimal()), None)
    if number is not None:
        last = ",".join(str(i) for i in range(min(int(number), 8)))
        raise UsageError(
            f"'{number}' after the config is no flag and no config key. Did you mean {number} processes? Write --nproc {number} "
            f"(on the CPU) or --gpu_id {last or 0} (GPUs); upstream only dist_train.sh and dist_test.sh take a bare number"
        )
    batches = getattr(args, "overfit_batch", None)
    if batches is not None and batches < 1:
        raise UsageError(f"{overfit.FLAG} is {batches}; it is the number of batches to learn by heart, at least 1")
    if args.resume and args.load_from:
        raise UsageError(
            f"--resume {args.resume} continues a run with its own weights, --load-from {args.load_from} starts a new one: leave "
            "one of them out"
        )
    if getattr(args, "check", False) and args.dry_run:
        raise UsageError(
            "--check tries every part once and prints a table, --dry-run builds this run and says what it would do; both change "
            "nothing: give one of them, best --check first"
        )
    if hasattr(args, "eval_options"):
        check_test_flags(args)


def check_file(flag: str, name: str | None) -> None:
    """Refuse a checkpoint that does not exist; the answer names the one beside it that comes closest."""
    if not name or (path := Path(name)).exists():
        return
    beside = [other.name for other in path.parent.glob(f"*{path.suffix}") if not other.name.startswith(".")]
    hint = did_you_mean(path.name, beside)
    where = "" if path.is_absolute() else f" (working folder {os.getcwd()})"
    raise UsageError(f"{flag}: {name} does not exist{where}.{hint}")


def check_test_flags(args: argparse.Namespace) -> None:
    """Refuse flags of a test that contradict one another or cannot work here.

    Raises:
        UsageError: names the flag and what to do.
    """
    for word in args.eval_options:
        if not _PAIR.fullmatch(word):
            raise UsageError(
                f"--eval-options takes KEY=VALUE, not '{word}'; e.g. --eval-options jsonfile_prefix={word.partition('=')[0]} or "
                "classwise=True"
            )
    if args.metrics == []:
        raise UsageError('--eval (--metrics) names no metric; without any: EVAL.METRICS "()"')
    if args.format_only and args.metrics:
        raise UsageError(
            "--format-only computes no metrics, so it cannot go with --eval (--metrics): leave one of them out; --out FILE with "
            "--eval writes both"
        )
    if args.out:
        try:
            check_suffix(args.out, PLAIN_SUFFIXES, "--out")
        except ValueError as error:
            raise UsageError(error) from error
    if args.out and args.save_preds:
        raise UsageError(f"--save-preds and --out {args.out} both name the file of all predictions: leave one of them out")
    if not args.wait_time >= 0:
        raise UsageError(f"--wait-time is {args.wait_time:g}; it must be at least 0 seconds (0 waits for a key)")
    if not 0 <= args.show_score_thr <= 1:
        raise UsageError(f"--show-score-thr is {args.show_score_thr:g}; a score is between 0 and 1")
    if args.show:
        try:
            require_display("write the pictures into a folder with --show-dir DIR")
        except OSError as error:
            raise UsageError(f"--show: {error}") from error


def check_windows(args: argparse.Namespace, processes: int) -> None:
    """Refuse ``--show`` where several processes would open windows."""
    if getattr(args, "show", False) and processes > 1:
        raise UsageError(
            f"--show is for one process, not for {processes}: add --nproc 1, or write the pictures with --show-dir DIR"
        )


def _is_file_word(words: Sequence[str]) -> bool:
    """Whether the first word is a path: CONFIG or CHECKPOINT, and not an override or a number."""
    if not words or is_config_word(words[0]) or words[0].isdecimal():
        return False
    return Path(words[0]).is_file() or not _PAIR.fullmatch(words[0])


def _sort_options(args: argparse.Namespace) -> None:
    """Of ``--options`` in a test, config keys are overrides and all others options of the evaluation."""
    words, evaluation = list(args.options), []
    args.options = []
    while words:
        word = words.pop(0)
        if is_config_word(word):
            args.options += [word, *(words[:1] if "=" not in word else [])]
            words = words if "=" in word else words[1:]
        else:
            evaluation.append(word)
    if evaluation and args.eval_options:
        raise UsageError("--options and --eval-options (--metric-options) both say how to evaluate; give --eval-options only")
    args.eval_options = [*args.eval_options, *evaluation]


def is_config_word(word: str) -> bool:
    """Whether a word is a config key or ``KEY=VALUE``."""
    return _KEY.fullmatch(word) is not None


def separate_resume(arguments: Sequence[str]) -> list[str]:
    """Keep ``--resume KEY VALUE`` from taking the key for a path: ``--resume`` becomes ``--resume=`` before a key.

    Likewise ``--overfit-batch`` takes a number only.
    """
    words = list(arguments)
    for place, after in enumerate(words[1:]):
        if words[place] == "--resume" and _KEY.fullmatch(after):
            words[place] = "--resume="
        elif words[place] == overfit.FLAG and (_KEY.fullmatch(after) or Path(after).suffix):
            words[place] = f"{overfit.FLAG}=1"
    return words


# ------------------------------------------------------------------------------------------------------------ config


def overrides(args: argparse.Namespace) -> list[str]:
    """The ``KEY VALUE`` and ``KEY=VALUE`` words, ``--cfg-options`` included."""
    return [*args.opts, *args.cfg_options]


def build_cfg(
    get_base_cfg: Callable[[], CfgNode],
    infer_cfg: Callable[[CfgNode, str | Path], CfgNode],
    cfg_file: str | Path,
    options: Sequence[str],
    args: argparse.Namespace | None = None,
) -> CfgNode:
    """The finished config, not frozen: defaults < YAML < options < flags, and what the flags make of the whole.

    Args:
        get_base_cfg, infer_cfg: of the domain.
        cfg_file: the YAML.
        options: ``KEY VALUE`` and ``KEY=VALUE`` words.
        args: flags of a script.

    Raises:
        ConfigError: with all problems of the file and the options.
        UsageError: a flag cannot be obeyed.
    """
    cfg = get_base_cfg()
    cfg.merge_from_file(cfg_file)
    cfg.merge_from_list(list(options))
    if args is None:
        return infer_cfg(cfg, cfg_file)
    apply_flags(cfg, args)
    cfg = infer_cfg(cfg, cfg_file)
    if args.auto_scale_lr:
        scale_lr(cfg)
    if getattr(args, "overfit_batch", None) is not None:
        overfit.use_own_folder(cfg)
    check_file("--resume", args.resume)
    check_file("CHECKPOINT", args.checkpoint)
    return cfg


def scale_lr(cfg: CfgNode) -> None:
    """Multiply BASE_LR by BATCH_SIZE / BASE_BATCH_SIZE; BATCH_SIZE counts all processes and micro-batches.

    The arithmetic is the origin of the new value, which the first page of the log tells.

    Raises:
        UsageError: there is no BASE_BATCH_SIZE.
    """
    base, batch, rate = cfg.SOLVER.BASE_BATCH_SIZE, cfg.TRAIN.BATCH_SIZE, cfg.SOLVER.OPTIMIZER.BASE_LR
    if not base:
        raise UsageError("--auto-scale-lr needs SOLVER.BASE_BATCH_SIZE: the batch size that BASE_LR is meant for")
    where = f"--auto-scale-lr: BASE_LR {rate:g} x {batch} / {base} = {rate * batch / base:g}"
    cfg.set("SOLVER.OPTIMIZER.BASE_LR", rate * batch / base, where)
    cfg.set("SOLVER.BASE_BATCH_SIZE", batch, "--auto-scale-lr")  # config.yaml, run again, must not scale again


def apply_flags(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Set the config keys that flags stand for; they win over ``KEY VALUE``.

    Raises:
        UsageError: an option of the evaluation is unknown.
    """
    flags: list[tuple[str, str, Any]] = [
        ("--work-dir", "MISC.CKPT", args.work_dir),
        ("--load-from", "TRAIN.WEIGHTS", args.load_from),
        ("--amp", "SOLVER.AMP.ENABLED", args.amp or None),
        ("--no-validate", "EVAL.ENABLED", False if args.no_validate else None),
        ("--seed", "MISC.SEED", args.seed),
        ("--deterministic", "MISC.DETERMINISTIC", args.deterministic or None),
        ("--device", "MISC.DEVICE", args.device),
        ("--resume", "TRAIN.AUTO_RESUME", None if args.resume is None else True),
        ("--resume", "TRAIN.RESUME_FROM", args.resume or None),
        ("CHECKPOINT", "TEST.WEIGHTS", args.checkpoint),
        ("--eval", "EVAL.METRICS", tuple(getattr(args, "metrics", None) or ()) or None),
        ("--tta", "TEST.TTA.ENABLED", getattr(args, "tta", False) or None),
        ("--dry-run", "MISC.DRY_RUN", getattr(args, "dry_run", False) or None),
    ]
    for flag, key, value in flags:
        if value is not None:
            cfg.merge_from_list([key, value], where=flag)
    apply_eval_options(cfg, getattr(args, "eval_options", ()))
    if getattr(args, "overfit_batch", None) is not None:
        overfit.set_overfit(cfg, args.overfit_batch)


def apply_eval_options(cfg: CfgNode, words: Iterable[str]) -> None:
    """Set the config keys that ``--eval-options`` name.

    Raises:
        UsageError: an option does not exist, or not for this kind of model; the text lists those that do.
    """
    here = {name: key for name, key in EVAL_KEYS.items() if key in cfg.known_keys}
    allowed = (*here, ITEMS, *PREFIXES)
    for name, value in eval_pairs(words):
        if name not in allowed:
            hint = cfg.suggest(name) if "." in name else did_you_mean(name, allowed)
            raise UsageError(
                f"--eval-options: there is no option '{name}'.{hint} Allowed here: {', '.join(allowed)}; config keys go into "
                "--cfg-options"
            )
        if name in here:
            spec = cfg.spec(here[name])
            listed = spec.type is tuple and not value.strip().startswith(("(", "["))
            cfg.merge_from_list([here[name], f"[{value}]" if listed else value], where=f"--eval-options {name}")


def refuse_unread(cfg: CfgNode, metrics: Sequence[str], readers: Mapping[str, Sequence[str]]) -> None:
    """Refuse an option of ``--eval-options`` that would change nothing.

    Args:
        cfg: of the test.
        metrics: that are computed.
        readers: key of an option -> the metrics that read it.

    Raises:
        ValueError: names the option and the metrics that it is for.
    """
    for key, names in readers.items():
        origin = cfg.origin(key)
        if origin.startswith("--eval-options") and not set(names) & set(metrics):
            raise ValueError(
                f"{origin} changes nothing of {', '.join(metrics) or 'a test without metrics'}; it is for {', '.join(names)}: "
                "add one of them to --eval (EVAL.METRICS), or leave the option out"
            )


def eval_pairs(words: Iterable[str]) -> list[tuple[str, str]]:
    """``KEY=VALUE`` words as pairs."""
    return [(word.partition("=")[0], word.partition("=")[2]) for word in words]


def output_prefixes(words: Iterable[str]) -> dict[str, Path]:
    """Where ``--eval-options`` say that files of predictions go, by the name of the option."""
    return {name: Path(value) for name, value in eval_pairs(words) if name in PREFIXES}


def metric_items(words: Iterable[str]) -> list[str]:
    """The results that ``--eval-options metric_items=...`` asks for; empty: all."""
    return [item for name, value in eval_pairs(words) if name == ITEMS for item in re.findall(r"[\w@./]+", value)]
