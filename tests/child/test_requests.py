"""What handlers ask for while they run, and how they end besides returning; in real children."""

from __future__ import annotations

import pytest

from ffsuper.messages import (
    FRAMES_IN_FLIGHT,
    CancelledByHandler,
    Completed,
    CreateWaitpoint,
    Emit,
    Emitted,
    Failed,
    OnTimeout,
    Progress,
    ReceivedSignal,
    ReportUsage,
    RequestFailed,
    Suspended,
    UsageReported,
    WaitingForChildren,
    WaitpointCreated,
)
from tests.child.children import ask, hear, one_child, start


async def test_frames_come_in_order_and_no_more_than_may_be_on_their_way() -> None:
    async with one_child() as child:
        await child.send(start("emit", FRAMES_IN_FLIGHT + 2))
        for number in range(FRAMES_IN_FLIGHT):
            assert await hear(child) == Emit(1, "delta", str(number), f"frame {number}".encode())
        await child.send(Emitted(1, 2, ""))
        for number in range(FRAMES_IN_FLIGHT, FRAMES_IN_FLIGHT + 2):
            assert await hear(child) == Emit(1, "delta", str(number), f"frame {number}".encode())
        assert await hear(child) == Completed(b"")


async def test_a_refused_frame_is_raised_by_a_later_one() -> None:
    async with one_child() as child:
        await child.send(start("emit", FRAMES_IN_FLIGHT + 1))
        for _ in range(FRAMES_IN_FLIGHT):
            await hear(child)
        await child.send(Emitted(1, FRAMES_IN_FLIGHT, "stream_closed"))
        assert await hear(child) == Failed("RequestRefused: a frame was refused: stream_closed", "exception")


async def test_a_frame_that_is_too_large_is_the_handlers_error() -> None:
    async with one_child() as child:
        failure = await ask(child, "emit-too-much")
        assert failure == Failed("ValueError: a frame of 65537 bytes is over the limit of 65536", "exception")


async def test_a_usage_report_waits_for_its_answer() -> None:
    async with one_child() as child:
        budget = "11111111-1111-1111-1111-111111111111"
        assert await ask(child, "usage") == ReportUsage(1, 1, budget, {"tokens": 5}, "once")
        await child.send(UsageReported(1, 1, "SOFT_BREACH", "tokens", 9, 8))
        assert await hear(child) == Completed(b'["soft_breach", "tokens", 9, 8]')


async def test_a_request_that_failed_is_raised() -> None:
    async with one_child() as child:
        await ask(child, "usage")
        await child.send(RequestFailed(1, 1, "no such budget"))
        assert await hear(child) == Failed("RequestRefused: no such budget", "exception")


async def test_a_handler_suspends_on_the_waitpoint_it_has_handed_out() -> None:
    async with one_child() as child:
        assert await ask(child, "ask-for-approval") == CreateWaitpoint(1, 1, "", 60_000)
        await child.send(WaitpointCreated(1, 1, "point", "key", "token"))
        assert await hear(child) == Progress(1, 1, "token")
        assert await hear(child) == Suspended(
            "waiting_for_approval", ("approved",), False, 30_000, OnTimeout.RESUME, "point"
        )


async def test_the_signals_that_ended_a_suspension_are_given_in_order() -> None:
    signals = tuple(ReceivedSignal(name, name, "", "", "", "", 5, b"said " + name.encode()) for name in ("b", "a"))
    async with one_child() as child:
        await child.send(start("ask-for-approval", signals=signals))
        assert await hear(child) == Completed(b'[["b", "said b"], ["a", "said a"]]')


@pytest.mark.parametrize(
    ("how", "outcome"), [("wait", WaitingForChildren()), ("cancel", CancelledByHandler("enough"))]
)
async def test_other_ends_are_told(how: str, outcome: WaitingForChildren | CancelledByHandler) -> None:
    async with one_child() as child:
        assert await ask(child, "other-ends", how) == outcome


async def test_the_deadline_is_a_time_with_zone() -> None:
    async with one_child() as child:
        await child.send(start("deadline", deadline_ms=1_700_000_000_123))
        assert await hear(child) == Completed(b'"2023-11-14 22:13:20.123000+00:00"')
