"""Signals that an attempt has to begin with."""

from __future__ import annotations

import uuid

import trio

from ffsuper.config import StoreConfig
from ffsuper.messages import AttemptId, ExecutionId, LaneId, Lease, LeaseId
from ffsuper.store.connection import open_connection
from ffsuper.store.keys import ExecutionKeys
from ffsuper.store.replies import Call, Part
from ffsuper.store.signals import ATTEMPTS_PER_READ, read_resume_signals

DAMAGED = 10**17


async def signals_after(settings: StoreConfig, attempt_index: int, *types: str) -> list[str]:
    """Return the signals of an attempt, after a suspension of the first, given the types of those behind that."""
    keys = ExecutionKeys.of(ExecutionId(f"{{fp:7}}:{uuid.uuid4()}"))
    lease = Lease(keys.id, LaneId("l"), LeaseId("l"), 1, AttemptId("a"), attempt_index, 1_000, 0.0)
    put: list[tuple[Part, ...]] = [
        ("HSET", keys.part("suspension:current"), "attempt_index", 0, "close_reason", "resumed", "waitpoint_id", "w"),
        (
            "HSET",
            keys.waitpoint("w", "condition"),
            "total_matchers",
            1,
            "matcher:0:satisfied",
            1,
            "matcher:0:signal_id",
            "s",
        ),
        ("HSET", keys.signal("s"), "signal_id", "s", "signal_name", "go"),
        *(("HSET", keys.attempt(number), "attempt_type", one) for number, one in enumerate(types, 1)),
    ]
    async with open_connection(settings, "test") as connection:
        await connection.run_all([Call(command, int) for command in put])
        with trio.fail_after(20):
            return [one.name for one in await read_resume_signals(connection, lease)]


async def test_an_attempt_has_those_of_the_one_that_it_replaces_however_many_came_between(
    settings: StoreConfig,
) -> None:
    many = 2 * ATTEMPTS_PER_READ + 1
    assert await signals_after(settings, 0) == ["go"]
    assert await signals_after(settings, many, *["retry", "reclaim"] * many) == ["go"]


async def test_a_replay_has_none_of_before_wherever_it_was(settings: StoreConfig) -> None:
    many = 2 * ATTEMPTS_PER_READ + 1
    for replayed in (0, ATTEMPTS_PER_READ, many - 1):
        types = ["retry"] * many
        types[replayed] = "replay"
        assert await signals_after(settings, many, *types) == []


async def test_a_number_that_only_a_damaged_record_has_is_no_attempts(settings: StoreConfig) -> None:
    assert await signals_after(settings, DAMAGED, "retry") == []
