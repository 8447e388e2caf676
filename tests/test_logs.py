from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Iterator

import pytest

from ffsuper import logs
from ffsuper.config import LogConfig
from ffsuper.sansio.rate import RateLimit

FORMATTERS = [
    logs.KeyValueFormatter(),
    logs.JsonFormatter(),
    logs.JournalFormatter(logs.KeyValueFormatter(has_time=False)),
    logs.JournalFormatter(logs.JsonFormatter()),
]
# Whatever some reader takes for the end of a line, or for the end of the text.
BREAKS = "one\ntwo\r\nthree\x0bfour\x0cfive\x85six\u2028seven\u2029eight\0nine\x1b[31mten"


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root, own, hook = logging.getLogger(), logging.getLogger("ffsuper"), sys.excepthook
    handlers, level = root.handlers[:], own.level
    yield
    root.handlers[:], own.level, sys.excepthook = handlers, level, hook


def record(event: str, **particulars: object) -> logging.LogRecord:
    made = logging.makeLogRecord(
        {"msg": event, "levelno": logging.INFO, "levelname": "INFO", "created": 1700000000.5}
    )
    made.__dict__.update(particulars)
    return made


def defect(text: str = "a defect") -> logging.LogRecord:
    try:
        raise ValueError(text)
    except ValueError as error:
        return record("broken", exc_info=(ValueError, error, error.__traceback__))


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
    assert "ünïcode" in line


@pytest.mark.parametrize("formatter", FORMATTERS)
@pytest.mark.parametrize("made", [record(BREAKS), record("output", line=BREAKS), defect(BREAKS)], ids=repr)
def test_a_record_is_one_line_whatever_is_in_it(formatter: logging.Formatter, made: logging.LogRecord) -> None:
    line = formatter.format(made)
    assert line.isprintable()
    for part in re.findall("[a-z]+", "one two three four five six seven eight nine ten"):
        assert part in line


@pytest.mark.parametrize("formatter", FORMATTERS)
def test_a_defects_traceback_is_kept_on_the_line(formatter: logging.Formatter) -> None:
    line = formatter.format(defect())
    assert "ValueError: a defect" in line
    assert "in defect" in line


@pytest.mark.parametrize(
    ("level", "prefix"),
    [
        (logging.DEBUG, "<7>"),
        (logging.INFO, "<6>"),
        (logging.INFO + 1, "<6>"),
        (logging.WARNING, "<4>"),
        (logging.ERROR, "<3>"),
        (logging.CRITICAL, "<2>"),
        (logging.CRITICAL + 50, "<2>"),
        (1, "<7>"),
    ],
)
def test_the_journal_is_told_how_grave_each_line_is(level: int, prefix: str) -> None:
    made = record("event", levelno=level, levelname=logging.getLevelName(level))
    line = logs.JournalFormatter(logs.KeyValueFormatter(has_time=False)).format(made)
    assert line.startswith(prefix)


