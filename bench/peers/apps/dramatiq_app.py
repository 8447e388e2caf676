"""Dramatiq. ``BENCH_RESULTS``: store them."""

from __future__ import annotations

import os
import time
from typing import Any

import dramatiq
import marks
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

URL = os.environ["BENCH_URL"]
broker = RedisBroker(url=URL)
OPTIONS: dict[str, Any] = {}
if "BENCH_RESULTS" in os.environ:
    broker.add_middleware(Results(backend=RedisBackend(url=URL)))
    OPTIONS["store_results"] = True
dramatiq.set_broker(broker)


@dramatiq.actor(**OPTIONS)
def no_op() -> int:
    """Do nothing."""
    marks.mark()
    return 1


@dramatiq.actor(**OPTIONS)
def work(number: int, linger_s: float) -> int:
    """Say that it has started, and linger."""
    marks.mark(number)
    time.sleep(linger_s)
    return number


async def fill(count: int) -> None:
    """Submit no-ops."""
    for _ in range(count):
        no_op.send()


async def submit(number: int, linger_s: float) -> None:
    """Submit one."""
    work.send(number, linger_s)
