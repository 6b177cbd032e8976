"""What small tools share: their command line, the config they open, and how they end. Imports no torch."""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from pet.config import CfgNode
from pet.engine.launch import EXIT_OK, EXIT_USAGE, check_config, find_training_script, is_config_word
from pet.utils.suggest import did_you_mean


@dataclass(frozen=True)
class OpenConfig:
    """A checked config and the domain that it belongs to.

    Attributes:
        cfg: frozen.
        domain_name: such as ``tasks/cls``.
        domain_module: its package, e.g. ``pet.tasks.cls``; the names it exports are imported on first use.
    """

    cfg: CfgNode
    domain_name: str
    domain_module: ModuleType


def open_config(path: str | Path, options: Sequence[Any] = ()) -> OpenConfig:
    """Route and check a YAML as the launcher does.

    Args:
        path: the YAML; its path, or its first line, names the domain.
        options: overrides, ``KEY VALUE`` or ``KEY=VALUE``.

    Raises:
        UsageError: no such file, or no domain for it.
        ConfigError: everything that is wrong in the file and in the options.
    """
    name, _ = find_training_script(path)
    cfg = check_config(name, path, options)
    cfg.freeze()
    return OpenConfig(cfg, name, importlib.import_module(f"pet.{name.replace('/', '.')}"))


def tool_parser(description: str | None, config: bool = True) -> argparse.ArgumentParser:
    """A parser that knows ``--cfg-options`` and nothing else; ``run_tool`` also takes ``KEY VALUE`` words into it.

    Args:
        description: the docstring of the tool; line breaks are kept.
        config: whether the tool opens a config; otherwise there is no ``--cfg-options``.
    """
    parser = argparse.ArgumentParser(
        description=description, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if not config:
        return parser
    parser.add_argument(
        "--cfg-options",
        "--options",
        nargs="*",
        action="extend",
        default=[],
        metavar="K=V",
        help="config overrides; KEY VALUE and KEY=VALUE may also stand anywhere else",
    )
    return parser


def parse_tool_args(parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse flags, positional words and config overrides in any order; the overrides are in ``cfg_options``."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    overrides: list[str] = []
    if parser.get_default("cfg_options") is not None:
        words, overrides = separate_overrides(words, _flags_with_value(parser))
    if any(isinstance(action, argparse._SubParsersAction) for action in parser._actions):
        args, unknown = parser.parse_known_args(words)
    else:
        args, unknown = parser.parse_known_intermixed_args(words)
    if unknown:
        refuse_unknown(parser, unknown)
    if overrides:
        args.cfg_options = [*args.cfg_options, *overrides]
    return args


def refuse_unknown(parser: argparse.ArgumentParser, unknown: Sequence[str]) -> NoReturn:
    """End with status 2 and the flag that comes closest to the first unknown word."""
    flags = [flag for action in parser._actions for flag in action.option_strings]
    parser.error(f"unrecognized arguments: {' '.join(unknown)}.{did_you_mean(unknown[0].partition('=')[0], flags)}")


def separate_overrides(arguments: Sequence[str], takes_value: frozenset[str]) -> tuple[list[str], list[str]]:
    """Take ``KEY VALUE`` and ``KEY=VALUE`` out of a command line, wherever they stand.

    Args:
        arguments: the words.
        takes_value: flags whose next word is their value, even if it looks like a key.

    Returns:
        The other words, and the overrides.

    Example:
        >>> separate_overrides(["x.yaml", "TEST.SIZE", "-1", "--explain", "TEST.SIZE"], frozenset(["--explain"]))
        (['x.yaml', '--explain', 'TEST.SIZE'], ['TEST.SIZE', '-1'])
    """
    others: list[str] = []
    overrides: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not is_config_word(word) or (others and others[-1] in takes_value):
            others.append(word)
            continue
        overrides.append(word)
        if "=" not in word and rest:
            overrides.append(rest.pop(0))
    return others, overrides


def _flags_with_value(parser: argparse.ArgumentParser) -> frozenset[str]:
    return frozenset(flag for action in parser._actions if action.nargs in (None, 1) for flag in action.option_strings)


def run_tool(
    main: Callable[[argparse.Namespace], int | None], parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None
) -> NoReturn:
    """Run a tool and leave with its status: 0 done, 1 failed, 2 the command or what it names is wrong, 130 interrupted.

    Args:
        main: gets the parsed arguments; ``None`` counts as 0.
        parser: of ``tool_parser``, or any other.
        arguments: the command line without the program; ``None``: that of this process.
    """
    args = parse_tool_args(parser, arguments)
    try:
        status = main(args) or EXIT_OK
        sys.stdout.flush()
    except BrokenPipeError:  # `tool | head`; what is still buffered must not be written at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 128 + signal.SIGPIPE
    except (ValueError, KeyError, TypeError, OSError, ImportError) as error:
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"error: {message}", file=sys.stderr, flush=True)
        status = EXIT_USAGE
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    sys.exit(status)
