"""Taskiq. ``BENCH_STREAM``: on a stream instead of a list; ``BENCH_RESULTS``: store them.

redis-py 8 gives up waiting after five seconds unless told otherwise, and then Taskiq's workers die.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import marks
from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend, RedisStreamBroker

URL = os.environ["BENCH_URL"]
kind = RedisStreamBroker if "BENCH_STREAM" in os.environ else ListQueueBroker
broker = kind(URL, socket_timeout=None)
if "BENCH_RESULTS" in os.environ:
    broker = broker.with_result_backend(RedisAsyncResultBackend(URL))


@broker.task(task_name="no_op")
async def no_op() -> int:
    """Do nothing."""
    marks.mark()
    return 1


@broker.task(task_name="work")
async def work(number: int, linger_s: float) -> int:
    """Say that it has started, and linger."""
    marks.mark(number)
    await asyncio.sleep(linger_s)
    return number


@asynccontextmanager
async def connected() -> AsyncIterator[None]:
    """Make the stream's group, and keep a connection open."""
    await broker.startup()
    try:
        yield
    finally:
        await broker.shutdown()


async def fill(count: int) -> None:
    """Submit no-ops."""
    for _ in range(count):
        await no_op.kiq()


async def submit(number: int, linger_s: float) -> None:
    """Submit one."""
    await work.kiq(number, linger_s)
