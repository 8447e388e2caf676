"""Running one actor of the engine, and hearing what it reports."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import trio

from ffsuper.messages import SweepReport
from tests.fakes import pulses

Run = Callable[..., Awaitable[None]]


@asynccontextmanager
async def reports_of(run: Run, *what: Any) -> AsyncIterator[Reports]:
    """Run an actor; yields what it reports."""
    send, receive = trio.open_memory_channel[SweepReport](10_000)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(run, *what, send, pulses()))
            yield Reports(receive)
            nursery.cancel_scope.cancel()


class Reports:
    """What an actor has done so far."""

    def __init__(self, receive: trio.MemoryReceiveChannel[SweepReport]) -> None:
        self._receive = receive

    async def until(self, outcome: str, count: int = 1) -> None:
        """Wait until so many entries have had this outcome."""
        while count > 0:
            count -= (await self._receive.receive()).outcomes.get(outcome, 0)

    async def any(self) -> SweepReport:
        return await self._receive.receive()

    async def failure(self) -> SweepReport:
        while not (report := await self._receive.receive()).failed:
            pass
        return report
