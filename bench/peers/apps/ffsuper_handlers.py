"""The handlers of ffsuper's worker."""

from __future__ import annotations

import time
from typing import Any

import marks

from ffsuper import Context, Suspend, handler


@handler("no-op")
def no_op(ctx: Context) -> int:
    """Do nothing."""
    marks.mark()
    return 1


@handler("work")
def work(ctx: Context, job: Any) -> Any:
    """Say that it has started, and linger."""
    number, linger_s = job
    marks.mark(number)
    time.sleep(linger_s)
    return number


@handler("wait")
def wait(ctx: Context, job: Any) -> Any:
    """Wait for a signal, and say that it has come."""
    if not ctx.signals:
        raise Suspend("go")
    marks.mark(job)
    return job
