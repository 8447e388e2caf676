"""Async handlers of the workers under test."""

from __future__ import annotations

import os

import trio

from ffsuper import AsyncContext, handler


@handler("together")
async def together(ctx: AsyncContext) -> int:
    """Run for a moment beside others."""
    await trio.sleep(0.2)
    return os.getpid()


@handler("for-ever")
async def for_ever(ctx: AsyncContext) -> None:
    await ctx.progress(1)
    await trio.sleep_forever()