def lines_of(settings: LogConfig, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Set logging up, let things be logged, and return what is on stderr."""
    logs.set_up(settings)
    logging.getLogger("ffsuper.somewhere").warning("event")
    logging.getLogger("ffsuper.somewhere").info("not this")
    return capsys.readouterr().err.splitlines()


@pytest.mark.parametrize(("configured", "is_json"), [("auto", True), ("json", True), ("keyvalue", False)])
def test_the_format_follows_the_configuration(
    configured: str, is_json: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = LogConfig(format=configured, level="warning")  # type: ignore[arg-type]
    (line,) = lines_of(settings, capsys)
    assert line.startswith("{") is is_json


def test_on_a_terminal_it_is_for_people(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    (line,) = lines_of(LogConfig(level="warning"), capsys)
    assert line.endswith("Z warning event")


@pytest.mark.parametrize(("configured", "expected"), [("keyvalue", r"<4>warning event"), ("auto", r"<4>\{.*\}")])
def test_in_the_journal_lines_begin_with_their_priority_and_only_json_has_the_time(
    configured: str, expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status = os.fstat(logs.STDERR)
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
    settings = LogConfig(format=configured, level="warning")  # type: ignore[arg-type]
    (line,) = lines_of(settings, capsys)
    assert re.fullmatch(expected, line)
    assert ('"time"' in line) is (configured == "auto")


@pytest.mark.parametrize("stream", ["", "1:1", "nonsense", "8:-1"])
def test_an_inherited_variable_alone_makes_no_journal(stream: str) -> None:
    assert not logs.is_journal(stream)


def test_setting_it_up_again_takes_the_place_of_the_first_and_says_what_that_left_unsaid(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.set_up(LogConfig(format="keyvalue", burst=1))
    somewhere = logging.getLogger("ffsuper.somewhere")
    for _ in range(5):
        somewhere.info("event")
    logs.set_up(LogConfig(format="json", level="debug"))
    somewhere.debug("finer")
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition("Z ")[2] for line in lines[:-1]] == [
        "info event",
        "warning suppressed of=event lines=4",
    ]
    assert json.loads(lines[-1])["event"] == "finer"


def test_what_libraries_log_has_the_same_form(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up(LogConfig())
    logging.getLogger("hypercorn").warning("%s went wrong", "something")
    logging.getLogger("hypercorn").info("not this")
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["event"] == "something went wrong"


def test_what_ends_the_program_is_logged_with_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up(LogConfig())
    made = defect("no such thing")
    assert made.exc_info
    sys.excepthook(*made.exc_info)
    (line,) = capsys.readouterr().err.splitlines()
    told = json.loads(line)
    assert (told["level"], told["event"], told["error"]) == ("critical", "defect", "no such thing")
    assert "ValueError: no such thing" in told["traceback"]


def test_people_at_a_terminal_see_a_defect_as_python_shows_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    before = sys.excepthook
    logs.set_up(LogConfig())
    assert sys.excepthook is before


class Flood:
    """A handler under a flood of records."""

    def __init__(self, capsys: pytest.CaptureFixture[str], burst: int, per_second: float) -> None:
        self._capsys = capsys
        self.handler = logs.LimitedHandler(RateLimit(burst, per_second))
        self.handler.setFormatter(logs.JsonFormatter())

    def of(self, count: int, event: str = "output", **particulars: object) -> None:
        for _ in range(count):
            self.handler.handle(record(event, **particulars))

    def written(self) -> list[str]:
        """Return what was written since the last look, in short."""
        told = map(json.loads, self._capsys.readouterr().err.splitlines())
        keys = ("event", "child", "of", "lines")
        return [" ".join(str(one[key]) for key in keys if key in one) for one in told]


def test_a_flood_of_one_event_is_cut_and_its_lines_are_counted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    flood = Flood(capsys, 2, 0.001)
    flood.of(10, "claimed")
    assert flood.written() == ["claimed", "claimed"]
    flood.of(1, "finished")
    assert flood.written() == ["finished"]
    flood.handler.close()
    assert flood.written() == ["suppressed claimed 8"]


def test_after_a_while_the_next_line_of_any_event_is_preceded_by_the_count(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flood = Flood(capsys, 1, 0.001)
    now_s = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now_s[0])
    flood.of(5, "claimed")
    now_s[0] += 60
    flood.of(1, "finished")
    assert flood.written() == ["claimed", "suppressed claimed 4", "finished"]


def test_a_child_that_floods_takes_nothing_from_another(capsys: pytest.CaptureFixture[str]) -> None:
    flood = Flood(capsys, 1, 0.001)
    flood.of(3, child=7)
    flood.of(1, child=8)
    flood.handler.close()
    assert flood.written() == ["output 7", "output 8", "suppressed 7 output 2"]


def test_other_events_are_counted_whatever_child_they_are_about(capsys: pytest.CaptureFixture[str]) -> None:
    flood = Flood(capsys, 1, 0.001)
    flood.of(1, "child recycled", child=7)
    flood.of(1, "child recycled", child=8)
    assert flood.written() == ["child recycled 7"]


def test_errors_are_never_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    flood = Flood(capsys, 1, 0.001)
    flood.of(100, "child did not start", levelno=logging.ERROR)
    assert len(flood.written()) == 100


def test_without_a_rate_nothing_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    flood = Flood(capsys, 1, 0.0)
    flood.of(2000)
    flood.handler.close()
    assert flood.written() == ["output"] * 2000
