"""A worker that is retired, or ends, just while it parts with a child."""

from __future__ import annotations

import os
import signal

import trio
import trio.testing

from ffsuper.child.nest import Nest
from ffsuper.config import ChildrenConfig
from ffsuper.messages import InterruptReason
from ffsuper.sansio.ledger import Ledger
from tests.child.children import serving


async def test_nobody_is_harmed_when_parting_with_a_child_is_given_up() -> None:
    async with serving() as fork_server, trio.open_nursery() as nursery:
        nest = Nest(fork_server, ChildrenConfig(count=1, recycle_after=1), None, nursery, Ledger())
        child = await nest.ready_child()
        os.kill(child.pid, signal.SIGSTOP)  # it leaves only when it is killed
        for _ in range(2):
            task, _ = nest.open_task(child, {})
            nest.close_task(task)
        await trio.testing.wait_all_tasks_blocked()  # somebody listens to the child
        with trio.CancelScope() as making:
            nursery.start_soon(cancel_soon, making)
            await nest.ready_child()
        assert making.cancelled_caught
        await trio.testing.wait_all_tasks_blocked()
        assert (await child.wait_dead()).signal == signal.SIGKILL
        nursery.cancel_scope.cancel()


async def cancel_soon(scope: trio.CancelScope) -> None:
    await trio.testing.wait_all_tasks_blocked()
    scope.cancel()


async def test_who_listens_to_a_child_that_was_let_go_hears_nothing_more() -> None:
    async with serving() as fork_server:
        child = await fork_server.spawn()
        await child.aclose()
        assert await child.receive() is None
        child.interrupt(1, InterruptReason.TIMEOUT)
