"""Every function with each number of keys too few: what it does not answer, it has not begun to write."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from ffsuper.store.keys import ExecutionKeys
from tests.lua import budgets, executions, flows, frames, holders, signals, suspensions, test_admission, test_quota
from tests.lua.executions import create, grant, reclaimable
from tests.lua.suspensions import EXECUTION, FAR_MS, KEYS, PENDING, WAITPOINT, put
from tests.lua.test_claim_resumed import resumable
from tests.lua.test_every_function import PROTOCOL
from tests.lua.test_missing_keys import NEEDED, Act, WithKeys
from tests.lua.test_priority import change_priority
from tests.lua.test_replay import skipped
from tests.lua.test_suspension_timeout import put_due
from tests.lua.world import Arg, World

Prepare = Callable[[World], Act]
MOST_KEYS = 21


def claimable(call: Callable[..., Any], **changes: Any) -> Prepare:
    """Return what grants an execution and returns the call that claims it."""

    def prepare(world: World) -> Act:
        keys = create(world)
        grant(world, keys)
        return lambda given: call(given, keys, **changes)

    return prepare


def claim_resumed(**changes: Any) -> Prepare:
    def prepare(world: World) -> Act:
        keys = resumable(world)
        return lambda given: executions.call_claim_resumed(given, keys, **changes)

    return prepare


def reclaim(policy: str = "{}") -> Prepare:
    def prepare(world: World) -> Act:
        keys = reclaimable(world, policy=policy).keys
        executions.grant_reclaim(world, keys)
        return lambda given: executions.call_reclaim(given, keys)

    return prepare


def of(make: Callable[[World], ExecutionKeys], call: Callable[..., Any], *args: Any) -> Prepare:
    """Return what makes an execution and returns a call with its keys."""

    def prepare(world: World) -> Act:
        keys = make(world)
        return lambda given: call(given, keys, *args)

    return prepare


def mark(given: World, keys: ExecutionKeys) -> Any:
    return holders.mark(given, keys, keys.id)


def outdated(world: World) -> ExecutionKeys:
    keys = executions.claim(world).keys
    put(world, keys.core, **holders.OUTDATED)
    return keys


def suspend(world: World) -> Act:
    suspensions.put_active(world)
    return suspensions.suspend


def activate(*names: str) -> Prepare:
    """Return what buffers signals at a pending waitpoint, and returns the call that waits there for signal ``a``."""

    def prepare(world: World) -> Act:
        suspensions.put_active(world)
        token = suspensions.put_pending(world)
        for name in names:
            signals.buffer(world, token, signal_id=f"signal-{name}", signal_name=name)
        condition = json.dumps({"required_signal_names": ["a"]})
        changes = {"use_pending_waitpoint": "1", "resume_condition_json": condition, "timeout_at": str(FAR_MS)}
        return lambda given: suspensions.suspend(given, **changes)

    return prepare


def deliver(world: World) -> Act:
    token = suspensions.put_suspended(world)
    return lambda given: signals.deliver(given, token, idempotency_key="once")


def buffer(world: World) -> Act:
    suspensions.put_active(world)
    token = suspensions.put_pending(world)
    return lambda given: signals.buffer(given, token, idempotency_key="once")


def resume(delay_ms: str) -> Prepare:
    def prepare(world: World) -> Act:
        suspensions.put_suspended(world)
        return lambda given: suspensions.resume(given, EXECUTION, "operator", delay_ms)

    return prepare


def create_pending(world: World) -> Act:
    suspensions.put_active(world)
    return suspensions.create_pending


def close(world: World) -> Act:
    suspensions.put_active(world)
    suspensions.put_pending(world)
    keys = [KEYS.core, KEYS.waitpoint(WAITPOINT), PENDING]
    return lambda given: given.call("ff_close_waitpoint", keys, [WAITPOINT])


def time_out(behavior: str) -> Prepare:
    def prepare(world: World) -> Act:
        put_due(world, timeout_behavior=behavior)
        world.redis.hset(KEYS.stream_meta(0), "closed_at", "")
        return lambda given: suspensions.expire(given, EXECUTION)

    return prepare


def append_frame(world: World) -> Act:
    frames.running(world)
    return frames.append


def in_budget(call: Callable[..., Any], *args: Any) -> Prepare:
    def prepare(world: World) -> Act:
        budgets.create(world, {"tok": ("9", "5")}, interval="60000")
        return lambda given: call(given, *args)

    return prepare


def release(world: World) -> Act:
    test_quota.check(world, cap="2")
    return test_quota.release


def add_member(world: World) -> Act:
    flows.create_flow(world)
    keys = flows.child(world)
    return lambda given: flows.add(given, keys)


def in_flow(call: Callable[..., Any]) -> Prepare:
    def prepare(world: World) -> Act:
        members = flows.flow_of(world, 2)
        return lambda given: call(given, *members)

    return prepare


def stage(given: World, upstream: ExecutionKeys, downstream: ExecutionKeys) -> Any:
    return flows.stage(given, upstream, downstream, expected_revision="2")


def promote_blocked(world: World) -> Act:
    keys = flows.waiting(world)
    world.redis.delete(keys.part("deps:unresolved"), keys.part("deps:meta"))
    return lambda given: flows.promote_blocked(given, keys)


def replay_skipped(world: World) -> Act:
    keys = skipped(world)
    return lambda given: flows.replay_skipped(given, keys, "e1")


HOLDERS: dict[str, Any] = {str(case.id): case.values[0] for case in NEEDED}
CASES: dict[str, Prepare] = {
    "create": lambda _: (
        lambda given: executions.call_create(
            given, executions.new_keys(), execution_deadline="9", tags='{"a":"b"}', policy='{"a":1}'
        )
    ),
    "grant": of(create, executions.call_grant),
    "reclaim grant": of(lambda world: reclaimable(world).keys, executions.call_reclaim_grant),
    "claim": claimable(executions.call_claim),
    "claim, timeout": claimable(executions.call_claim, attempt_timeout_ms="5"),
    "claim, deadline": claimable(executions.call_claim, execution_deadline="5"),
    "claim resumed": claim_resumed(),
    "claim resumed, timeout": claim_resumed(attempt_timeout_ms="5"),
    "mark": of(outdated, mark),
    "reclaim": reclaim(),
    "reclaim, limit": reclaim('{"max_reclaim_count":0}'),
    "priority": of(create, change_priority, "7"),
    "block": of(create, test_admission.block),
    "unblock": of(test_admission.blocked, test_admission.unblock),
    "suspend": suspend,
    "activate": activate(),
    "activate, satisfied": activate("a"),
    "deliver": deliver,
    "buffer": buffer,
    "resume": resume("0"),
    "resume later": resume("9"),
    "create pending": create_pending,
    "close": close,
    **{f"time out, {behavior}": time_out(behavior) for behavior in ("auto_resume", "escalate", "fail", "cancel")},
    "append": append_frame,
    "create budget": lambda _: budgets.create,
    "report": in_budget(budgets.report, ("tok", "1")),
    "report, soft breach": in_budget(budgets.report, ("tok", "6")),
    "report, hard breach": in_budget(budgets.report, ("tok", "10")),
    "reset": in_budget(budgets.reset),
    "create quota": lambda _: lambda given: test_quota.create(given, test_quota.ID, "60", "9", "2", "5"),
    "admit": lambda _: lambda given: test_quota.check(given, rate="9", cap="2"),
    "release": release,
    "create flow": lambda _: flows.create_flow,
    "add": add_member,
    "cancel flow": in_flow(lambda given, *_: flows.cancel_flow(given)),
    "stage": in_flow(stage),
    "apply": of(create, flows.apply),
    "satisfy": of(flows.waiting, flows.resolve),
    "fail edge": of(flows.waiting, flows.resolve, "e1", "failed"),
    "promote blocked": promote_blocked,
    "replay skipped": replay_skipped,
    **HOLDERS,
}


# Refusals that are answers: what they write is the protocol's.
ANSWERS = ("max_retries_exhausted", "invalid_keys_missing_hmac")


@pytest.mark.parametrize("prepare", CASES.values(), ids=CASES)
def test_a_call_with_fewer_keys_is_answered_or_has_written_nothing(world: World, prepare: Prepare) -> None:
    answered: list[bool] = []
    for count in range(MOST_KEYS + 1):
        world.redis.flushall()
        act = prepare(world)
        with world.changes() as changes:
            reply = act(WithKeys(world, count))
        answered.append(not isinstance(reply, str) and (reply[0] != 0 or reply[1] in ANSWERS))
        if not answered[-1]:
            assert (changes.written, changes.removed) == ({}, {}), f"{count} keys: {reply}"
    assert not answered[0]
    assert answered[-1], f"the whole call is not answered: {reply}"


class Recording(World):
    """Notes what would be called."""

    def __init__(self, world: World) -> None:
        super().__init__(world.redis)
        self.called: set[str] = set()

    def call(self, function: str, keys: list[str], args: list[Arg]) -> Any:
        self.called.add(function)


def test_every_function_that_can_stop_half_way_is_among_the_cases(world: World) -> None:
    recording = Recording(world)
    for prepare in CASES.values():
        world.redis.flushall()
        prepare(world)(recording)
    cannot = {"ff_version", "ff_evaluate_flow_eligibility", "ff_read_attempt_stream", "ff_update_progress"}
    assert recording.called == set(PROTOCOL) - cannot
