"""Giving back what has not begun, to a real store with and without our functions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import redis
import trio

from ffsuper.client import Client
from ffsuper.clock import boottime_s
from ffsuper.config import StoreConfig
from ffsuper.messages import Candidate, Claim, ClaimKind, NotBegun, Pick
from ffsuper.sansio.partition import partition_of
from ffsuper.sansio.pulse import Pulses
from ffsuper.store.claims import Identity
from ffsuper.store.delivery import deliver
from ffsuper.store.store import Store, open_store, prepare
from tests.fakes import LANE


@asynccontextmanager
async def claimed(settings: StoreConfig) -> AsyncIterator[tuple[Store, Pick, Claim]]:
    """Claim an execution where the store picks."""
    with redis.Redis.from_url(settings.url) as server:
        server.flushall()
    prepare(settings)
    with Client(settings) as client:
        pick = Pick(LANE, partition_of(client.submit("job")))
    async with open_store(settings, Identity("test", "test-1", "", 60_000), 32, boottime_s) as store:
        (claim,) = await store.claims.claim([pick])
        assert isinstance(claim, Claim)
        yield store, pick, claim


async def test_what_has_not_begun_is_claimed_again_as_if_for_the_first_time(settings: StoreConfig) -> None:
    async with claimed(settings) as (store, pick, first):
        claim = first
        for _ in range(2):
            assert await store.outcomes.deliver_all([(claim, NotBegun())]) == [None]
            assert await store.outcomes.was_delivered(claim.lease, NotBegun())
            (again,) = await store.claims.claim([pick])
            assert isinstance(again, Claim)
            assert again.lease.epoch == claim.lease.epoch + 1
            assert (again.attempt_type, again.lease.attempt_index) == ("initial", claim.lease.attempt_index)
            claim = again


async def test_a_store_without_our_function_takes_it_back_too_though_the_attempt_seems_to_go_on(
    settings: StoreConfig,
) -> None:
    async with claimed(settings) as (_, _, claim):
        with redis.Redis.from_url(settings.url) as server:
            server.function_delete("ffsuper")
        never = replace(settings, library="never")
        async with open_store(never, Identity("test", "test-1", "", 60_000), 32, boottime_s) as store:
            async with Pulses(trio.current_time).open("test") as pulse:
                settled = await deliver(store.outcomes, claim, NotBegun(), pulse)
            assert settled.outcome == "handed_back"
            lease = claim.lease
            (again,) = await store.claims.claim(
                [Candidate(lease.execution_id, LANE, ClaimKind.RESUMED, "job", lease.attempt_index)]
            )
            assert isinstance(again, Claim)
            assert again.attempt_type == "resumed"
    prepare(settings)
