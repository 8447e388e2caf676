from __future__ import annotations

import trio
import trio.testing

from ffsuper.actors import lease_watcher
from ffsuper.channels import Check, LeaseNews
from ffsuper.messages import ExecutionId


async def test_every_announcement_becomes_a_check_and_the_end_closes_the_line(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ends_send, ends = trio.open_memory_channel[bytes](0)
    news_send, news = trio.open_memory_channel[LeaseNews](0)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lease_watcher.run, ends, news_send)
            await ends_send.send(b"{fp:1}:x")
            assert await news.receive() == Check(ExecutionId("{fp:1}:x"))
            ends_send.close()
            assert [one async for one in news] == []


async def test_it_ends_when_nobody_renews_any_more(autojump_clock: trio.testing.MockClock) -> None:
    ends_send, ends = trio.open_memory_channel[bytes](1)
    news_send, news = trio.open_memory_channel[LeaseNews](0)
    news.close()
    ends_send.send_nowait(b"{fp:1}:x")
    with trio.fail_after(10):
        await lease_watcher.run(ends, news_send)
