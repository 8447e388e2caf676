"""The handlers of the worker whose children run many executions at a time."""

from __future__ import annotations

import os

import trio

from bench.soak.marks import mark
from ffsuper import AsyncContext, Suspend, handler

FRAMES = 20


@handler("async-no-op")
async def no_op(ctx: AsyncContext) -> int:
    """Do nothing."""
    mark("async start", ctx.execution_id)
    return 1


@handler("async-linger")
async def linger(ctx: AsyncContext, seconds: float) -> float:
    """Take a while, and show progress meanwhile."""
    for step in range(4):
        await ctx.progress(25 * step, f"step {step}")
        await trio.sleep(seconds / 4)
    return seconds


@handler("async-echo")
async def echo(ctx: AsyncContext, payload: bytes) -> bytes:
    """Return what was given, large as it is."""
    return payload


@handler("async-stream")
async def stream(ctx: AsyncContext, text: str) -> int:
    """Emit frames."""
    for number in range(FRAMES):
        await ctx.emit(text, metadata=str(number))
    return FRAMES


@handler("async-fail-once")
async def fail_once(ctx: AsyncContext) -> str:
    """Fail, and be retried."""
    if ctx.attempt_index == 0:
        raise ValueError("the first time")
    return ctx.attempt_type


@handler("async-approval")
async def approval(ctx: AsyncContext) -> str:
    """Suspend until a signal comes."""
    if not ctx.signals:
        raise Suspend("go", timeout=120)
    return ctx.signals[0].payload.decode()


@handler("async-until-cancelled")
async def until_cancelled(ctx: AsyncContext) -> None:
    """Run until it is cancelled."""
    await trio.sleep_forever()


@handler("async-leave")
async def leave(ctx: AsyncContext) -> str:
    """End the process, and with it whatever runs beside this."""
    if ctx.attempt_index == 0:
        os._exit(3)
    return ctx.attempt_type
