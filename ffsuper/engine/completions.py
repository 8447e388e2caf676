"""Tells those that wait for a member of a flow, as soon as it is announced that it has ended.

Announcements are hints: what a record says of the end is told, and no announcement is believed. What is missed, while
the subscription was broken or the store away, the sweep over dependencies finds: it is asked for at once.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Sequence

import trio

from ffsuper.channels import gathered
from ffsuper.engine.pace import received
from ffsuper.engine.settling import settle_all
from ffsuper.messages import ExecutionId, SweepReport
from ffsuper.sansio import partition
from ffsuper.sansio.pulse import Pulse, Pulses
from ffsuper.store.announcements import LISTENING
from ffsuper.store.dependencies import Dependencies, work_out
from ffsuper.store.outage import STORE_AWAY, Outage

LOG = logging.getLogger(__name__)

NAME = "completions"
# Announcements that are worked off together.
GATHERED = 500


async def run(
    dependencies: Dependencies,
    announced: trio.MemoryReceiveChannel[bytes],
    ask: trio.MemorySendChannel[None],
    reports: trio.MemorySendChannel[SweepReport],
    pulses: Pulses,
) -> None:
    """Work announcements off until their channel closes.

    Args:
        ask: for a sweep over dependencies.
    """
    outage = Outage(LOG)
    async with announced, ask, reports, pulses.open(NAME) as pulse:
        while (first := await received(announced, pulse)) is not None:
            messages = [first, *gathered(announced, GATHERED)]
            is_missed = LISTENING in messages
            try:
                await work_off(dependencies, messages, reports, pulse)
                outage.over()
            except STORE_AWAY as error:
                is_missed = True
                with pulse.resting:
                    await outage.wait(error)
            if is_missed:
                with contextlib.suppress(trio.WouldBlock, trio.BrokenResourceError):
                    ask.send_nowait(None)


async def work_off(
    dependencies: Dependencies,
    messages: Sequence[bytes],
    reports: trio.MemorySendChannel[SweepReport],
    pulse: Pulse,
) -> None:
    """Tell those that wait for what has ended.

    Raises:
        StoreError: the store is away.
    """
    read = [completion(message) for message in messages if message != LISTENING]
    if unreadable := read.count(None):
        await reports.send(SweepReport(NAME, {"unreadable": unreadable}))
    ended = dict.fromkeys(one for one in read if one is not None)
    await settle_all(dependencies, work_out(list(ended)), reports, pulse)


def completion(message: bytes) -> ExecutionId | None:
    """Return the execution that is said to have ended; None for a message that is none."""
    try:
        return partition.parse(json.loads(message)["execution_id"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
