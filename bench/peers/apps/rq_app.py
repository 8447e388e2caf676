"""RQ. ``BENCH_RETRIES``: what a dead process was running may run so often again."""

from __future__ import annotations

import os
import time

import marks
from redis import Redis
from rq import Queue, Retry

RETRIES = int(os.environ.get("BENCH_RETRIES", "0"))


def no_op() -> int:
    """Do nothing."""
    marks.mark()
    return 1


def work(number: int, linger_s: float) -> int:
    """Say that it has started, and linger."""
    marks.mark(number)
    time.sleep(linger_s)
    return number


def queue() -> Queue:
    """Return the queue."""
    return Queue(connection=Redis.from_url(os.environ["BENCH_URL"]))


async def fill(count: int) -> None:
    """Submit no-ops."""
    wanted = queue()
    for _ in range(count):
        wanted.enqueue("rq_app.no_op")


async def submit(number: int, linger_s: float) -> None:
    """Submit one."""
    queue().enqueue("rq_app.work", number, linger_s, retry=Retry(max=RETRIES) if RETRIES else None)
