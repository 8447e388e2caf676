from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from ffsuper.engine import reporter
from ffsuper.messages import SweepReport
from tests.fakes import HOUR_S, pulses


@asynccontextmanager
async def reporting() -> AsyncIterator[trio.MemorySendChannel[SweepReport]]:
    send, receive = trio.open_memory_channel[SweepReport](0)
    with trio.fail_after(HOUR_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reporter.run, receive, pulses())
            async with send:
                yield send


def warnings(log: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in log.records if record.levelno == logging.WARNING]


async def test_a_failure_that_goes_on_is_told_once_in_a_while(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with reporting() as reports:
        for _ in range(int(reporter.REPEAT_S)):
            await reports.send(SweepReport("delayed", failed=3, example="{fp:1}:one", why="WRONGTYPE"))
            await trio.sleep(1)
        assert len(warnings(caplog)) == 1
        await reports.send(SweepReport("delayed", failed=3, example="{fp:1}:one", why="WRONGTYPE"))
    assert len(warnings(caplog)) == 2
    told = vars(warnings(caplog)[0])
    assert (told["sweep"], told["entries"], told["example"], told["error"]) == (
        "delayed",
        3,
        "{fp:1}:one",
        "WRONGTYPE",
    )


async def test_another_failure_is_told_at_once(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with reporting() as reports:
        await reports.send(SweepReport("delayed", failed=1, why="WRONGTYPE"))
        await reports.send(SweepReport("delayed", failed=1, why="other"))
        await reports.send(SweepReport("lease_expiry", failed=1, why="other"))
    assert len(warnings(caplog)) == 3


async def test_what_is_remembered_of_failures_is_bounded(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with reporting() as reports:
        for number in range(reporter.REMEMBERED + 1):
            await reports.send(SweepReport("delayed", failed=1, why=f"error {number}"))
        await reports.send(SweepReport("delayed", failed=1, why="error 0"))
    assert len(warnings(caplog)) == reporter.REMEMBERED + 2


async def test_a_minute_is_told_in_one_line_for_each_sweep_that_did_something(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with reporting() as reports:
        for _ in range(90):
            await reports.send(SweepReport("delayed", {"promoted": 2}, late_ms=7.4))
            await reports.send(SweepReport("lease_expiry"))
            await trio.sleep(1)
    lines = [vars(record) for record in caplog.records if record.message == "swept"]
    assert [(line["sweep"], line["promoted"], line["late_ms_max"]) for line in lines] == [
        ("delayed", 120, 7),
        ("delayed", 60, 7),
    ]
