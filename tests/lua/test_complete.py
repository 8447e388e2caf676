"""ff_complete_execution: protocol 02, section 6.3."""

from __future__ import annotations

import json

import pytest

from tests.lua.executions import claim, lane_key
from tests.lua.holders import (
    ENDED,
    FAR_MS,
    FLOW,
    GUARDED,
    RELEASED,
    claim_beside_another,
    complete,
    held,
    open_stream,
    poison,
    published,
    since,
)
from tests.lua.suspensions import UNSET, put
from tests.lua.world import World


def test_completing_ends_the_attempt_and_the_execution_and_releases_all_that_belongs_to_the_lease(
    world: World,
) -> None:
    lease = claim_beside_another(world)
    keys, stream_meta, before = lease.keys, open_stream(world, lease.keys), world.now_ms()
    poison(world, keys.core, keep=GUARDED)
    put(world, keys.core, flow_id="")
    lost = held(world, lease)
    with world.changes() as c:
        assert complete(world, lease, result="done") == [1, "OK", "completed"]
    now = since(before, world, c.written[lease.attempt]["ended_at"])
    assert c.written == {
        keys.core: {
            **RELEASED,
            **ENDED,
            "terminal_outcome": "success",
            "attempt_state": "attempt_terminal",
            "public_state": "completed",
            "completed_at": now,
            "lease_expired_at": "",
            "lease_revoked_at": "",
            "lease_revoke_reason": "",
            "last_transition_at": now,
            "last_mutation_at": now,
        },
        lease.attempt: {"attempt_state": "ended_success", "ended_at": now},
        stream_meta: {"closed_at": now, "closed_reason": "attempt_success"},
        keys.part("result"): "done",
        lane_key(keys, "terminal"): {keys.id: float(now)},
        keys.part("lease:history"): [
            (
                *("event", "released", "lease_id", lease.lease_id, "lease_epoch", "1", "attempt_index", "0"),
                *("reason", "completed", "ts", now),
            )
        ],
    }
    assert c.removed == {**lost, keys.partition.index("execution_deadline"): {keys.id: FAR_MS}}


def test_a_result_may_be_any_bytes(world: World) -> None:
    lease = claim(world)
    complete(world, lease, result=bytes(range(256)))
    assert world.redis.get(lease.keys.part("result")) == bytes(range(256))


@pytest.mark.parametrize("result", ["", UNSET])
def test_without_a_result_none_is_stored_and_an_earlier_one_stays(world: World, result: object) -> None:
    lease = claim(world)
    world.redis.set(lease.keys.part("result"), "of an earlier replay")
    assert complete(world, lease, result=result) == [1, "OK", "completed"]
    assert world.value(lease.keys.part("result")) == "of an earlier replay"

    without = claim(world)
    complete(world, without, result=result)
    assert world.value(without.keys.part("result")) is None


def test_an_attempt_without_a_stream_gets_no_stream_record(world: World) -> None:
    lease = claim(world)
    complete(world, lease)
    assert world.value(lease.keys.stream_meta(0)) is None


def test_an_earlier_close_of_the_stream_is_overwritten(world: World) -> None:
    lease = claim(world)
    put(world, lease.keys.stream_meta(0), closed_at="5", closed_reason="lease_expired")
    complete(world, lease)
    assert world.value(lease.keys.stream_meta(0))["closed_reason"] == "attempt_success"


def test_completing_a_member_of_a_flow_is_announced(world: World) -> None:
    lease = claim(world)
    put(world, lease.keys.core, flow_id=FLOW)
    with published(world) as messages:
        complete(world, lease)
    (message,) = messages
    assert json.loads(message) == {"flow_id": FLOW, "execution_id": lease.execution_id, "outcome": "success"}


def test_completing_an_execution_outside_flows_is_not_announced(world: World) -> None:
    lease, legacy = claim(world), claim(world)
    world.command("HDEL", legacy.keys.core, "flow_id")
    with published(world) as messages:
        complete(world, lease)
        complete(world, legacy)
    assert messages == []


def test_a_repeated_completion_is_told_the_outcome_and_the_epoch_and_changes_nothing(world: World) -> None:
    lease = claim(world)
    complete(world, lease, result="done")
    with world.unchanged():
        assert complete(world, lease, result="other") == [0, "execution_not_active", "success", "1"]


def test_an_attempt_index_that_the_record_lacks_is_empty_in_the_history(world: World) -> None:
    lease = claim(world)
    world.command("HDEL", lease.keys.core, "current_attempt_index")
    complete(world, lease)
    event = world.value(lease.keys.part("lease:history"))[-1]
    assert event[event.index("attempt_index") + 1] == ""
