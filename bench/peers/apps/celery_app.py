"""Celery, prefork. ``BENCH_RESULTS``: store them; ``BENCH_REJECT``: bring back what a dead process was running."""

from __future__ import annotations

import os
import time

import marks
from celery import Celery

URL = os.environ["BENCH_URL"]
app = Celery(broker=URL, backend=URL if "BENCH_RESULTS" in os.environ else None)
app.conf.update(task_acks_late=True, worker_prefetch_multiplier=1)
if "BENCH_REJECT" in os.environ:
    app.conf.update(task_reject_on_worker_lost=True)


@app.task
def no_op() -> int:
    """Do nothing."""
    marks.mark()
    return 1


@app.task
def work(number: int, linger_s: float) -> int:
    """Say that it has started, and linger."""
    marks.mark(number)
    time.sleep(linger_s)
    return number


async def fill(count: int) -> None:
    """Submit no-ops."""
    for _ in range(count):
        no_op.delay()


async def submit(number: int, linger_s: float) -> None:
    """Submit one."""
    work.delay(number, linger_s)
