"""The submitting program, in a system's own virtual environment.

submitter.py APP fill COUNT          submit no-ops
submitter.py APP one NUMBER SECONDS  submit one that lingers
submitter.py APP pace COUNT RATE     submit numbered ones at a rate, once a first one has run; print when
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import random
import sys
import time
from typing import Any

import marks

FIRST = 0
# After the first one has run, so that what a worker does once is over.
SETTLE_S = 0.5
FIRST_WITHIN_S = 60.0


async def pace(app: Any, count: int, rate: float) -> None:
    """Submit at uneven intervals, so that nothing falls into step with a poll."""
    started = marks.count()
    await app.submit(FIRST, 0.0)
    give_up_s = time.monotonic() + FIRST_WITHIN_S
    while marks.count() == started:
        if time.monotonic() > give_up_s:
            raise SystemExit("the first one did not start")
        time.sleep(0.005)  # noqa: ASYNC251
    time.sleep(SETTLE_S)  # noqa: ASYNC251
    submitted_ns = {}
    due_s = time.monotonic()
    for number in range(FIRST + 1, FIRST + 1 + count):
        due_s += (0.5 + random.random()) / rate
        await asyncio.sleep(max(0.0, due_s - time.monotonic()))
        submitted_ns[number] = time.monotonic_ns()
        await app.submit(number, 0.0)
    print(json.dumps(submitted_ns))


async def main() -> None:
    """Do as the arguments say."""
    app: Any = importlib.import_module(sys.argv[1])
    async with getattr(app, "connected", contextlib.nullcontext)():
        match sys.argv[2:]:
            case ["fill", count]:
                await app.fill(int(count))
            case ["one", number, linger_s]:
                await app.submit(int(number), float(linger_s))
            case ["pace", count, rate]:
                await pace(app, int(count), float(rate))
            case _:
                raise SystemExit(__doc__)


if __name__ == "__main__":
    asyncio.run(main())
