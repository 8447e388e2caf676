from __future__ import annotations

import json
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psutil
import pytest
import trio
import trio.testing

from ffsuper.actors import presence
from ffsuper.errors import FencedError, InstanceTakenError
from tests.fakes import HOUR_S, LANE, FakeStore

TTL_MS = 60_000


@asynccontextmanager
async def present(store: FakeStore, capabilities: str = "gpu") -> AsyncIterator[trio.CancelScope]:
    with trio.fail_after(HOUR_S):
        async with trio.open_nursery() as nursery:
            await nursery.start(presence.run, store.presence, capabilities, TTL_MS, [LANE])
            yield nursery.cancel_scope
            nursery.cancel_scope.cancel()


def holder(**changes: object) -> bytes:
    """Return what this very process would say about itself, with changes."""
    return json.dumps(json.loads(presence.describe_self()) | changes).encode()


async def test_it_takes_the_key_advertises_and_withdraws_both_at_the_end(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = FakeStore()
    async with present(store):
        assert store.alive is not None
        assert json.loads(store.alive)["pid"] == os.getpid()
        assert [store.capabilities] == ["gpu"]
    assert [store.alive, store.capabilities] == [None, None]


async def test_the_key_is_renewed_several_times_within_its_life(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore()
    async with present(store):
        await trio.sleep(TTL_MS / 1000)
        assert store.calls.count("renew_alive") >= 3


@pytest.mark.parametrize(
    "other", [b"1", b"{}", b"not json", holder(), holder(host="elsewhere"), holder(boot="an earlier one")]
)
async def test_a_holder_that_may_live_is_respected(other: bytes, autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore()
    store.alive = other
    with pytest.raises(InstanceTakenError, match="another worker holds this instance id"):
        await presence.run(store.presence, "gpu", TTL_MS, [LANE])
    assert (store.alive, store.capabilities) == (other, None)


async def test_the_refusal_says_who_holds_the_name_where_and_since_when(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = FakeStore()
    store.alive = holder(since="2026-01-02T03:04:05Z")
    told = f"process {os.getpid()} on {socket.gethostname()}, since 2026-01-02T03:04:05Z"
    with pytest.raises(InstanceTakenError, match=told):
        await presence.run(store.presence, "gpu", TTL_MS, [LANE])


@pytest.mark.parametrize("dead", [holder(pid=2**22 + 1), holder(process_started=1.0)])
async def test_a_provably_dead_holder_is_replaced_at_once(
    dead: bytes, autojump_clock: trio.testing.MockClock
) -> None:
    store = FakeStore()
    store.alive = dead
    async with present(store):
        assert store.alive != dead
        assert trio.current_time() == 0


async def test_a_stolen_key_fences_this_process_and_is_left_alone(autojump_clock: trio.testing.MockClock) -> None:
    store, thief = FakeStore(), holder(nonce="thief", pid=1, process_started=psutil.Process(1).create_time())
    with pytest.RaisesGroup(FencedError):
        async with present(store):
            store.alive = thief
            await trio.sleep(TTL_MS / 1000)
    assert store.alive == thief


async def test_a_key_that_ran_out_during_an_outage_is_taken_again(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore()
    async with present(store):
        store.away = True
        await trio.sleep(3 * TTL_MS / 1000)
        store.alive, store.away = None, False
        await trio.sleep(TTL_MS / 1000)
        assert store.alive is not None


async def test_a_store_that_is_away_at_the_end_does_not_hold_up_the_exit(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = FakeStore()
    async with present(store):
        store.away = True
    assert trio.current_time() < presence.WITHDRAW_S + 1


async def test_what_a_store_has_lost_of_the_advertisement_comes_back(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore()
    async with present(store):
        store.capabilities, store.lanes = None, []
        await trio.sleep(1.1 * TTL_MS / 1000)
        assert [store.capabilities, store.lanes] == ["gpu", [LANE]]


async def test_it_tells_the_process_that_the_key_was_taken_over_from(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore()
    store.alive = holder(process_started=0.0)
    async with trio.open_nursery() as nursery:
        assert await nursery.start(presence.run, store.presence, "gpu", TTL_MS, [LANE]) == os.getpid()
        nursery.cancel_scope.cancel()
