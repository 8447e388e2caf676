"""The alive key is held by one process, and only while that works; what operators order is obeyed."""

from __future__ import annotations

import json
import math
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from ffsuper.actors import presence
from ffsuper.errors import FencedError, InstanceTakenError
from ffsuper.holder import STARTED_TICKS, describe_self, status_of
from ffsuper.messages import Offer, Order
from ffsuper.sansio.ledger import Ledger
from ffsuper.sansio.pulse import Pulses
from ffsuper.standing import Standing, State
from tests.fakes import HOUR_S, LANE, FakeStore

TTL_MS = 60_000
STUCK_S = 30.0
# Too deep for the parser.
NESTED = b"[" * 200_000
INSTANCE = "worker-1"


class Rig:
    """A store, and the ends of the actor's channels that are not its own."""

    def __init__(self, store: FakeStore | None = None) -> None:
        self.store = store or FakeStore()
        pulses = Pulses(trio.current_time)
        self.standing = Standing(pulses, Ledger(), STUCK_S, Offer((LANE,), "gpu", ("job",), 4), State.RUNNING)
        orders, self.orders = trio.open_memory_channel[Order](math.inf)
        self.changed, changed = trio.open_memory_channel[None](1)
        self.announced, announced = trio.open_memory_channel[bytes](10)
        self._world = (self.store.presence, self.standing, TTL_MS, changed, announced, orders)

    async def run(self, task_status: trio.TaskStatus[int | None] = trio.TASK_STATUS_IGNORED) -> None:
        await presence.run(*self._world, task_status=task_status)

    def order(self, text: str, nonce: str | None = None) -> None:
        """Write an order for the process with a nonce, by default this one."""
        assert self.store.alive is not None
        mine = json.loads(self.store.alive)["nonce"]
        self.store.order = json.dumps({"nonce": nonce or mine, "order": text, "at_ms": len(text)}).encode()


@asynccontextmanager
async def present(store: FakeStore | None = None) -> AsyncIterator[Rig]:
    rig = Rig(store)
    with trio.fail_after(HOUR_S):
        async with trio.open_nursery() as nursery:
            await nursery.start(rig.run)
            yield rig
            nursery.cancel_scope.cancel()


def holder(**changes: object) -> bytes:
    """Return what this very process would say about itself, with changes."""
    return json.dumps(json.loads(describe_self()) | changes).encode()


