"""Random lives of executions on a real server: each reply is predicted, and the keyspace looked at after each call.

The server's clock cannot be moved, so a lease runs out because its stored end is moved into the past, as if time had
passed; delays and timeouts are passed over by calls that say it is later. CI runs a fixed set of lives;
``FFSUPER_LONG=1 pytest tests/lua/test_machine.py`` looks for new ones, many of them.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from ffsuper.messages import ExecutionId
from ffsuper.store.keys import ExecutionKeys
from tests.lua import by_name, flows
from tests.lua.executions import POOL, TTL_MS, WORKER
from tests.lua.invariants import Watch
from tests.lua.life import HELD, INDEX, OK, Fence, Life
from tests.lua.suspensions import FAR_MS, SECRET, put
from tests.lua.world import Arg, World

NEVER = 2**62
BEHAVIORS = {
    "fail": "failed",
    "cancel": "cancelled",
    "expire": "expired",
    "auto_resume": "waiting",
    "escalate": "suspended",
}
SIGNALS = ("a", "b")
MAX_REPLAYS = 10
MOST_LIVES = 4


# Which execution a step is for: a number, and whether it should be in a state in which the step succeeds.
Pick = tuple[int, bool]
PICK = st.tuples(st.integers(0, MOST_LIVES - 1), st.sampled_from([True, True, True, True, False]))


class Lives(RuleBasedStateMachine):
    """Some executions, one flow, and all that can happen to them."""

    def __init__(self, world: World, seen: Counter[str]) -> None:
        super().__init__()
        self.world = world
        self.seen = seen
        self.ids = 0
        self.all: list[Life] = []
        self.edges: dict[str, tuple[Life, Life]] = {}
        self.watch = Watch(world)

    @initialize()
    def empty(self) -> None:
        self.world.redis.flushall()
        self.world.command("HSET", "ff:sec:{fp:7}:waitpoint_hmac", "current_kid", "k1", "secret:k1", SECRET)
        assert flows.create_flow(self.world)[:2] == OK
        for number in range(3):
            self.create(delayed=False, deadline=number > 0, max_retries=number, max_reclaims=number, priority=number)

    @invariant()
    def the_keyspace_is_as_the_model_says(self) -> None:
        self.watch.check(self.all)

    def call(self, function: str, life: Life, **args: Arg) -> Any:
        """Call a function for an execution, with the keys that a caller would build who has read its record."""
        return self.call_with({}, function, life, **args)

    def call_with(self, other_keys: dict[str, str], function: str, life: Life, **args: Arg) -> Any:
        waitpoint_id = str(args.get("waitpoint_id", life.waitpoint_id or "none"))
        edge_id = str(args.get("edge_id", "none"))
        keys = by_name.keys_of(life.keys, WORKER, max(life.attempts - 1, 0), waitpoint_id, edge_id) | other_keys
        known = {row.name for row in by_name.HEADERS[function].args}
        reply = by_name.call(
            self.world, function, keys, {"execution_id": life.keys.id} | args if "execution_id" in known else args
        )
        self.seen[f"{function} {reply[1]}"] += 1
        return reply

    def fence_of(self, life: Life, age: int) -> Fence:
        """Return the latest lease, or an older one, or one that never was."""
        return life.fences[-1 - age] if age < len(life.fences) else Fence("none", 0, "none", 0)

    def holds(self, function: str, life: Life, fence: Fence, *, marks: bool = True, **args: Arg) -> Any:
        """Make a holder's call; None when it is refused as predicted."""
        refusal = life.refusal(fence, marks=marks)
        known = {row.name for row in by_name.HEADERS[function].args}
        fenced: dict[str, Arg] = {
            "lease_id": fence.lease_id,
            "lease_epoch": fence.epoch,
            "attempt_id": fence.attempt_id,
            "attempt_index": fence.index,
        }
        args = {name: value for name, value in fenced.items() if name in known} | args
        reply = self.call(function, life, **args)
        if refusal is not None:
            assert reply == refusal
            return None
        assert reply[0] == 1, reply
        return reply

    # --- beginnings ---------------------------------------------------------------------------------------------

    def new_id(self) -> str:
        """Return an id that is the same whenever the same steps are taken."""
        self.ids += 1
        return f"{self.ids:08}-0000-4000-8000-000000000000"

    def one(self, pick: Pick, *states: str) -> Life:
        """Return an execution; one in these states if the pick says so, led there if there is none."""
        number, right = pick
        if right:
            self.lead(states[number % len(states)])
        fit = [life for life in self.all if life.state in states] if right else []
        chosen = fit or self.all
        return chosen[number % len(chosen)]

    def lead(self, state: str) -> None:
        """Bring an execution into a state, if there is a way: hypothesis leaves out some rules of each run."""
        if any(life.state == state for life in self.all):
            return
        ways = WAYS.get(state, BACK)
        if state in WAYS:
            self.lead(*ways)
        for position, life in enumerate(self.all):
            if life.state in ways:
                ways[life.state](self, (position, False))
                return

    @precondition(lambda self: len(self.all) < MOST_LIVES)
    @rule(
        delayed=st.sampled_from([False, False, True]),
        deadline=st.booleans(),
        max_retries=st.integers(0, 2),
        max_reclaims=st.integers(0, 2),
        priority=st.integers(-1, 3),
    )
    def create(self, delayed: bool, deadline: bool, max_retries: int, max_reclaims: int, priority: int) -> None:
        keys = ExecutionKeys.of(ExecutionId(f"{{fp:7}}:{self.new_id()}"))
        life = Life(keys, max_retries, max_reclaims, "delayed" if delayed else "eligible", has_deadline=deadline)
        args: dict[str, Arg] = {
            "lane_id": by_name.LANE,
            "priority": priority,
            "policy": json.dumps({"max_reclaim_count": max_reclaims}),
            "delay_until": FAR_MS if delayed else "",
            "execution_deadline": FAR_MS if deadline else "",
            "tags": "{}",
        }
        index = {"lane_index": keys.partition.lane(by_name.LANE, life.state)}
        reply = self.call_with(index, "ff_create_execution", life, **args)
        assert reply == [*OK, keys.id, "delayed" if delayed else "waiting"]
        assert self.call_with(index, "ff_create_execution", life, **args) == [1, "DUPLICATE", keys.id]
        self.all.append(life)

    @rule(pick=PICK, asks_for_resumed=st.sampled_from([None, None, None, False, True]), timeout=st.booleans())
    def claim(self, pick: Pick, asks_for_resumed: bool | None, timeout: bool) -> None:
        """Grant and claim; by the wrong one of the two functions first, if so asked."""
        life = self.one(pick, "eligible")
        granted = self.call("ff_issue_claim_grant", life, worker_id=POOL, grant_ttl_ms=60_000)
        if life.state != "eligible":
            assert granted == [0, "execution_not_eligible"]
            return
        assert granted == [*OK, life.keys.id]
        if asks_for_resumed is not None and asks_for_resumed != life.interrupted:
            code = "not_a_resumed_execution" if asks_for_resumed else "use_claim_resumed_execution"
            assert self.take(life, asks_for_resumed, POOL) == [0, code]
        assert self.take(life, life.interrupted, "another") == [0, "invalid_claim_grant"]
        fence, kind = Fence(self.new_id(), life.epoch + 1, self.new_id(), life.attempts), life.next_type
        if life.interrupted:
            latest = life.fences[-1]
            fence, kind = Fence(fence.lease_id, fence.epoch, latest.attempt_id, latest.index), "resumed"
        reply = self.take(life, life.interrupted, POOL, fence, attempt_timeout_ms=9_000_000 if timeout else "")
        assert (reply[:4], reply[5:]) == (
            [*OK, fence.lease_id, str(fence.epoch)],
            [fence.attempt_id, str(fence.index), kind],
        )
        life.runs(fence)
        life.has_timeout = timeout
        self.seen[f"begins {kind}"] += 1

    def take(self, life: Life, resumed: bool, worker_id: str, fence: Fence | None = None, **args: Arg) -> Any:
        function = "ff_claim_resumed_execution" if resumed else "ff_claim_execution"
        values: dict[str, Arg] = {"lease_id": fence.lease_id if fence else "x", "lease_ttl_ms": TTL_MS}
        if not resumed:
            values |= {"attempt_id": fence.attempt_id if fence else "x", "renew_before_ms": 20_000}
        identity = {"worker_id": worker_id, "worker_instance_id": WORKER, "lane_id": by_name.LANE}
        return self.call(function, life, **values, **identity, **args)

    @rule(pick=PICK)
    def promote(self, pick: Pick) -> None:
        life = self.one(pick, "delayed")
        reply = self.call("ff_promote_delayed", life, now_ms=NEVER)
        if life.state == "delayed":
            assert reply == [*OK, "promoted"]
            life.state = "eligible"
        else:
            assert reply[:2] == OK
            assert reply[2].endswith("_cleaned")

    @rule(pick=PICK, priority=st.integers(-1, 9001))
    def change_priority(self, pick: Pick, priority: int) -> None:
        life = self.one(pick, "eligible")
        reply = self.call("ff_change_priority", life, new_priority=priority)
        assert (reply[:2] == OK) if life.state == "eligible" else (reply == [0, "execution_not_eligible"])

    @rule(pick=PICK)
    def block(self, pick: Pick) -> None:
        life = self.one(pick, "eligible")
        reply = (
            self.call_with(
                {"blocked": life.keys.partition.lane(by_name.LANE, "blocked:budget")},
                "ff_block_execution_for_admission",
                life,
                blocking_reason="waiting_for_budget",
                now_ms=5,
            )
            if life.state in ("eligible", "terminal", *HELD)
            else None
        )
        if life.state == "eligible":
            assert reply == [*OK, "blocked"]
            life.state = "budget"
        elif reply:
            assert reply == (life.not_active() if life.state == "terminal" else [0, "execution_not_eligible"])

    @rule(pick=PICK)
    def unblock(self, pick: Pick) -> None:
        life = self.one(pick, "budget")
        index = {"blocked": life.keys.partition.lane(by_name.LANE, "blocked:budget")}
        reply = self.call_with(index, "ff_unblock_execution", life, now_ms=5)
        assert reply == ([*OK, "unblocked"] if life.state == "budget" else [0, "execution_not_eligible"])
        life.state = "eligible" if life.state == "budget" else life.state

    # --- what a holder does -------------------------------------------------------------------------------------

    @rule(pick=PICK, age=st.sampled_from([0, 0, 0, 1, 2]))
    def renew(self, pick: Pick, age: int) -> None:
        life = self.one(pick, "held")
        self.holds(
            "ff_renew_lease", life, self.fence_of(life, age), lease_ttl_ms=TTL_MS, lease_history_grace_ms=5_000
        )

    @rule(pick=PICK, age=st.sampled_from([0, 0, 0, 1]))
    def progress(self, pick: Pick, age: int) -> None:
        life = self.one(pick, "held")
        fence = self.fence_of(life, age)
        if fence.attempt_id == self.fence_of(life, 0).attempt_id or not age:
            self.holds("ff_update_progress", life, fence, marks=False, progress_pct=5)

    @rule(pick=PICK)
    def append_frame(self, pick: Pick) -> None:
        life = self.one(pick, "held")
        fence = self.fence_of(life, 0)
        fenced: dict[str, Arg] = {"lease_id": fence.lease_id, "lease_epoch": fence.epoch}
        limits: dict[str, Arg] = {"retention_maxlen": 9, "max_payload_bytes": 99}
        reply = self.call("ff_append_frame", life, **fenced, attempt_index=fence.index, frame_type="t", **limits)
        if life.state == "held":
            assert reply[:2] == OK
        else:
            assert reply == [0, "stale_owner_cannot_append" if life.state in HELD else "stream_closed"]

    @rule(pick=PICK, age=st.sampled_from([0, 0, 0, 1]))
    def complete(self, pick: Pick, age: int) -> None:
        life = self.one(pick, "held")
        if self.holds("ff_complete_execution", life, self.fence_of(life, age), result="done") == [*OK, "completed"]:
            life.end("success")

    @rule(pick=PICK, age=st.sampled_from([0, 0, 0, 1]))
    def fail(self, pick: Pick, age: int) -> None:
        life = self.one(pick, "held")
        policy = {"max_retries": life.max_retries, "backoff": {"type": "fixed", "delay_ms": 3_600_000}}
        fence = self.fence_of(life, age)
        reply = self.holds("ff_fail_execution", life, fence, failure_reason="no", retry_policy=json.dumps(policy))
        if reply is None:
            return
        if life.retries < life.max_retries:
            assert reply[2] == "retry_scheduled"
            life.release("delayed", interrupted=False)
            life.retries += 1
            life.next_type = "retry"
        else:
            assert reply == [*OK, "terminal_failed"]
            life.end("failed")

    @rule(pick=PICK, age=st.sampled_from([0, 0, 0, 1]))
    def delay(self, pick: Pick, age: int) -> None:
        life = self.one(pick, "held")
        if self.holds("ff_delay_execution", life, self.fence_of(life, age), delay_until=FAR_MS):
            life.release("delayed", interrupted=True)

    @rule(pick=PICK, age=st.sampled_from([0, 0, 0, 1]))
    def wait_for_children(self, pick: Pick, age: int) -> None:
        life = self.one(pick, "held")
        if self.holds("ff_move_to_waiting_children", life, self.fence_of(life, age)):
            life.release("dependencies", interrupted=True)

    # --- the loss of a lease ------------------------------------------------------------------------------------

    @rule(pick=PICK)
    @precondition(lambda self: any(life.state == "held" for life in self.all))
    def run_out(self, pick: Pick) -> None:
        """Let the lease's time pass: its end is moved into the past."""
        life = self.one(pick, "held")
        if life.state == "held":
            put(self.world, life.keys.core, lease_expires_at=1)
            self.world.redis.zadd(life.keys.partition.index("lease_expiry"), {life.keys.id: 1})
            life.state = "outdated"

    @rule(pick=PICK)
    def mark(self, pick: Pick) -> None:
        life = self.one(pick, "outdated")
        answers = {"held": "not_yet_expired", "expired": "already_expired", "revoked": "already_revoked"}
        reply = self.call("ff_mark_lease_expired_if_due", life)
        if life.state == "outdated":
            assert reply == [*OK, "marked_expired"]
            life.state = "expired"
        else:
            assert reply == [1, "ALREADY_SATISFIED", answers.get(life.state, "not_active")]

    @rule(pick=PICK)
    def revoke(self, pick: Pick) -> None:
        life = self.one(pick, "held", "outdated")
        reply = self.call("ff_revoke_lease", life, reason="operator")
        if life.state in ("held", "outdated"):
            assert reply == [*OK, "revoked", life.fences[-1].lease_id, str(life.epoch)]
            life.state = "revoked"
        elif life.state in ("expired", "revoked"):
            assert reply == [1, "ALREADY_SATISFIED", f"already_{life.state}"]
        else:
            assert reply == life.not_active()

    @rule(pick=PICK)
    def reclaim(self, pick: Pick) -> None:
        life = self.one(pick, "expired", "revoked")
        granted = self.call("ff_issue_reclaim_grant", life, worker_id=POOL, grant_ttl_ms=60_000)
        if life.state not in ("expired", "revoked"):
            assert granted == [0, "execution_not_reclaimable"]
            return
        assert granted == [*OK, life.keys.id]
        fence = Fence(self.new_id(), life.epoch + 1, self.new_id(), life.attempts)
        ids: dict[str, Arg] = {"lease_id": fence.lease_id, "attempt_id": fence.attempt_id, "lease_ttl_ms": TTL_MS}
        identity: dict[str, Arg] = {"worker_id": POOL, "worker_instance_id": WORKER, "lane_id": by_name.LANE}
        reply = self.call("ff_reclaim_execution", life, **ids, **identity)
        if life.reclaims >= life.max_reclaims:
            assert reply == [0, "max_retries_exhausted"]
            self.world.redis.delete(life.keys.part("claim_grant"))  # it would lapse by itself
            life.end("failed")
            return
        assert reply[:2] == OK
        assert reply[3] == str(fence.epoch)
        assert reply[6:] == [str(fence.index), "reclaim"]
        life.reclaims += 1
        life.has_timeout = False
        life.runs(fence)

    # --- suspensions --------------------------------------------------------------------------------------------

    @rule(
        pick=PICK,
        age=st.sampled_from([0, 0, 0, 1]),
        behavior=st.sampled_from(["", *BEHAVIORS]),
        uses_pending=st.booleans(),
    )
    def suspend(self, pick: Pick, age: int, behavior: str, uses_pending: bool) -> None:
        """Wait for signal ``a``; with a behaviour, until a time that is past already."""
        life = self.one(pick, "held")
        activates = uses_pending and life.pending_id != ""
        waitpoint_id = life.pending_id if activates else self.new_id()
        condition = json.dumps({"required_signal_names": ["a"]})
        reply = (
            self.holds(
                "ff_suspend_execution",
                life,
                self.fence_of(life, age),
                suspension_id=self.new_id(),
                waitpoint_id=waitpoint_id,
                waitpoint_key="key",
                reason_code="waiting_for_signal",
                requested_by="worker",
                timeout_at=5 if behavior else "",
                timeout_behavior=behavior or "fail",
                resume_condition_json=condition,
                resume_policy_json="{}",
                use_pending_waitpoint="1" if activates else "",
                lease_history_maxlen=1000,
            )
            if not activates or life.pending_attempt == self.fence_of(life, age).index
            else None
        )
        if reply is None:
            return
        satisfied = activates and "a" in life.buffered
        assert reply[1] == ("ALREADY_SATISFIED" if satisfied else "OK")
        life.waitpoint_id, life.token = reply[3], reply[5]
        if activates:
            life.pending_id, life.buffered = "", []
        life.is_waitpoint_open = not satisfied
        if satisfied:
            self.seen["satisfied at once"] += 1
            return
        life.release("suspended", interrupted=True)
        self.watch.behavior[life.keys.id] = behavior

    @rule(pick=PICK)
    def create_pending(self, pick: Pick) -> None:
        life = self.one(pick, "held")
        fence, waitpoint_id = self.fence_of(life, 0), self.new_id()
        reply = (
            self.call(
                "ff_create_pending_waitpoint",
                life,
                attempt_index=fence.index,
                waitpoint_id=waitpoint_id,
                waitpoint_key="key",
                expires_at=FAR_MS,
            )
            if not life.pending_id
            else None
        )
        if reply is None:
            return
        if life.state in ("held", "outdated"):
            assert reply[:4] == [*OK, waitpoint_id, "key"]
            life.pending_id, life.pending_attempt, life.buffered = waitpoint_id, fence.index, []
            life.pending_token = reply[4]
        else:
            assert reply == ([0, "no_active_lease"] if life.state in HELD else life.not_active())

    @rule(pick=PICK, name=st.sampled_from(SIGNALS))
    def buffer(self, pick: Pick, name: str) -> None:
        life = self.one(pick, "held")
        if life.pending_id:
            reply = self.signal(
                "ff_buffer_signal_for_pending_waitpoint", life, life.pending_id, life.pending_token, name
            )
            assert reply[2:] == [reply[2], "buffered_for_pending_waitpoint"]
            life.buffered.append(name)

    @rule(pick=PICK, name=st.sampled_from(SIGNALS))
    def suspend_on_pending(self, pick: Pick, name: str) -> None:
        """Hand a waitpoint out, get a signal there, and only then wait for one."""
        held = self.one(pick, "held")
        position = (self.all.index(held), False)
        self.create_pending(position)
        self.buffer(position, name)
        self.suspend(position, 0, "", uses_pending=True)

    @rule(pick=PICK, name=st.sampled_from(SIGNALS), forged=st.sampled_from([False, False, True]))
    def deliver(self, pick: Pick, name: str, forged: bool) -> None:
        life = self.one(pick, "suspended")
        if not life.waitpoint_id:
            return
        token = f"k1:{'0' * 40}" if forged else life.token
        reply = self.signal("ff_deliver_signal", life, life.waitpoint_id, token, name)
        if forged:
            assert reply == [0, "invalid_token"]
        elif life.state == "terminal" or (life.state != "suspended" and not life.is_waitpoint_open):
            assert reply == [0, "target_not_signalable"]
        elif name == "b":
            assert reply[3] == "no_op"
        else:
            assert reply[3] == "resume_condition_satisfied"
            life.is_waitpoint_open = False
            life.state = "eligible" if life.state == "suspended" else life.state

    def signal(self, function: str, life: Life, waitpoint_id: str, token: str, name: str) -> Any:
        signal_id = self.new_id()
        keys = {"signal": life.keys.signal(signal_id), "signal_payload": life.keys.signal(signal_id, "payload")}
        limits: dict[str, Arg] = {"signal_maxlen": 1000, "max_signals_per_execution": 10_000}
        ids: dict[str, Arg] = {"signal_id": signal_id, "waitpoint_id": waitpoint_id, "signal_name": name}
        return self.call_with(keys, function, life, **ids, **limits, waitpoint_token=token, resume_delay_ms=0)

    @rule(pick=PICK)
    def resume(self, pick: Pick) -> None:
        life = self.one(pick, "suspended")
        reply = self.call("ff_resume_execution", life, trigger_type="operator", resume_delay_ms=0)
        if life.state == "suspended":
            assert reply == [*OK, "waiting"]
            life.state, life.is_waitpoint_open = "eligible", False
        else:
            assert reply == [0, "execution_not_suspended"]

    @rule(pick=PICK)
    def time_out(self, pick: Pick) -> None:
        life = self.one(pick, "suspended")
        reply = self.call("ff_expire_suspension", life)
        behavior = self.watch.behavior.get(life.keys.id, "")
        if life.state != "suspended":
            assert reply == [*OK, "not_suspended_cleaned"]
        elif not behavior:
            assert reply[:2] == OK
            assert reply[2] == "not_yet_due"
        else:
            assert reply == [*OK, behavior, BEHAVIORS[behavior]]
            self.watch.behavior[life.keys.id] = ""
            life.is_waitpoint_open = behavior == "escalate"
            if behavior == "auto_resume":
                life.state = "eligible"
            elif behavior != "escalate":
                life.end(BEHAVIORS[behavior], keeps_deadline=True)

    # --- ends ---------------------------------------------------------------------------------------------------

    @rule(pick=PICK)
    def cancel(self, pick: Pick) -> None:
        life = self.one(pick, "suspended", "delayed", "budget", "dependencies")
        phase = life.phase
        worker = {"reason": "no", "source": "operator_override"}
        reply = self.call("ff_cancel_execution", life, **worker)
        if phase == "terminal":
            assert reply == life.not_active()
        else:
            assert reply == [*OK, "cancelled", phase]
            life.is_waitpoint_open &= phase != "suspended"
            life.end("cancelled")

    @rule(pick=PICK)
    def expire(self, pick: Pick) -> None:
        life = self.one(pick, "suspended", "held")
        phase = life.phase
        reply = self.call("ff_expire_execution", life, reason="execution_deadline")
        life.has_deadline = life.has_timeout = False
        if phase == "terminal":
            assert reply == [*OK, "already_terminal"]
        else:
            assert reply == [*OK, "expired", phase]
            life.end("expired")

    @rule(pick=PICK)
    def replay(self, pick: Pick) -> None:
        life = self.one(pick, "terminal")
        is_skipped = life.outcome == "skipped"
        edges = sorted(life.open_edges | life.impossible) if is_skipped else []
        keys = flows.replay_keys(life.keys, *edges)
        reply = self.world.call("ff_replay_execution", keys, [life.keys.id, "5", *edges])
        self.seen[f"ff_replay_execution {reply[1]}"] += 1
        if life.state != "terminal":
            assert reply == [0, "execution_not_terminal"]
        elif life.replays >= MAX_REPLAYS:
            assert reply == [0, "max_replays_exhausted"]
        else:
            if is_skipped:
                life.open_edges |= life.impossible
                life.impossible, life.open_count = set(), len(edges)
            assert reply == [*OK, str(len(edges))]
            life.state, life.interrupted = "dependencies" if is_skipped and life.open_edges else "eligible", False
            life.outcome, life.next_type = "none", "replay"
            life.replays += 1

    # --- flows --------------------------------------------------------------------------------------------------

    @rule(pick=PICK)
    def join_flow(self, pick: Pick) -> None:
        life = self.one(pick, "eligible", "terminal")
        reply = flows.add(self.world, life.keys)
        count = sum(one.in_flow for one in self.all)
        if life.in_flow:
            assert reply == [1, "ALREADY_SATISFIED", life.keys.id, str(count)]
        else:
            assert reply == [*OK, life.keys.id, str(count + 1)]
            life.in_flow = True

    @rule(above=PICK, below=PICK)
    def stage_and_apply(self, above: Pick, below: Pick) -> None:
        """Add an edge to the graph and, where the engine would, give it to the child."""
        upstream, downstream = self.one(above, *INDEX), self.one(below, "eligible", "held")
        for life, (_, right) in ((upstream, above), (downstream, below)):
            if right and not life.in_flow:
                self.join_flow((self.all.index(life), False))
        edge_id = self.new_id()
        reply = flows.stage(self.world, upstream.keys, downstream.keys, edge_id=edge_id)
        self.seen[f"stage {reply[1]}"] += 1
        if upstream is downstream:
            assert reply == [0, "self_referencing_edge"]
        elif not (upstream.in_flow and downstream.in_flow):
            assert reply == [0, "execution_not_in_flow"]
        elif self.leads(downstream, upstream):
            assert reply == [0, "cycle_detected"]
        else:
            assert reply[:3] == [*OK, edge_id]
            self.edges[edge_id] = (upstream, downstream)
            if downstream.state in ("eligible", "dependencies", *HELD):
                self.apply(edge_id, downstream)

    def apply(self, edge_id: str, child: Life) -> None:
        reply = flows.apply(self.world, child.keys, edge_id)
        child.open_edges.add(edge_id)
        child.open_count += 1
        assert reply == [*OK, str(child.open_count)]
        assert flows.apply(self.world, child.keys, edge_id) == [*OK, "already_applied"]
        if child.state == "eligible":
            child.state = "dependencies"
            # The record says what it waits for; what it was before (a retry, a replay) is kept.

    def leads(self, start: Life, goal: Life) -> bool:
        """Tell whether there is a way through the graph."""
        found = [start]
        for life in found:
            found += [below for above, below in self.edges.values() if above is life and below not in found]
        return goal in found

    @rule(number=st.integers(0, 9), outcome=st.sampled_from(["success", "failed"]))
    def resolve(self, number: int, outcome: str) -> None:
        """Tell a child how the upstream of an edge has ended, as its engine does in the states that skip cleanly."""
        if not any(life.open_edges for life in self.all):
            self.stage_and_apply((number, True), (number + 1, True))
        open_edges = sorted(
            (edge_id, position) for position, life in enumerate(self.all) for edge_id in life.open_edges
        )
        if not open_edges:
            return
        edge_id, position = open_edges[number % len(open_edges)]
        child = self.all[position]
        if outcome != "success" and child.state in ("held", "delayed"):
            self.come_back((position, False))
        if outcome != "success" and child.state not in ("eligible", "dependencies", "terminal"):
            return
        reply = flows.resolve(self.world, child.keys, edge_id, outcome)
        child.open_edges.discard(edge_id)
        child.open_count -= 1
        if outcome == "success":
            assert reply == [*OK, "satisfied", ""]
            if (child.open_count == 0 or not child.open_edges) and child.state == "dependencies":
                child.state = "eligible"
                self.seen["released"] += 1
        else:
            child.impossible.add(edge_id)
            assert reply == [*OK, "impossible", "" if child.state == "terminal" else "child_skipped"]
            if child.state != "terminal":
                self.seen[f"skipped {child.state}"] += 1
                child.end("skipped", keeps_deadline=True)
        assert flows.resolve(self.world, child.keys, edge_id, outcome) == [*OK, "already_resolved"]

    def come_back(self, pick: Pick) -> None:
        """Bring a child that runs, or waits for its retry, among the eligible ones, with its edges open."""
        if self.one(pick).state == "held":
            self.fail(pick, 0)
        if self.one(pick).state == "delayed":
            self.promote(pick)

    @rule(pick=PICK)
    def promote_blocked(self, pick: Pick) -> None:
        life = self.one(pick, "dependencies")
        reply = flows.promote_blocked(self.world, life.keys)
        if life.phase != "runnable":
            assert reply == [0, "not_runnable"]
        elif life.state != "dependencies":
            assert reply == [0, "not_blocked_by_deps"]
        elif life.open_count > 0 or life.open_edges:
            assert reply == [0, "deps_not_satisfied", str(life.open_count), str(len(life.open_edges))]
        else:
            assert reply == OK
            life.state = "eligible"


