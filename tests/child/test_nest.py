"""What the ledger is told of children: which are there, and of what the others have died unasked."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import cast

import pytest
import trio
import trio.testing

from ffsuper.child.nest import Fault, Nest
from ffsuper.config import ChildrenConfig
from ffsuper.errors import RestartLimitError
from ffsuper.messages import Start
from ffsuper.sansio.ledger import Ledger
from tests.fake_children import FakeChild, FakeForkServer
from tests.fakes import HOUR_S


@dataclass
class Rig:
    nest: Nest
    ledger: Ledger
    fork_server: FakeForkServer

    async def child(self) -> FakeChild:
        return cast("FakeChild", await self.nest.ready_child())


async def nothing(child: FakeChild, start: Start) -> None:
    """Do nothing."""


@asynccontextmanager
async def nesting() -> AsyncIterator[Rig]:
    with trio.fail_after(HOUR_S):
        async with trio.open_nursery() as nursery:
            fork_server, ledger = FakeForkServer(nursery, nothing, {"job": None}), Ledger()
            yield Rig(Nest(fork_server, ChildrenConfig(count=1), None, nursery, ledger), ledger, fork_server)
            nursery.cancel_scope.cancel()


async def test_a_child_that_is_asked_to_go_has_not_died(autojump_clock: trio.testing.MockClock) -> None:
    async with nesting() as rig:
        child = await rig.child()
        assert rig.ledger.children == {child.pid}
        await rig.nest.close()
        assert (rig.ledger.children, rig.ledger.deaths.total()) == (set(), 0)


@pytest.mark.parametrize(
    ("end", "cause"),
    [
        (lambda nest, child: child.die(exit_code=3), "exit"),
        (lambda nest, child: child.die(by_signal=11), "SIGSEGV"),
        (lambda nest, child: child.die(by_signal=9), "SIGKILL"),
        (lambda nest, child: nest.kill(child, Fault("too large", "memory")), "memory"),
        (lambda nest, child: nest.kill(child, Fault("spoke nonsense")), "crash"),
        (lambda nest, child: nest.kill(child, Fault("a handler did not end", culprit=1)), "handler"),
    ],
)
async def test_a_death_is_counted_by_its_cause_and_the_child_replaced(
    end: Callable[[Nest, FakeChild], None], cause: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with nesting() as rig:
        first = await rig.child()
        end(rig.nest, first)
        second = await rig.child()
        assert (rig.ledger.children, rig.ledger.deaths) == ({second.pid}, {cause: 1})


async def test_a_child_that_does_not_start_is_counted_too(autojump_clock: trio.testing.MockClock) -> None:
    async with nesting() as rig:
        rig.fork_server.failures = 2
        child = await rig.child()
        assert (rig.ledger.children, rig.ledger.deaths) == ({child.pid}, {"start": 2})


@pytest.mark.parametrize(
    ("end", "told"),
    [
        (lambda nest, child: child.die(by_signal=9), "the last one was killed by SIGKILL"),
        (
            lambda nest, child: nest.kill(child, Fault("killed at 9 MiB of memory")),
            "the last one was killed at 9 MiB",
        ),
    ],
)
async def test_when_too_many_die_the_error_tells_how_the_last_one_did(
    end: Callable[[Nest, FakeChild], None], told: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with nesting() as rig:
        for _ in range(ChildrenConfig().max_restarts + 1):
            end(rig.nest, await rig.child())
        with pytest.raises(RestartLimitError, match=told):
            await rig.child()


async def test_when_too_many_do_not_start_the_error_tells_why(autojump_clock: trio.testing.MockClock) -> None:
    async with nesting() as rig:
        rig.fork_server.failures = 100
        with pytest.raises(RestartLimitError, match="the last one did not start: the test lets it fail"):
            await rig.child()
