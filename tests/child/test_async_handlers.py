"""Async handlers in real children, on trio and on asyncio alike."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

import pytest

from ffsuper.child.process import Child
from ffsuper.child.server_process import ForkServerSettings
from ffsuper.messages import (
    FRAMES_IN_FLIGHT,
    Completed,
    CreateWaitpoint,
    Emit,
    Emitted,
    Ended,
    Failed,
    InterruptReason,
    OnTimeout,
    Progress,
    ReportUsage,
    Suspended,
    UsageReported,
    WaitpointCreated,
)
from tests.child.children import Output, ask, hear, one_child, start

LIBRARIES = ("trio", "asyncio")


def child_on(library: str, output: Output | None = None) -> AbstractAsyncContextManager[Child]:
    return one_child(output, ForkServerSettings((f"tests.child.{library}_handlers_for_tests",)))


@pytest.mark.parametrize("library", LIBRARIES)
async def test_many_run_at_once_in_one_child(library: str) -> None:
    async with child_on(library) as child:
        pids = set()
        for task in range(1, 11):
            await child.send(start("forever", task=task))
            message = await child.receive()
            assert isinstance(message, Progress)
            assert message.task == task
            pids.add(message.message)
        assert pids == {str(child.pid)}
        await child.send(start("echo", b"\x00\xff", task=11))
        assert await child.receive() == Ended(11, Completed(b"\x00\xff"))


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(
    ("reason", "category"),
    [(InterruptReason.TIMEOUT, "timeout"), (InterruptReason.CANCELLED, "cancelled")],
)
async def test_a_cancelled_one_cleans_up_and_leaves_its_siblings_alone(
    library: str, reason: InterruptReason, category: str
) -> None:
    output: Output = []
    async with child_on(library, output) as child:
        for task in (1, 2):
            await child.send(start("forever", task=task))
            await child.receive()
        child.interrupt(1, reason)
        message = await child.receive()
        assert isinstance(message, Ended)
        assert message.task == 1
        assert isinstance(message.outcome, Failed)
        assert message.outcome.category == category
        await child.send(start("echo", b"on", task=3))
        assert await child.receive() == Ended(3, Completed(b"on"))
        child.interrupt(2, reason)
        message = await child.receive()
        assert isinstance(message, Ended)
        assert message.task == 2
        child.kill()
        await child.wait_dead()
    cleaned_up = f"cleaned up, cancelled {reason is InterruptReason.CANCELLED}"
    assert sum(line.endswith(cleaned_up) for _, _, line in output) == 2


@pytest.mark.parametrize("library", LIBRARIES)
async def test_frames_wait_for_room(library: str) -> None:
    async with child_on(library) as child:
        await child.send(start("emit", FRAMES_IN_FLIGHT + 1))
        for number in range(FRAMES_IN_FLIGHT):
            assert await hear(child) == Emit(1, "output", "", str(number).encode())
        await child.send(Emitted(1, 1, ""))
        assert await hear(child) == Emit(1, "output", "", str(FRAMES_IN_FLIGHT).encode())
        assert await hear(child) == Completed(b"")


@pytest.mark.parametrize("library", LIBRARIES)
async def test_requests_are_answered(library: str) -> None:
    async with child_on(library) as child:
        assert isinstance(await ask(child, "ask"), ReportUsage)
        await child.send(UsageReported(1, 1, "OK", "", 0, 0))
        assert await hear(child) == CreateWaitpoint(1, 2, "mine", 60_000)
        await child.send(WaitpointCreated(1, 2, "id", "mine", "token"))
        assert await hear(child) == Completed(b'["ok", "token"]')


@pytest.mark.parametrize("library", LIBRARIES)
async def test_what_they_raise_is_their_outcome(library: str) -> None:
    async with child_on(library) as child:
        assert await ask(child, "raise", "fatal") == Failed("hopeless", "fatal", retryable=False)
        assert await ask(child, "raise", "value") == Failed("ValueError: broken", "exception")
        assert await ask(child, "raise", "suspend") == Suspended(
            "waiting_for_signal", ("a",), False, None, OnTimeout.FAIL, ""
        )


async def test_a_plain_handler_beside_async_ones_runs_by_itself() -> None:
    async with child_on("asyncio") as child:
        for _ in range(2):
            assert await ask(child, "plain", b"x") == Progress(1, 50, "")
            assert await hear(child) == Completed(b"x")
            assert await ask(child, "echo", b"y") == Completed(b"y")


@pytest.mark.parametrize("library", LIBRARIES)
async def test_an_idle_child_leaves_by_itself(library: str) -> None:
    async with child_on(library) as child:
        assert await ask(child, "echo", b"") == Completed(b"")
        await child.aclose()
        assert (await child.wait_dead()).exit_code == 0
