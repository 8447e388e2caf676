from __future__ import annotations

import json

import pytest

from ffsuper.clients import Execution
from ffsuper.commands.texts import crash_lines, described, event, printable, with_crash_report
from tests.commands.calling import EXECUTION

REPORT = {
    "pid": 123,
    "signal": None,
    "exit_code": 3,
    "why_killed": "",
    "peak_memory_bytes": 312 << 20,
    "output": [{"stream": "stderr", "at_ms": 1_700_000_000_123, "text": "no space left"}],
    "stack_dump": ["Current thread 0x1 (most recent call first):", '  File "jobs.py", line 6 in work'],
}


def test_a_crash_is_told_with_its_end_its_output_and_its_stacks() -> None:
    assert crash_lines({"crash_report": json.dumps(REPORT)}) == [
        "crash   exit code 3, peak 312 MiB",
        "output  22:13:20.123Z  stderr  no space left",
        "stack   Current thread 0x1 (most recent call first):",
        'stack     File "jobs.py", line 6 in work',
    ]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"signal": "SIGKILL", "why_killed": "timed out"}, "crash   SIGKILL from this worker, peak 312 MiB"),
        ({"signal": "SIGSEGV", "peak_memory_bytes": 0}, "crash   SIGSEGV"),
        ({"exit_code": 0}, "crash   exit code 0, peak 312 MiB"),
    ],
)
def test_a_crash_is_told_with_what_is_known_of_it(changes: dict[str, object], told: str) -> None:
    assert crash_lines({"crash_report": json.dumps(REPORT | changes)})[0] == told


def test_an_attempt_without_a_report_has_nothing_to_tell() -> None:
    assert crash_lines({"attempt_index": "0"}) == []
    assert with_crash_report({"attempt_index": "0"}) == {"attempt_index": "0"}


@pytest.mark.parametrize(
    "text",
    [
        *("it crashed", "{", "5", "[]", '"text"', "{}", '{"signal": "SIGSEGV"}'),
        json.dumps(REPORT | {"peak_memory_bytes": "much"}),
        json.dumps(REPORT | {"output": ["a line"]}),
        json.dumps(REPORT | {"output": [{"stream": "stdout", "at_ms": 1e300, "text": ""}]}),
        json.dumps(REPORT | {"stack_dump": None}),
    ],
)
def test_what_is_no_report_of_ours_is_told_as_it_is(text: str) -> None:
    assert crash_lines({"crash_report": text}) == [f"crash   {text}"]


@pytest.mark.parametrize(("text", "shown"), [("{", "{"), (json.dumps(REPORT), REPORT)])
def test_a_report_becomes_an_object_where_it_is_one(text: str, shown: object) -> None:
    assert with_crash_report({"attempt_index": "0", "crash_report": text}) == {
        "attempt_index": "0",
        "crash_report": shown,
    }


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, and ünïcödé", "plain, and ünïcödé"),
        ("\x1b[2Jgone\a", r"\x1b[2Jgone\x07"),
        ("a\tb", "a       b"),
        ("\u202etxet", r"\u202etxet"),
        ("one\ntwo\rthree", r"one\ntwo\rthree"),
    ],
)
def test_what_would_do_something_to_a_terminal_is_spelt_out(text: str, shown: str) -> None:
    assert printable(text) == shown


class Hostile(dict[str, str]):
    """A record each of whose fields would clear the terminal."""

    def get(self, name: str, default: object = None) -> str:
        return f"\x1b[2J{name}"


def test_nothing_that_others_wrote_does_anything_to_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    evil = "\x1b[2J"
    execution = Execution(EXECUTION, evil, evil, evil, Hostile(), {evil: evil}, [Hostile()])
    told = [described(execution, evil), event(Hostile())]
    for text in told:
        assert all(line.isprintable() for line in text.splitlines())
    for part in ("failure_reason", "progress_message", "blocking_detail", "creator_identity", "failure_category"):
        assert rf"\x1b[2J{part}" in told[0]


def test_a_reason_of_several_lines_stays_under_its_heading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    record = {"failure_reason": "Traceback:\n  line 1\a"}
    lines = described(Execution(EXECUTION, "failed", "job", "bulk", record, {}, [])).splitlines()
    assert lines[-2:] == ["failure     Traceback:", r"              line 1\x07"]