async def test_it_takes_the_key_advertises_tells_and_withdraws_all_at_the_end(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with present() as rig:
        store = rig.store
        assert store.alive is not None
        assert json.loads(store.alive)["pid"] == os.getpid()
        assert [store.capabilities] == ["gpu"]
        told = json.loads(store.told[-1])
        assert {"state": "running", "pid": os.getpid(), "lanes": [LANE], "slots": 4}.items() <= told.items()
        assert told["nonce"] == json.loads(store.alive)["nonce"]
    assert [store.alive, store.capabilities] == [None, None]


async def test_the_key_is_renewed_several_times_within_its_life(autojump_clock: trio.testing.MockClock) -> None:
    async with present() as rig:
        await trio.sleep(TTL_MS / 1000)
        assert rig.store.calls.count("renew_alive") >= 3


@pytest.mark.parametrize(
    "other",
    [
        b"1",
        b"{}",
        b"not json",
        holder(),
        holder(host="elsewhere"),
        holder(boot="an earlier one"),
        holder(pid_namespace="pid:[1]"),
        holder(pid="1"),
        NESTED,
    ],
)
async def test_a_holder_that_may_live_is_respected(other: bytes, autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig()
    rig.store.alive = other
    told = r"another worker holds the instance id 'worker-1' \(\[worker\] instance_id\)"
    with pytest.raises(InstanceTakenError, match=told):
        await rig.run()
    assert (rig.store.alive, rig.store.capabilities) == (other, None)


async def test_the_refusal_says_who_holds_the_name_where_and_since_when(
    autojump_clock: trio.testing.MockClock,
) -> None:
    rig = Rig()
    rig.store.alive = holder(since="2026-01-02T03:04:05Z")
    told = f"process {os.getpid()} on {socket.gethostname()}, since 2026-01-02T03:04:05Z"
    with pytest.raises(InstanceTakenError, match=told):
        await rig.run()


@pytest.mark.parametrize("dead", [holder(pid=2**22 + 1), holder(started_ticks=1)])
async def test_a_provably_dead_holder_is_replaced_at_once(
    dead: bytes, autojump_clock: trio.testing.MockClock
) -> None:
    store = FakeStore()
    store.alive = dead
    async with present(store):
        assert store.alive != dead
        assert trio.current_time() == 0


async def test_a_holder_that_lives_hidden_from_us_is_respected(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    def hidden(pid: int) -> list[bytes]:
        raise FileNotFoundError(pid)

    rig = Rig()
    rig.store.alive = holder()
    monkeypatch.setattr("ffsuper.actors.presence.describe_self", lambda: b"{}")
    monkeypatch.setattr("ffsuper.holder.status_of", hidden)
    with pytest.raises(InstanceTakenError):
        await rig.run()


async def test_a_stolen_key_fences_this_process_and_all_that_is_the_thiefs_is_left_alone(
    autojump_clock: trio.testing.MockClock,
) -> None:
    rig, thief = Rig(), holder(nonce="thief", pid=1, started_ticks=int(status_of(1)[STARTED_TICKS]))
    store = rig.store
    with trio.fail_after(TTL_MS / 1000 / presence.RENEWALS_PER_TTL + 1):
        with pytest.RaisesGroup(FencedError):
            async with trio.open_nursery() as nursery:
                await nursery.start(rig.run)
                store.alive, store.capabilities = thief, "the thief's"
    assert [store.alive, store.capabilities] == [thief, "the thief's"]


async def test_a_key_that_ran_out_during_an_outage_is_taken_again(autojump_clock: trio.testing.MockClock) -> None:
    async with present() as rig:
        rig.store.away = True
        await trio.sleep(3 * TTL_MS / 1000)
        rig.store.alive, rig.store.away = None, False
        await trio.sleep(TTL_MS / 1000)
        assert rig.store.alive is not None


async def test_a_dead_predecessors_key_that_a_store_brings_back_fences_nobody(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with present() as rig:
        own = rig.store.alive
        rig.store.alive = holder(started_ticks=0)
        await trio.sleep(TTL_MS / 1000)
        assert rig.store.alive == own


async def test_a_dead_predecessors_key_fences_nobody_who_is_stuck(autojump_clock: trio.testing.MockClock) -> None:
    async with present() as rig:
        rig.standing.pulses.open("claimer")
        await trio.sleep(STUCK_S + 1)
        rig.store.alive = predecessors = holder(started_ticks=0)
        await trio.sleep(TTL_MS / 1000)
        assert rig.store.alive == predecessors


async def test_a_store_that_is_away_at_the_end_does_not_hold_up_the_exit(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with present() as rig:
        rig.store.away = True
    assert trio.current_time() < presence.WITHDRAW_S + 1


async def test_what_a_store_has_lost_of_the_advertisement_comes_back(autojump_clock: trio.testing.MockClock) -> None:
    async with present() as rig:
        rig.store.capabilities, rig.store.lanes = None, []
        await trio.sleep(1.1 * TTL_MS / 1000)
        assert [rig.store.capabilities, rig.store.lanes] == ["gpu", [LANE]]


async def test_it_tells_the_process_that_the_key_was_taken_over_from(autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig()
    rig.store.alive = holder(started_ticks=0)
    async with trio.open_nursery() as nursery:
        assert await nursery.start(rig.run) == os.getpid()
        nursery.cancel_scope.cancel()


async def test_while_an_actor_is_stuck_the_key_is_not_renewed_and_it_is_named(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with present() as rig:
        stuck = rig.standing.pulses.open("claimer")
        await trio.sleep(STUCK_S + TTL_MS / 1000)
        renewals = rig.store.calls.count("renew_alive")
        await trio.sleep(TTL_MS / 1000)
        assert rig.store.calls.count("renew_alive") == renewals
        assert json.loads(rig.store.told[-1])["detail"] == "stuck: claimer"
        assert json.loads(rig.store.told[-1])["state"] == "stuck"
        stuck.beat()
        await trio.sleep(2 * TTL_MS / 1000 / presence.RENEWALS_PER_TTL)
        assert rig.store.calls.count("renew_alive") > renewals
        assert json.loads(rig.store.told[-1])["state"] == "running"


async def test_one_that_is_stuck_still_notices_that_it_was_replaced(autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig()
    with pytest.RaisesGroup(FencedError):
        async with trio.open_nursery() as nursery:
            await nursery.start(rig.run)
            rig.standing.pulses.open("claimer")
            await trio.sleep(STUCK_S + TTL_MS / 1000)
            rig.store.alive = holder(nonce="successor")
            await trio.sleep(TTL_MS / 1000)


async def test_a_change_is_advertised_and_told_at_once(autojump_clock: trio.testing.MockClock) -> None:
    async with present() as rig:
        rig.standing.state = State.QUIET
        await rig.changed.send(None)
        await trio.testing.wait_all_tasks_blocked()
        assert json.loads(rig.store.told[-1])["state"] == "quiet"
        assert [rig.store.capabilities] == [""]
        assert trio.current_time() == 0


@pytest.mark.parametrize("announcement", [INSTANCE.encode(), b"*"])
async def test_an_order_is_obeyed_once_when_it_is_announced(
    announcement: bytes, autojump_clock: trio.testing.MockClock
) -> None:
    async with present() as rig:
        rig.order("quiet")
        told = len(rig.store.told)
        for _ in range(2):
            await rig.announced.send(announcement)
        assert await rig.orders.receive() is Order.QUIET
        await trio.testing.wait_all_tasks_blocked()
        assert rig.orders.statistics().current_buffer_used == 0
        assert len(rig.store.told) == told + 2


async def test_an_order_whose_announcement_was_lost_is_seen_at_the_next_renewal(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with present() as rig:
        rig.order("drain")
        assert await rig.orders.receive() is Order.DRAIN
        assert trio.current_time() <= TTL_MS / 1000 / presence.RENEWALS_PER_TTL


@pytest.mark.parametrize("order", [b"", b"1", b"{}", b"\xff", NESTED, b'{"nonce": "another", "order": "drain"}'])
async def test_what_is_no_order_for_this_process_is_ignored(
    order: bytes, autojump_clock: trio.testing.MockClock
) -> None:
    async with present() as rig:
        rig.store.order = order
        await rig.announced.send(INSTANCE.encode())
        await trio.sleep(TTL_MS / 1000)
        assert rig.orders.statistics().current_buffer_used == 0


async def test_an_announcement_for_another_worker_costs_nothing(autojump_clock: trio.testing.MockClock) -> None:
    async with present() as rig:
        calls = len(rig.store.calls)
        await rig.announced.send(b"worker-2")
        await trio.testing.wait_all_tasks_blocked()
        assert len(rig.store.calls) == calls
