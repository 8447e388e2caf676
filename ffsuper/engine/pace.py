"""When the engine's actors act and when they rest: what their loops have in common.

A pulse beats after every call to the store, or after two: each of them is bounded by ``[store] timeout_s``, whereas a
sweep takes as long as there are pages.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from ffsuper.sansio.pulse import Pulse
from ffsuper.store.outage import STORE_AWAY, Outage

T = TypeVar("T")

LOG = logging.getLogger(__name__)


async def keep_on(
    sweep: Callable[[], Awaitable[float | None]],
    interval_s: float,
    pulse: Pulse,
    rest: Callable[[float], Awaitable[object]] = trio.sleep,
) -> None:
    """Sweep at every interval, until cancelled; after an outage of the store at once.

    Args:
        sweep: sweeps once; returns for how long to rest then, None for the interval.
        rest: waits for so long, or less.
    """
    outage = Outage(LOG)
    while True:
        try:
            pause_s = await sweep()
        except STORE_AWAY as error:
            with pulse.resting:
                await outage.wait(error)
            continue
        outage.over()
        with pulse.resting:
            await rest(interval_s if pause_s is None else pause_s)


async def received(channel: trio.MemoryReceiveChannel[T], pulse: Pulse) -> T | None:
    """Rest until a message comes; None when the channel has closed."""
    with pulse.resting:
        try:
            return await channel.receive()
        except trio.EndOfChannel:
            return None