Act = Callable[[Lives, Pick], None]
# How to get from one state into another ...
WAYS: dict[str, dict[str, Act]] = {
    "held": {"eligible": lambda lives, pick: lives.claim(pick, None, timeout=False)},
    "outdated": {"held": Lives.run_out},
    "expired": {"outdated": Lives.mark},
    "suspended": {"held": lambda lives, pick: lives.suspend(pick, 0, "", uses_pending=False)},
    "delayed": {"held": lambda lives, pick: lives.delay(pick, 0)},
    "budget": {"eligible": Lives.block},
    "terminal": {"held": lambda lives, pick: lives.complete(pick, 0)},
}
# ... and how what waits becomes eligible again.
BACK: dict[str, Act] = {
    "delayed": Lives.promote,
    "suspended": Lives.resume,
    "budget": Lives.unblock,
    "dependencies": Lives.promote_blocked,
    "terminal": Lives.replay,
}


def run(make: Any, short: int, long: int, steps: int) -> None:
    """Run a machine: the same lives each time, or with FFSUPER_LONG many new ones."""
    is_long = bool(os.environ.get("FFSUPER_LONG"))
    chosen = settings(
        max_examples=long if is_long else short,
        stateful_step_count=steps,
        derandomize=not is_long,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(make, settings=chosen)


@pytest.fixture
def seen() -> Counter[str]:
    return Counter()


EXPECTED = {
    *("begins initial", "begins retry", "begins replay", "begins resumed", "satisfied at once", "released"),
    *("skipped dependencies", "skipped eligible"),
    *("ff_reclaim_execution OK", "ff_reclaim_execution max_retries_exhausted", "ff_renew_lease stale_lease"),
    *("ff_complete_execution lease_expired", "ff_complete_execution lease_revoked", "stage cycle_detected"),
    *("ff_expire_suspension OK", "ff_replay_execution OK", "ff_deliver_signal OK", "ff_deliver_signal invalid_token"),
}


def test_random_lives_go_as_the_protocol_says(world: World, seen: Counter[str]) -> None:
    run(lambda: Lives(world, seen), short=150, long=4_000, steps=60)
    missing = EXPECTED - seen.keys()
    assert not missing, f"the lives were too dull: {missing} never happened"
