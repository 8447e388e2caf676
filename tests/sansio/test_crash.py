from __future__ import annotations

import json
import signal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffsuper.messages import Death, OutputLine
from ffsuper.sansio.crash import DUMP_BYTES, DUMP_LINES, KEPT_LINES, REPORT_BYTES, Output, report, since

CURRENT = "Current thread 0x00007f1e59686b80 (most recent call first):"
OTHER = "Thread 0x00007f1e53fff6c0 (most recent call first):"
WORK = '  File "/srv/jobs.py", line 6 in work'
IDLE = '  File "/lib/threading.py", line 982 in run'
DUMP = [OTHER, IDLE, "", CURRENT, WORK]
FATAL = ["Fatal Python error: Segmentation fault", "", *DUMP, "", "Extension modules: numpy.core (total: 1)"]


def printed(*texts: str, stream: str = "stderr") -> Output:
    """Return what is kept of these lines."""
    output = Output()
    for text in texts:
        output.add(OutputLine(stream, 5, text))
    return output


def texts(lines: Any) -> list[str]:
    return [line.text for line in lines]


def dying(output: tuple[OutputLine, ...] = (), dump: tuple[OutputLine, ...] = (), **how: int | None) -> Death:
    return Death(123, how.get("exit_code"), how.get("signal"), 312 << 20, output, dump)


def lines_of(*told: str) -> tuple[OutputLine, ...]:
    return tuple(OutputLine("stdout", 5, text) for text in told)


# --- what is kept -------------------------------------------------------------------------------------------------


def test_the_last_lines_are_kept_with_stream_and_time() -> None:
    output = Output()
    for number in range(KEPT_LINES + 7):
        output.add(OutputLine("stdout", number, f"line {number}"))
    assert len(output.lines) == KEPT_LINES
    assert output.lines[0] == OutputLine("stdout", 7, "line 7")
    assert output.dump == ()


def test_a_dump_is_kept_apart_with_the_interrupted_thread_first() -> None:
    output = printed("before", *DUMP, "after", "  indented")
    assert texts(output.lines) == ["before", "after", "  indented"]
    assert texts(output.dump) == [CURRENT, WORK, OTHER, IDLE]


def test_a_fatal_dump_is_kept_from_its_title_to_its_end() -> None:
    output = printed(*FATAL)
    assert texts(output.lines) == []
    assert texts(output.dump) == [FATAL[0], CURRENT, WORK, FATAL[-1], OTHER, IDLE]


@pytest.mark.parametrize(
    "part",
    [
        [CURRENT, "  <no Python frame>"],
        ["Thread 0x00007f1e53fff6c0 [pool-1] (most recent call first):", IDLE],
        ["Thread 0x1 (most recent call first):", "<tstate is freed>"],
        ["Current thread's C stack trace (most recent call first):", '  Binary file "python", at _Py_DumpStack+0x41'],
    ],
)
def test_every_form_of_a_part_is_recognised(part: list[str]) -> None:
    assert texts(printed("before", *part, "after").dump) == part


@pytest.mark.parametrize(
    "text",
    [
        "Thread 0x1 has ended",
        "Current thread is busy (most recent call first):",
        "Stack (most recent call first)",
        "saw Fatal Python error: Aborted",
    ],
)
def test_what_only_looks_like_a_dump_is_output(text: str) -> None:
    output = printed(text, WORK)
    assert (texts(output.lines), output.dump) == ([text, WORK], ())


def test_what_is_printed_to_stdout_is_never_a_dump_and_does_not_end_one() -> None:
    assert printed(*DUMP, stream="stdout").dump == ()
    output = Output()
    for stream, text in (("stderr", CURRENT), ("stdout", "meanwhile"), ("stderr", WORK)):
        output.add(OutputLine(stream, 5, text))
    assert (texts(output.dump), texts(output.lines)) == ([CURRENT, WORK], ["meanwhile"])


@pytest.mark.parametrize("between", [[], ["something else"], FATAL[:2]])
def test_a_later_dump_replaces_an_earlier_one(between: list[str]) -> None:
    later = [line.replace("line 6", "line 7") for line in DUMP]
    dump = texts(printed(*DUMP, *between, *later).dump)
    assert dump[-4:] == [CURRENT, WORK.replace("line 6", "line 7"), OTHER, IDLE]
    assert WORK not in dump


