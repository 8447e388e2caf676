"""Answers to claims that cannot be read: what was claimed all the same is found and adopted, and no other is lost."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest
import redis
import trio

from ffsuper.client import Client
from ffsuper.clock import boottime_s
from ffsuper.config import StoreConfig
from ffsuper.errors import RefusedError, StoreScriptError
from ffsuper.messages import AttemptId, Candidate, Claim, ClaimKind, Deferred, ExecutionId, Lease, LeaseId, Pick
from ffsuper.store.batch_claims import FUNCTION, Passed, read_answers, settle_picks
from ffsuper.store.claims import ClaimDoubtError, Claims, Identity
from ffsuper.store.connection import Connection, open_connection
from ffsuper.store.keys import ExecutionKeys
from ffsuper.store.outcomes import Outcomes
from ffsuper.store.replies import Call
from ffsuper.store.store import prepare
from tests.fakes import LANE

ME = Identity("pool", "me", "", 60_000)
PICK = Pick(LANE, partition=86)  # where lane "default" has its executions
EVENT = "answer to a claim cannot be read"


class Damaging(Connection):
    """Has answers of claims damaged on their way.

    Attributes:
        damage: takes the answers for the executions, and changes them.
        garbled: function whose answers become nonsense; empty for none.
    """

    garbled = ""
    damage: Callable[[list[Any]], None] = staticmethod(lambda answers: None)

    async def _exchange(self, calls: Sequence[Call[Any]], timeout_s: float | None) -> list[Any]:
        replies = await super()._exchange(calls, timeout_s)
        for call, reply in zip(calls, replies, strict=True):
            if call.command[:2] == ("FCALL", self.garbled):
                reply[2:] = [b"x"]
            elif call.command[:2] == ("FCALL", FUNCTION):
                answers = reply[2:]
                self.damage(answers)
                reply[2:] = answers
        return replies


@pytest.fixture
async def connection(settings: StoreConfig) -> AsyncIterator[Damaging]:
    with redis.Redis.from_url(settings.url) as server:
        server.flushall()
    prepare(settings)
    async with open_connection(settings, "test") as connection:
        yield Damaging(connection._pipeline, settings.timeout_s)


def submit(settings: StoreConfig, count: int) -> list[ExecutionId]:
    with Client(settings) as client:
        return [client.submit("job", str(number).encode(), priority=9 - number) for number in range(count)]


def epoch_is_none(answers: list[Any]) -> None:
    answers[1][3] = b"x"


def is_none(answers: list[Any]) -> None:
    answers[1] = None


def is_cut_short(answers: list[Any]) -> None:
    del answers[1][2:]


@pytest.mark.parametrize("damage", [epoch_is_none, is_none, is_cut_short])
async def test_what_an_unreadable_answer_tells_of_is_found_and_the_others_are_claimed(
    damage: Callable[[list[Any]], None],
    connection: Damaging,
    settings: StoreConfig,
    caplog: pytest.LogCaptureFixture,
) -> None:
    executions = await trio.to_thread.run_sync(submit, settings, 3)
    claims = Claims(connection, ME, boottime_s)
    connection.damage = damage
    found = await claims.claim([PICK] * 4)
    assert [one.message for one in caplog.records if one.levelno == logging.ERROR] == [EVENT]
    whole = [one for one in found if isinstance(one, Claim)]
    doubts = [one for one in found if isinstance(one, ClaimDoubtError)]
    assert [one.lease.execution_id for one in whole] == [executions[0], executions[2]]
    assert len(doubts) == 2
    adopted, nothing = [await claims.look_up(doubt) for doubt in doubts]
    assert isinstance(nothing, RefusedError)
    assert isinstance(adopted, Claim)
    assert (adopted.lease.execution_id, adopted.payload) == (executions[1], b"1")
    await Outcomes(connection, ME.instance_id).deliver(adopted.lease, Deferred(0), b"")


@pytest.mark.parametrize("function", ["ff_claim_execution", "ff_claim_resumed_execution"])
async def test_what_an_unreadable_answer_to_a_single_claim_tells_of_is_found_too(
    function: str, connection: Damaging, settings: StoreConfig, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = await trio.to_thread.run_sync(submit, settings, 2)
    claims, outcomes = Claims(connection, ME, boottime_s), Outcomes(connection, ME.instance_id)
    candidate, other = (Candidate(one, LANE, ClaimKind.NEW, "job") for one in (first, second))
    if function == "ff_claim_resumed_execution":
        (begun,) = await claims.claim([candidate])
        assert isinstance(begun, Claim)
        await outcomes.deliver(begun.lease, Deferred(0), b"")
    connection.garbled = function
    doubt, claim = await claims.claim([candidate, Pick(LANE, 86, 1)])
    assert [one.message for one in caplog.records if one.levelno == logging.ERROR] == [EVENT]
    assert isinstance(claim, Claim)
    assert claim.lease.execution_id == other.execution_id
    assert isinstance(doubt, ClaimDoubtError)
    adopted = await claims.look_up(doubt)
    assert isinstance(adopted, Claim)
    assert (adopted.lease.execution_id, adopted.payload) == (first, b"0")
    await outcomes.deliver(adopted.lease, Deferred(0), b"")


async def test_an_attempt_that_was_damaged_in_the_store_is_told_of_and_keeps_no_other_from_being_claimed(
    connection: Damaging, settings: StoreConfig, caplog: pytest.LogCaptureFixture
) -> None:
    damaged, sound = await trio.to_thread.run_sync(submit, settings, 2)
    claims = Claims(connection, ME, boottime_s)
    (interrupted,) = await claims.claim([PICK])
    assert isinstance(interrupted, Claim)
    await Outcomes(connection, ME.instance_id).deliver(interrupted.lease, Deferred(0), b"")
    with redis.Redis.from_url(settings.url) as server:
        server.hset(ExecutionKeys.of(damaged).core, "current_attempt_id", b"\xff")
    found = await claims.claim([PICK] * 2)
    assert [one.lease.execution_id for one in found if isinstance(one, Claim)] == [sound]
    told: list[Any] = [one for one in caplog.records if one.message == EVENT]
    assert [one.execution for one in told] == [damaged]
    (doubt,) = [one for one in found if isinstance(one, ClaimDoubtError)]
    assert isinstance(await claims.look_up(doubt), RefusedError)


async def test_an_error_beside_an_unreadable_answer_is_told_of_too(
    connection: Damaging, caplog: pytest.LogCaptureFixture
) -> None:
    lease = Lease(ExecutionId(""), LANE, LeaseId("lease"), 0, AttemptId("attempt"), 0, 60_000, asked_at_s=0.0)
    stopped = Passed(ExecutionId("{fp:86}:x"), StoreScriptError("damaged"))
    answers = [stopped, *read_answers([1, b"OK", b"x" * 1_000])]
    found = await settle_picks(connection, PICK, [lease], answers)
    assert isinstance(found[lease.lease_id], ClaimDoubtError)
    told: list[Any] = caplog.records
    assert [one.message for one in told] == [EVENT, "claim failed"]
    assert told[0].execution == ""
    assert told[1].error is stopped.why
