from __future__ import annotations

import logging

import pytest

from pet.utils.logger import LOGGER, log_file, log_once, logging_rank, setup_logging


def test_rank_0_writes_to_console_and_file(tmp_path, capsys):
    setup_logging(tmp_path / "log.txt")
    logging_rank("hello")
    LOGGER.debug("details")
    assert "hello" in capsys.readouterr().out
    assert log_file() == str(tmp_path / "log.txt")
    text = (tmp_path / "log.txt").read_text()
    assert "hello" in text
    assert "details" in text


def test_details_go_to_the_file_only(tmp_path, capsys):
    setup_logging(tmp_path / "log.txt")
    LOGGER.debug("details")
    assert "details" not in capsys.readouterr().out


def test_other_ranks_write_no_file_and_only_warnings(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    setup_logging(tmp_path / "log.txt")
    logging_rank("hello")
    LOGGER.info("mine")
    LOGGER.warning("careful")
    out = capsys.readouterr().out
    assert "[rank 3] careful" in out
    assert "hello" not in out
    assert "mine" not in out
    assert not (tmp_path / "log.txt").exists()


def test_a_second_setup_replaces_the_handlers(tmp_path, capsys):
    setup_logging(tmp_path / "a.txt")
    setup_logging(tmp_path / "b.txt")
    logging_rank("once")
    assert capsys.readouterr().out.count("once") == 1


def test_without_a_terminal_there_are_no_control_characters(capsys):
    setup_logging()
    logging_rank("loss [bold]0.5[/bold]")
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "loss [bold]0.5[/bold]" in out


def test_a_terminal_gets_a_rich_console(monkeypatch):
    rich_logging = pytest.importorskip("rich.logging")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    setup_logging()
    assert any(isinstance(handler, rich_logging.RichHandler) for handler in LOGGER.handlers)


def test_a_message_is_logged_once(caplog):
    caplog.set_level(logging.WARNING, logger="pet")
    for _ in range(3):
        log_once("only once please")
    assert caplog.text.count("only once please") == 1
