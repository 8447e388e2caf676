"""Async handlers on asyncio, and a plain one."""

from __future__ import annotations

import asyncio

from ffsuper import Context, handler
from tests.child.async_handlers_for_tests import register

register("asyncio", asyncio.sleep)


@handler("plain")
def plain(ctx: Context, payload: bytes) -> bytes:
    ctx.progress(50)
    return payload
