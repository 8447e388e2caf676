"""Tells those that wait for a member of a flow, as soon as it is announced that it has ended."""

from __future__ import annotations

import json
import logging
import uuid

import trio

from ffsuper.errors import StoreError
from ffsuper.messages import ExecutionId, SweepReport
from ffsuper.sansio import partition
from ffsuper.store.flows import Completion, Dispatcher
from ffsuper.store.housekeeping import BEGIN
from ffsuper.store.outage import STORE_AWAY, Outage

LOG = logging.getLogger(__name__)

NAME = "completions"
# Calls in one pipeline.
BATCH = 16


async def run(
    dispatcher: Dispatcher,
    announced: trio.MemoryReceiveChannel[bytes],
    reports: trio.MemorySendChannel[SweepReport],
) -> None:
    """Work messages off until their channel closes."""
    outage = Outage(LOG)
    async with reports:
        async for message in announced:
            ended = [message]
            while len(ended) < BATCH:
                try:
                    ended.append(announced.receive_nowait())
                except (trio.WouldBlock, trio.EndOfChannel):
                    break
            left = [(one, BEGIN) for one in map(completion, ended) if one is not None]
            if len(left) < len(ended):
                await reports.send(SweepReport(NAME, {"unreadable": len(ended) - len(left)}))
            while left:
                try:
                    left = await dispatch(dispatcher, left, reports)
                except STORE_AWAY as error:
                    await outage.wait(error)
                else:
                    outage.over()


def completion(message: bytes) -> Completion | None:
    """Read a message; None when it is none."""
    try:
        told = json.loads(message)
        return Completion(partition.parse(told["execution_id"]), str(uuid.UUID(told["flow_id"])))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


async def dispatch(
    dispatcher: Dispatcher, ended: list[tuple[Completion, str]], reports: trio.MemorySendChannel[SweepReport]
) -> list[tuple[Completion, str]]:
    """Tell some of those that wait for each; return for which there are more, and where to go on.

    Raises:
        StoreError: the store is away; what was done is done, and may be repeated.
    """
    more = []
    for (one, _), page in zip(ended, await dispatcher.dispatch(ended), strict=True):
        if isinstance(page, STORE_AWAY):
            raise page
        if isinstance(page, StoreError):
            await reports.send(SweepReport(NAME, failed=1, example=ExecutionId(one.execution_id), why=str(page)))
            continue
        if page.cursor != BEGIN:
            more.append((one, page.cursor))
        await reports.send(SweepReport(NAME, page.outcomes, page.failed, page.example, page.why))
    return more
