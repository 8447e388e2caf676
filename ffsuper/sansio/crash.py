"""What is kept of a child's output in case it dies, and the report of its crash.

A child that crashes, or is shown once more before it is killed, has faulthandler write a stack dump to its stderr, in
the midst of what else it prints: a part for each thread, its frames indented, with an empty line between parts. The
dump is kept apart, so that neither it nor the output drives the other out.
"""

from __future__ import annotations

import json
import re
import signal
from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from typing import TypeVar

from ffsuper.messages import Death, OutputLine

T = TypeVar("T")

REPORT_BYTES = 16_384
# Of these, what the stack dump may take from the output.
DUMP_BYTES = 8_192
KEPT_LINES = 50
# Of the thread that was interrupted or crashed, and of all others together; faulthandler shows 100 frames of each.
DUMP_LINES = 150
WHY_CHARACTERS = 500

FATAL = "Fatal Python error: "
FRAMES_FOLLOW = "(most recent call first):"
THREAD = re.compile("(Current thread|Thread)( 0x[0-9a-f]+ |'s C stack trace )")
INSIDE = ("  ", "<", "Extension modules: ")


class Output:
    """The last lines that a child has printed, and its last stack dump.

    Attributes:
        lines: oldest first, without dumps.
    """

    def __init__(self) -> None:
        self.lines: deque[OutputLine] = deque(maxlen=KEPT_LINES)
        self._current: list[OutputLine] = []
        self._others: list[OutputLine] = []
        # The one of the two that is being written; None outside of a dump.
        self._part: list[OutputLine] | None = None
        self._is_between_parts = False

    @property
    def dump(self) -> tuple[OutputLine, ...]:
        """The stack dump, the thread first that was interrupted or crashed."""
        return (*self._current, *self._others)

    def add(self, line: OutputLine) -> None:
        """Take the next line that the child has printed."""
        if line.stream != "stderr":
            self.lines.append(line)
        elif (start := part_start(line.text)) is not None:
            self._begin_part(line, start)
        elif self._part is not None and (not line.text or line.text.startswith(INSIDE)):
            self._is_between_parts = not line.text
            self._add_to_part(line)
        else:
            self._part = None
            self.lines.append(line)

    def _begin_part(self, line: OutputLine, start: int) -> None:
        """Begin a part, and a dump with it where none goes on.

        Args:
            start: of the part's first line, behind what the child has printed without a line end.
        """
        if start:
            self.lines.append(replace(line, text=line.text[:start]))
        first = replace(line, text=line.text[start:])
        if self._part is None or not self._is_between_parts or first.text.startswith(FATAL):
            self._current, self._others = [], []
        self._part = self._others if first.text.startswith("Thread") else self._current
        self._is_between_parts = False
        self._add_to_part(first)

    def _add_to_part(self, line: OutputLine) -> None:
        if self._part is not None and line.text and len(self._part) < DUMP_LINES:
            self._part.append(line)


def part_start(text: str) -> int | None:
    """Return where a part of a dump begins in a line; None when none does."""
    if text.startswith(FATAL):
        return 0
    if not text.endswith(FRAMES_FOLLOW):  # most lines do not, and need no search
        return None
    begin = THREAD.search(text)
    return None if begin is None else begin.start()


def since(death: Death, begin_ms: int) -> Death:
    """Return a death without what the child had printed earlier: that is about other executions."""
    return replace(
        death,
        last_output=tuple(line for line in death.last_output if line.at_ms >= begin_ms),
        stack_dump=tuple(line for line in death.stack_dump if line.at_ms >= begin_ms),
    )


def report(death: Death, why_killed: str) -> str:
    """Return the crash report: JSON text of at most ``REPORT_BYTES``.

    Its members are ``pid``, ``signal`` (a name) and ``exit_code``, one of them null, ``why_killed``,
    ``peak_memory_bytes`` (0 when unknown), ``output`` (list of ``stream``, ``at_ms``, ``text``; oldest first) and
    ``stack_dump`` (list of texts). Of output that does not fit the oldest lines are left out, of a dump the last.

    Args:
        why_killed: by us, in words; empty when it was not.
    """
    told = {
        "pid": death.pid,
        "signal": None if death.signal is None else signal_name(death.signal),
        "exit_code": death.exit_code,
        "why_killed": why_killed[:WHY_CHARACTERS],
        "peak_memory_bytes": death.peak_memory_bytes,
    }
    newest_first = [
        {"stream": one.stream, "at_ms": one.at_ms, "text": one.text} for one in reversed(death.last_output)
    ]
    room = REPORT_BYTES - size_bytes({**told, "output": [], "stack_dump": []})
    dump_room = max(DUMP_BYTES, room - size_bytes(newest_first))
    dump = fitting((one.text for one in death.stack_dump), dump_room)
    output = fitting(newest_first, room - size_bytes(dump))
    return encoded({**told, "output": output[::-1], "stack_dump": dump})


def fitting(values: Iterable[T], room_bytes: int) -> list[T]:
    """Return the first values, as many as fit into a JSON list of this size."""
    found = []
    for value in values:
        room_bytes -= size_bytes(value) + 1
        if room_bytes < 0:
            break
        found.append(value)
    return found


def size_bytes(value: object) -> int:
    """Return how much a value takes as JSON."""
    return len(encoded(value).encode(errors="replace"))


def encoded(value: object) -> str:
    """Return a value as JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def signal_name(number: int) -> str:
    """Return a signal's name, ``SIGSEGV``; of one that has none, its number."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
