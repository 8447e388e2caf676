from __future__ import annotations

import json
import logging

import pytest

from ffsuper import logs
from ffsuper.config import LogConfig


def record(event: str, **particulars: object) -> logging.LogRecord:
    made = logging.makeLogRecord(
        {"msg": event, "levelno": logging.INFO, "levelname": "INFO", "created": 1700000000.5}
    )
    made.__dict__.update(particulars)
    return made


def test_key_value_lines_say_when_what_and_about_what() -> None:
    line = logs.KeyValueFormatter().format(record("claimed", execution="{fp:1}:x", attempt=0))
    assert line == "2023-11-14T22:13:20.500Z info claimed execution={fp:1}:x attempt=0"


def test_values_that_would_break_the_line_are_quoted() -> None:
    line = logs.KeyValueFormatter().format(record("lease lost", line='a "b"\nc', empty=""))
    assert line.endswith('info "lease lost" line="a \\"b\\"\\nc" empty=""')


def test_json_lines_keep_numbers_and_turn_the_rest_into_text() -> None:
    line = logs.JsonFormatter().format(record("claimed", attempt=0, error=ValueError("ünïcode")))
    assert json.loads(line) == {
        "time": "2023-11-14T22:13:20.500Z",
        "level": "info",
        "event": "claimed",
        "attempt": 0,
        "error": "ünïcode",
    }


@pytest.mark.parametrize("formatter", [logs.KeyValueFormatter(), logs.JsonFormatter()])
def test_a_defects_traceback_is_kept(formatter: logging.Formatter) -> None:
    try:
        raise ValueError("a defect")
    except ValueError as error:
        made = record("broken", exc_info=(ValueError, error, error.__traceback__))
    assert "ValueError: a defect" in formatter.format(made)


@pytest.mark.parametrize(("configured", "is_json"), [("auto", True), ("json", True), ("keyvalue", False)])
def test_the_format_follows_the_configuration_and_the_terminal(
    configured: str, is_json: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = logging.getLogger("ffsuper")
    before = (logger.handlers[:], logger.level, logger.propagate)
    try:
        logs.set_up(LogConfig(format=configured, level="warning"))  # type: ignore[arg-type]
        logging.getLogger("ffsuper.somewhere").warning("event")
        logging.getLogger("ffsuper.somewhere").info("not this")
        lines = capsys.readouterr().err.splitlines()
    finally:
        logger.handlers[:], logger.level, logger.propagate = before
    assert len(lines) == 1
    assert lines[0].startswith("{") is is_json
