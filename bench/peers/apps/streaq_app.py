"""streaQ, with results. ``BENCH_IDLE_S``: what a dead process was running comes back after that."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import marks
from streaq import Worker

BATCH = 500
worker = Worker(
    redis_url=os.environ["BENCH_URL"], concurrency=8, idle_timeout=float(os.environ.get("BENCH_IDLE_S", "60"))
)


@worker.task(silent=True)
async def no_op() -> int:
    """Do nothing."""
    marks.mark()
    return 1


@worker.task(silent=True)
async def work(number: int, linger_s: float) -> int:
    """Say that it has started, and linger."""
    marks.mark(number)
    await asyncio.sleep(linger_s)
    return number


@asynccontextmanager
async def connected() -> AsyncIterator[None]:
    """Keep a connection open."""
    async with worker:
        yield


async def fill(count: int) -> None:
    """Submit no-ops."""
    for first in range(0, count, BATCH):
        await worker.enqueue_many([no_op.enqueue() for _ in range(min(BATCH, count - first))])


async def submit(number: int, linger_s: float) -> None:
    """Submit one."""
    await work.enqueue(number, linger_s)
