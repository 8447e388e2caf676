"""A handler of ffsuper's worker that many executions share one child with."""

from __future__ import annotations

import marks
import trio

from ffsuper import AsyncContext, handler


@handler("no-op")
async def no_op(ctx: AsyncContext) -> None:
    """Do nothing, for ever."""
    marks.mark()
    await trio.sleep_forever()
