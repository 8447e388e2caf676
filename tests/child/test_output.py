"""What a child prints is about what runs in it when it prints it, not when it is read."""

from __future__ import annotations

import os
from collections.abc import Mapping

import pytest
import trio
import trio.testing

from ffsuper.child.process import LINE_BYTES, Child, OutputPipe
from ffsuper.child.spawning import open_fork_server
from ffsuper.messages import Completed
from tests.child.children import LIMIT_S, SETTINGS, ask

FIRST, SECOND = {"execution": "{fp:1}:first", "attempt": 0}, {"execution": "{fp:1}:second", "attempt": 2}


async def test_what_was_printed_before_an_execution_ended_is_told_as_its_own() -> None:
    seen: list[tuple[Mapping[str, object], str, str]] = []

    def note(child: Child, stream: str, line: str) -> None:
        seen.append((child.running, stream, line))

    with trio.fail_after(LIMIT_S):
        async with open_fork_server(SETTINGS, note) as server:
            child = await server.spawn()
            for running in (FIRST, SECOND):
                child.note_running(running)
                assert await ask(child, "print", 100) == Completed(b"")
                child.note_running({})
            await child.aclose()
    told = [(running, stream) for running, stream, _ in seen]
    for running in (FIRST, SECOND):
        assert (told.count((running, "stdout")), told.count((running, "stderr"))) == (100, 1)
    assert len(seen) == 202


class Printing:
    """A pipe with both its ends, and the lines that came out of it."""

    def __init__(self) -> None:
        read, self._write = os.pipe2(os.O_CLOEXEC)
        self.lines: list[str] = []
        self.pipe = OutputPipe(read, lambda line: self.lines.append(line.decode()))

    def print(self, text: str) -> None:
        os.write(self._write, text.encode())

    def end(self) -> None:
        os.close(self._write)


@pytest.fixture
def printing() -> Printing:
    return Printing()


async def test_a_line_that_has_no_end_yet_ends_where_something_else_begins_to_run(printing: Printing) -> None:
    printing.print("one\ntw")
    printing.pipe.read_now()
    printing.print("o\nthree")
    printing.end()
    await printing.pipe.read()
    assert printing.lines == ["one", "tw", "o", "three"]


async def test_nothing_to_read_is_no_line(printing: Printing) -> None:
    printing.pipe.read_now()
    printing.end()
    printing.pipe.read_now()
    await printing.pipe.read()
    printing.pipe.read_now()
    assert printing.lines == []


async def test_a_reader_that_waits_takes_nothing_twice(printing: Printing, nursery: trio.Nursery) -> None:
    nursery.start_soon(printing.pipe.read)
    await trio.testing.wait_all_tasks_blocked()
    printing.print("one\n")
    printing.pipe.read_now()
    printing.print("two\n")
    printing.end()
    while len(printing.lines) < 2:
        await trio.lowlevel.checkpoint()
    assert printing.lines == ["one", "two"]


async def test_a_long_line_is_cut(printing: Printing) -> None:
    printing.print("x" * (2 * LINE_BYTES + 1))
    printing.end()
    await printing.pipe.read()
    assert [len(line) for line in printing.lines] == [LINE_BYTES, LINE_BYTES, 1]
