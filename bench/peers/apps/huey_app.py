"""Huey, with results."""

from __future__ import annotations

import os
import time

import marks
from huey import RedisHuey

huey = RedisHuey("bench", url=os.environ["BENCH_URL"], notify_result=True)


@huey.task()
def no_op() -> int:
    """Do nothing."""
    marks.mark()
    return 1


@huey.task()
def work(number: int, linger_s: float) -> int:
    """Say that it has started, and linger."""
    marks.mark(number)
    time.sleep(linger_s)
    return number


async def fill(count: int) -> None:
    """Submit no-ops."""
    for _ in range(count):
        no_op()


async def submit(number: int, linger_s: float) -> None:
    """Submit one."""
    work(number, linger_s)