def test_a_dump_behind_a_line_without_an_end_is_found() -> None:
    output = printed("50%" + CURRENT, WORK)
    assert (texts(output.lines), texts(output.dump)) == (["50%"], [CURRENT, WORK])


def test_many_threads_do_not_hide_the_interrupted_one() -> None:
    others = [OTHER, *[IDLE] * 20, ""] * 100
    dump = texts(printed(*others, CURRENT, *[WORK] * 500, "", *others).dump)
    assert dump[:2] == [CURRENT, WORK]
    assert len(dump) == 2 * DUMP_LINES


# --- the report ---------------------------------------------------------------------------------------------------


def test_a_report_tells_how_the_child_died_and_what_it_had_to_say() -> None:
    death = dying((OutputLine("stderr", 7, "last words"),), lines_of(CURRENT, WORK), signal=signal.SIGSEGV)
    assert json.loads(report(death, "")) == {
        "pid": 123,
        "signal": "SIGSEGV",
        "exit_code": None,
        "why_killed": "",
        "peak_memory_bytes": 312 << 20,
        "output": [{"stream": "stderr", "at_ms": 7, "text": "last words"}],
        "stack_dump": [CURRENT, WORK],
    }


@pytest.mark.parametrize(
    ("death", "end"),
    [
        (dying(exit_code=3), [None, 3]),
        (dying(exit_code=0), [None, 0]),
        (dying(signal=63), ["signal 63", None]),
        (dying(), [None, None]),
    ],
)
def test_a_report_has_the_exit_code_or_the_signal(death: Death, end: list[object]) -> None:
    told = json.loads(report(death, "timed out"))
    assert [told["signal"], told["exit_code"], told["why_killed"]] == [*end, "timed out"]


def test_of_too_much_output_the_newest_lines_are_told() -> None:
    output = lines_of(*(f"{number:04} {'x' * 900}" for number in range(KEPT_LINES)))
    text = report(dying(output), "")
    told = [one["text"][:4] for one in json.loads(text)["output"]]
    assert told == [f"{number:04}" for number in range(KEPT_LINES - len(told), KEPT_LINES)]
    assert REPORT_BYTES - 1_000 < len(text) <= REPORT_BYTES


def test_a_dump_has_all_the_room_that_the_output_leaves_and_half_of_it_for_certain() -> None:
    dump = lines_of(CURRENT, *(f"  File {number} {'y' * 90}" for number in range(2 * DUMP_LINES)))
    alone = json.loads(report(dying(lines_of("a line"), dump), ""))
    assert (len(alone["output"]), alone["stack_dump"][:2]) == (1, [CURRENT, dump[1].text])
    assert len(json.dumps(alone["stack_dump"])) > REPORT_BYTES - 1_000
    both = json.loads(report(dying(lines_of(*["x" * 900] * KEPT_LINES), dump), ""))
    assert both["stack_dump"][0] == CURRENT
    assert DUMP_BYTES - 200 < len(json.dumps(both["stack_dump"], separators=(",", ":"))) <= DUMP_BYTES + 2
    assert len(both["output"]) == (REPORT_BYTES - DUMP_BYTES) // 950


def test_what_the_child_printed_before_the_attempt_is_not_about_it() -> None:
    lines = tuple(OutputLine("stdout", at_ms, f"at {at_ms}") for at_ms in (3, 5, 8))
    death = since(dying(lines, lines[:1], exit_code=1), 5)
    assert (texts(death.last_output), death.stack_dump, death.exit_code) == (["at 5", "at 8"], (), 1)


anything = st.builds(
    OutputLine, st.sampled_from(["stdout", "stderr"]), st.integers(0, 2**41), st.text(max_size=2_000)
)


@given(output=st.lists(anything, max_size=KEPT_LINES), dump=st.lists(anything, max_size=20), why=st.text())
def test_a_report_is_bounded_whatever_was_printed(output: list[OutputLine], dump: list[OutputLine], why: str) -> None:
    text = report(dying(tuple(output), tuple(dump), exit_code=1), why * 100)
    assert len(text.encode(errors="replace")) <= REPORT_BYTES
    told = json.loads(text)["output"]
    assert [one["text"] for one in told] == texts(output[len(output) - len(told) :])


def test_a_report_of_characters_that_grow_when_they_are_written_is_bounded_too() -> None:
    text = report(dying(lines_of(*["\0\x1b\ufffd" * 600] * KEPT_LINES), lines_of(*["\0" * 2_000] * 20)), "\0" * 9_999)
    assert len(text.encode()) <= REPORT_BYTES
