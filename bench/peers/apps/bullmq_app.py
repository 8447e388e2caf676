"""BullMQ for Python, with results; run as a program it is a worker.

redis-py 8 gives up waiting after five seconds unless told otherwise, and then BullMQ pauses for fifteen.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import marks
from bullmq import Queue, Worker

ADDRESS = urlsplit(os.environ["BENCH_URL"])
CONNECTION = {"host": ADDRESS.hostname, "port": ADDRESS.port, "socket_timeout": None}
BATCH = 500
queues: list[Queue] = []


async def handle(job: Any, _: str) -> int:
    """Do nothing; or say that it has started, and linger."""
    number = job.data.get("number", marks.NO_OP)
    marks.mark(number)
    if job.name == "work":
        await asyncio.sleep(job.data["linger_s"])
    return 1


async def serve() -> None:
    """Be a worker."""
    worker = Worker("bench", handle, {"connection": CONNECTION, "concurrency": 8, "autorun": False})
    await worker.run()


@asynccontextmanager
async def connected() -> AsyncIterator[None]:
    """Keep a connection open."""
    queues.append(Queue("bench", {"connection": CONNECTION}))
    try:
        yield
    finally:
        await queues[0].close()


async def fill(count: int) -> None:
    """Submit no-ops."""
    for first in range(0, count, BATCH):
        wanted = [{"name": "no_op", "data": {}} for _ in range(min(BATCH, count - first))]
        await queues[0].addBulk(wanted)


async def submit(number: int, linger_s: float) -> None:
    """Submit one."""
    await queues[0].add("work", {"number": number, "linger_s": linger_s})


if __name__ == "__main__":
    asyncio.run(serve())
