"""Outages are told once a process, whoever meets them."""

from __future__ import annotations

import logging

import pytest
import trio
import trio.testing

from ffsuper.errors import StoreUnavailableError
from ffsuper.store.outage import Outage

LOG = logging.getLogger("ffsuper.test")
AWAY = StoreUnavailableError("cannot reach the store")


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "ffsuper.test")
    return caplog


async def test_many_actors_tell_an_outage_and_its_end_once(
    told: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    actors = [Outage(LOG) for _ in range(3)]
    for _ in range(2):
        for _ in range(3):
            async with trio.open_nursery() as nursery:
                for actor in actors:
                    nursery.start_soon(actor.wait, AWAY)
        for actor in (*actors, *actors):
            actor.over()
    assert told.messages == ["store away", "store back"] * 2


async def test_an_actor_that_ends_in_an_outage_leaves_its_end_to_another(
    told: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    first, second = Outage(LOG), Outage(LOG)
    await first.wait(AWAY)
    await second.wait(AWAY)
    del first
    await second.wait(AWAY)
    second.over()
    assert told.messages == ["store away", "store back"]
