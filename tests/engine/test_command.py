"""What tools share: words in any order, and an exit status for every end."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import pytest

from pet.config import ConfigError
from pet.engine.command import open_config, parse_tool_args, run_tool, tool_parser

CONFIG = "cfgs/tasks/cls/MNIST/lenet5.yaml"


def parser() -> argparse.ArgumentParser:
    made = tool_parser("A tool.")
    made.add_argument("config")
    made.add_argument("checkpoint", nargs="?")
    made.add_argument("--explain")
    made.add_argument("--metrics", nargs="+")
    return made


@pytest.mark.parametrize(
    "words",
    [
        ["c.yaml", "m.pth", "A.B", "-1", "A.C=x"],
        ["A.B", "-1", "c.yaml", "A.C=x", "m.pth"],
        ["--cfg-options", "A.B", "-1", "A.C=x", "--explain", "K.V", "c.yaml", "m.pth"],
        ["c.yaml", "--metrics", "top1", "A.B", "-1", "--options", "A.C=x", "--explain=K.V", "m.pth"],
    ],
    ids=["behind", "between", "flag", "after_a_list"],
)
def test_overrides_may_stand_anywhere(words: list[str]) -> None:
    args = parse_tool_args(parser(), words)
    assert (args.config, args.checkpoint, args.cfg_options) == ("c.yaml", "m.pth", ["A.B", "-1", "A.C=x"])
    assert args.explain in (None, "K.V")


def test_a_wrong_flag_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parse_tool_args(parser(), ["c.yaml", "--explian", "A.B"])
    assert end.value.code == 2
    assert "Did you mean '--explain'?" in capsys.readouterr().err


def test_a_config_opens_as_the_launcher_opens_it() -> None:
    opened = open_config(CONFIG, ["TEST.IMS_PER_GPU", 3])
    assert (opened.domain_name, opened.domain_module.__name__, opened.cfg.TEST.IMS_PER_GPU) == ("tasks/cls", "pet.tasks.cls", 3)
    with pytest.raises(ConfigError, match="IMS_PER_GPU"):
        open_config(CONFIG, ["TEST.IMS_PERGPU", 3])


def fail(error: BaseException) -> Callable[[argparse.Namespace], int]:
    def main(args: argparse.Namespace) -> int:
        raise error

    return main


@pytest.mark.parametrize(
    ("main", "status", "text"),
    [
        (lambda args: None, 0, ""),
        (lambda args: 1, 1, ""),
        (fail(ValueError("bad value")), 2, "error: bad value\n"),
        (fail(KeyError("no such key")), 2, "error: no such key\n"),
        (fail(KeyboardInterrupt()), 130, ""),
    ],
    ids=["done", "failed", "value", "key", "interrupt"],
)
def test_the_end_of_a_tool_is_its_status(
    main: Callable[[argparse.Namespace], int], status: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        run_tool(main, parser(), ["c.yaml"])
    assert end.value.code == status
    assert capsys.readouterr().err == text


def test_a_defect_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run_tool(lambda args: 1 // 0, parser(), ["c.yaml"])
