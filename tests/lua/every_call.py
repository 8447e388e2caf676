"""One call of each function that succeeds, for the tests that concern all functions alike.

Each entry of ``CALLS`` brings about the state that its function asks for, and calls it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.lua import budgets, flows, frames, holders, signals, suspensions, test_quota
from tests.lua.executions import (
    call_claim,
    call_claim_resumed,
    call_create,
    call_grant,
    call_reclaim,
    call_reclaim_grant,
    claim,
    claimable,
    create,
    grant_reclaim,
    new_keys,
    reclaimable,
)
from tests.lua.suspensions import EXECUTION, FAR_MS, KEYS, WAITPOINT
from tests.lua.test_admission import block, blocked, unblock
from tests.lua.test_claim_resumed import resumable
from tests.lua.test_priority import change_priority
from tests.lua.test_progress import report
from tests.lua.world import Arg, World


def renew_outdated(world: World) -> Any:
    lease = claim(world)
    suspensions.put(world, lease.keys.core, **holders.OUTDATED)
    return holders.mark(world, lease.keys, lease.execution_id)


def revoke(world: World) -> Any:
    lease = claim(world)
    return holders.revoke(world, lease.keys, lease.execution_id, lease.lease_id, "operator")


def reclaim(world: World) -> Any:
    lease = reclaimable(world)
    grant_reclaim(world, lease.keys)
    return call_reclaim(world, lease.keys)


def promote_delayed(world: World) -> Any:
    keys = create(world, delay_until=FAR_MS)
    return holders.promote(world, keys, keys.id, FAR_MS)


def suspend(world: World) -> Any:
    suspensions.put_active(world)
    return suspensions.suspend(world, timeout_at=FAR_MS)


def resume(world: World) -> Any:
    suspensions.put_suspended(world)
    return suspensions.resume(world, EXECUTION, "operator", "5000")


def expire_suspension(world: World) -> Any:
    suspensions.put_suspended(world, timeout_at="5")
    return suspensions.expire(world, EXECUTION)


def create_pending(world: World) -> Any:
    suspensions.put_active(world)
    return suspensions.create_pending(world)


def close_waitpoint(world: World) -> Any:
    suspensions.put_active(world)
    suspensions.put_pending(world)
    keys = [KEYS.core, KEYS.waitpoint(WAITPOINT), suspensions.PENDING]
    return world.call("ff_close_waitpoint", keys, [WAITPOINT, "no longer needed"])


SIGNAL = {"payload": "yes", "idempotency_key": "once", "resume_delay_ms": "5000"}


def deliver(world: World) -> Any:
    return signals.deliver(world, suspensions.put_suspended(world), **SIGNAL)


def buffer(world: World) -> Any:
    suspensions.put_active(world)
    return signals.buffer(world, suspensions.put_pending(world), **SIGNAL)


def append_frame(world: World) -> Any:
    frames.running(world)
    return frames.append(world, {frames.RETENTION_MAXLEN: "10"})


def read_stream(world: World) -> Any:
    append_frame(world)
    return frames.read(world, "-", "+", "10")


def report_usage(world: World) -> Any:
    budgets.create(world)
    return budgets.report(world, ("tok", "5"), ("usd", "1"), key=budgets.REPORT_KEY)


def reset_budget(world: World) -> Any:
    budgets.create(world, interval="60000")
    budgets.report(world, ("tok", "5"))
    return budgets.reset(world, budgets.ID, budgets.NOW)


def create_quota(world: World) -> Any:
    return test_quota.create(world, test_quota.ID, "60", "10", "2", test_quota.NOW)


def admit(world: World) -> Any:
    create_quota(world)
    return test_quota.check(world, rate="10", cap="2", jitter="5")


def release_admission(world: World) -> Any:
    admit(world)
    return test_quota.release(world)


def add_to_flow(world: World) -> Any:
    flows.create_flow(world)
    return flows.add(world, create(world))


def cancel_flow(world: World) -> Any:
    flows.flow_of(world, 2)
    return flows.cancel_flow(world)


def stage(world: World) -> Any:
    a, b, c = flows.flow_of(world, 3)
    flows.stage(world, b, c)
    return flows.stage(world, a, b, data_passing_ref="result")


def resolve(world: World) -> Any:
    keys = flows.waiting(world, data_passing_ref="result")
    world.redis.set(flows.UPSTREAM_RESULT, "out")
    return flows.resolve(world, keys)


def promote_blocked(world: World) -> Any:
    keys = flows.waiting(world)
    world.redis.delete(*flows.replay_keys(keys)[5:])
    return flows.promote_blocked(world, keys)


def replay(world: World) -> Any:
    (keys,) = flows.flow_of(world, 1)
    for edge_id in ("e1", "e2"):
        flows.apply(world, keys, edge_id)
    flows.resolve(world, keys, "e1", "failed")
    return flows.replay_skipped(world, keys, "e1", "e2")


CALLS: dict[str, Callable[[World], Any]] = {
    "ff_version": lambda world: world.call("ff_version", [], []),
    "ff_renew_lease": lambda world: holders.renew(world, claim(world)),
    "ff_mark_lease_expired_if_due": renew_outdated,
    "ff_revoke_lease": revoke,
    "ff_create_execution": lambda world: call_create(
        world,
        keys := new_keys(),
        idempotency=keys.partition.idempotency("ns", "key"),
        policy='{"routing_requirements":{"required_capabilities":["gpu"]}}',
        delay_until=FAR_MS,
        dedup_ttl_ms="60000",
        tags='{"team":"a"}',
        execution_deadline=FAR_MS,
    ),
    "ff_claim_execution": lambda world: call_claim(
        world, claimable(world), attempt_policy='{"a":1}', attempt_timeout_ms="60000", execution_deadline=FAR_MS
    ),
    "ff_claim_resumed_execution": lambda world: call_claim_resumed(
        world, resumable(world), attempt_timeout_ms="60000"
    ),
    "ff_complete_execution": lambda world: holders.complete(world, claim(world), result="out"),
    "ff_cancel_execution": lambda world: holders.cancel(world, claim(world).keys),
    "ff_fail_execution": lambda world: holders.fail(world, claim(world), {"max_retries": 3}),
    "ff_delay_execution": lambda world: holders.delay(world, claim(world)),
    "ff_move_to_waiting_children": lambda world: holders.wait_for_children(world, claim(world)),
    "ff_reclaim_execution": reclaim,
    "ff_expire_execution": lambda world: holders.expire(world, keys := claim(world).keys, keys.id, "attempt_timeout"),
    "ff_issue_claim_grant": lambda world: call_grant(world, create(world), capabilities="gpu"),
    "ff_issue_reclaim_grant": lambda world: call_reclaim_grant(world, reclaimable(world).keys, capabilities="gpu"),
    "ff_change_priority": lambda world: change_priority(world, create(world), "7"),
    "ff_update_progress": lambda world: report(world, claim(world)),
    "ff_promote_delayed": promote_delayed,
    "ff_suspend_execution": suspend,
    "ff_resume_execution": resume,
    "ff_create_pending_waitpoint": create_pending,
    "ff_expire_suspension": expire_suspension,
    "ff_close_waitpoint": close_waitpoint,
    "ff_deliver_signal": deliver,
    "ff_buffer_signal_for_pending_waitpoint": buffer,
    "ff_append_frame": append_frame,
    "ff_read_attempt_stream": read_stream,
    "ff_create_budget": lambda world: budgets.create(world, interval="60000"),
    "ff_report_usage_and_check": report_usage,
    "ff_reset_budget": reset_budget,
    "ff_block_execution_for_admission": lambda world: block(world, create(world)),
    "ff_unblock_execution": lambda world: unblock(world, blocked(world)),
    "ff_create_quota_policy": create_quota,
    "ff_check_admission_and_record": admit,
    "ff_release_admission": release_admission,
    "ff_create_flow": flows.create_flow,
    "ff_add_execution_to_flow": add_to_flow,
    "ff_cancel_flow": cancel_flow,
    "ff_stage_dependency_edge": stage,
    "ff_apply_dependency_to_child": lambda world: flows.apply(world, flows.child(world)),
    "ff_resolve_dependency": resolve,
    "ff_evaluate_flow_eligibility": lambda world: flows.evaluate(world, flows.waiting(world)),
    "ff_promote_blocked_to_eligible": promote_blocked,
    "ff_replay_execution": replay,
}


def is_success(reply: Any) -> bool:
    """Tell whether a reply is no refusal: ``[1, …]``, a version, or a word of admission."""
    return not isinstance(reply, Exception) and (not isinstance(reply, list) or reply[0] != 0)


@dataclass
class CalledError(Exception):
    """What ``before_call`` stops at: the call that would have succeeded."""

    keys: list[str]
    args: list[Arg]


class StoppingWorld(World):
    """A world in which the first call of one function does not take place.

    Attributes:
        function: the one.
    """

    def __init__(self, world: World, function: str) -> None:
        super().__init__(world.redis)
        self.function = function

    def call(self, function: str, keys: list[str], args: list[Arg]) -> Any:
        if function == self.function:
            raise CalledError(keys, args)
        return super().call(function, keys, args)


def before_call(world: World, function: str) -> tuple[list[str], list[Arg]]:
    """Bring about the state in which a function succeeds; return the keys and arguments of that call."""
    try:
        CALLS[function](StoppingWorld(world, function))
    except CalledError as call:
        return call.keys, call.args
    raise AssertionError(f"{function} was not called")
