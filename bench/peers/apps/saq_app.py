"""SAQ, with results. ``BENCH_RETRIES``: what a dead process was running may run so often."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import marks
from saq import Queue

RETRIES = int(os.environ.get("BENCH_RETRIES", "1"))
queue = Queue.from_url(os.environ["BENCH_URL"])


async def no_op(_: Any) -> int:
    """Do nothing."""
    marks.mark()
    return 1


async def work(_: Any, *, number: int, linger_s: float) -> int:
    """Say that it has started, and linger."""
    marks.mark(number)
    await asyncio.sleep(linger_s)
    return number


settings = {"queue": queue, "functions": [no_op, work], "concurrency": 8}


@asynccontextmanager
async def connected() -> AsyncIterator[None]:
    """Keep a connection open."""
    await queue.connect()
    try:
        yield
    finally:
        await queue.disconnect()


async def fill(count: int) -> None:
    """Submit no-ops."""
    for _ in range(count):
        await queue.enqueue("no_op")


async def submit(number: int, linger_s: float) -> None:
    """Submit one."""
    await queue.enqueue("work", number=number, linger_s=linger_s, retries=RETRIES)
