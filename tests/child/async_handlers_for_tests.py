"""Async handlers; ``register`` is called by one module for each library."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Literal

from ffsuper import AsyncContext, Fatal, Suspend, handler


def register(library: Literal["trio", "asyncio"], sleep: Callable[[float], Any]) -> None:
    """Register the handlers for a library."""

    @handler("echo", library=library)
    async def echo(ctx: AsyncContext, payload: bytes) -> bytes:
        await sleep(0)
        return payload

    @handler("forever", library=library)
    async def forever(ctx: AsyncContext) -> None:
        await ctx.progress(1, str(os.getpid()))
        try:
            await sleep(3600)
        finally:
            ctx.log.info("cleaned up, cancelled %s", ctx.cancelled)

    @handler("emit", library=library)
    async def emit(ctx: AsyncContext, count: int) -> None:
        for number in range(count):
            await ctx.emit(str(number))

    @handler("ask", library=library)
    async def ask(ctx: AsyncContext) -> list[str]:
        used = await ctx.report_usage("11111111-1111-1111-1111-111111111111", {"tokens": 5})
        point = await ctx.create_waitpoint(60, key="mine")
        return [used.status, point.token]

    @handler("raise", library=library)
    async def raises(ctx: AsyncContext, what: str) -> None:
        await sleep(0)
        raise {"fatal": Fatal("hopeless"), "value": ValueError("broken"), "suspend": Suspend("a")}[what]
